"""``gro doctor``, ``bench``, ``reproduce`` and ``frontier``: what this machine can do, and what experiments found."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from gro import bench as benchmark
from gro.cli.doctor import diagnose
from gro.cli.output import percent, show
from gro.cli.settings import Output
from gro.config import ReproduceCommand
from gro.experiments import card, plot, run, table
from gro.experiments.frontier import frontier as played


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
    """Run an experiment's card, write its table and draw its pictures."""
    command = ReproduceCommand.make(settings)
    experiment = card.read(command.card)
    results = command.results / f"{experiment.name}.json"
    beside = [run.load(command.results / f"{card.read(each).name}.json") for each in command.beside]
    if not command.plot_only:
        where: dict[str, Any] = {"data_path": command.data_path, "device": command.device}
        run.run(experiment, command.runs, command.results, report=partial(_row, output), **where)
    return _written(results, output, beside)


def frontier(settings: Mapping[str, Any], output: Output) -> int:
    """Play a suite against every defence of a plain target, write the table and draw the frontier."""
    return _written(played(partial(_row, output), **settings).path / "frontier.json", output)


def _written(results: Path, output: Output, beside: Sequence[Mapping[str, Any]] = ()) -> int:
    written = [results, table.write(results), *plot.draw(results, beside)]
    report = {"results": str(results), "table": str(written[1]), "plots": [str(path) for path in written[2:]]}
    return show(output, report, "written", ("",), [(str(path),) for path in written])


def _row(output: Output, row: Mapping[str, Any]) -> None:
    if not output.quiet:
        where = f"{row['dataset']}, {row['model']}, {row['target']}, seed {row['seed']}, {row['thief']}"
        figures = f"{percent(row['utility']['ndcg@10'])} %, copy {percent(row['surrogate']['ndcg@10'])} %"
        sys.stderr.write(f"{where}: NDCG@10 of target {figures}, advantage {percent(row['access_advantage'])} %\n")
        sys.stderr.flush()


def _announce(output: Output, name: str, measured: Mapping[str, Any]) -> None:
    if not output.quiet:
        sys.stderr.write(f"{name}: ratio {measured['ratio']:.4g}\n")
        sys.stderr.flush()
