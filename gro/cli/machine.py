"""``gro doctor`` and ``gro bench``: what this machine can do, and how fast."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from gro import bench as benchmark
from gro.cli.doctor import diagnose
from gro.cli.output import percent, show
from gro.cli.settings import Output
from gro.config import ReproduceCommand
from gro.experiments import plot, tradeoff


def doctor(settings: Mapping[str, Any], output: Output) -> int:
    """Print what :func:`gro.cli.doctor.diagnose` finds; return 1 where something that is needed is missing."""
    checks = diagnose()
    bad = [check.name for check in checks if not check.ok]
    report = {"ok": not bad, "checks": [asdict(check) for check in checks]}
    rows = [(check.name, "ok" if check.ok else "MISSING", check.detail, check.remedy) for check in checks]
    verdict = f"wanting: {', '.join(bad)}" if bad else "everything that is needed is here"
    show(output, report, verdict, ("check", "", "found", "to do"), rows)
    return int(bool(bad))


def bench(settings: Mapping[str, Any], output: Output) -> int:
    """Print what :func:`gro.bench.run` measures."""
    report = benchmark.run(lambda name, measured: _announce(output, name, measured))
    rows = [
        (name, *(f"{measured[key]:.4g}" for key in ("ratio", "ours", "theirs"))) for name, measured in report.items()
    ]
    return show(output, report, "both sides measured in this run", ("", "ratio", "ours", "theirs"), rows)


def reproduce(settings: Mapping[str, Any], output: Output) -> int:
    """Run an experiment's card and draw its plot."""
    command = ReproduceCommand.make(settings)
    name, _ = tradeoff.read(command.card)
    results = command.results / f"{name}.json"
    if not command.plot_only:
        where = {"data_path": command.data_path, "device": command.device}
        results = tradeoff.run(command.card, command.runs, command.results, report=partial(_row, output), **where)
    picture = plot.tradeoff(results)
    report = {"results": str(results), "plot": str(picture)}
    return show(output, report, "written", ("", ""), list(report.items()))


def _row(output: Output, row: Mapping[str, Any]) -> None:
    if not output.quiet:
        figures = f"target {percent(row['target_ndcg@10'])} %, copy {percent(row['surrogate_ndcg@10'])} %"
        sys.stderr.write(f"{row['target']}, seed {row['seed']}, {row['thief']}: NDCG@10 of {figures}\n")
        sys.stderr.flush()


def _announce(output: Output, name: str, measured: Mapping[str, Any]) -> None:
    if not output.quiet:
        sys.stderr.write(f"{name}: ratio {measured['ratio']:.4g}\n")
        sys.stderr.flush()
