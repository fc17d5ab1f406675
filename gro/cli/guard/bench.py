"""``gro guard bench``: the guard's speed, memory and staying power as a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gro.bench.guard import run
from gro.cli.guard.settings import BenchCommand
from gro.cli.output import ABSENT, show
from gro.cli.settings import Output
from gro.errors import ConfigError
from gro.provenance import here_and_now, versions

COLUMNS: Final = ("", "plain", "slowapi", "guard", "guard / slowapi")
Row = tuple[str, str, str, str, str]


def bench(settings: Mapping[str, Any], output: Output) -> int:
    """Print what :func:`gro.bench.guard.run` measures, and write it where it is to be kept."""
    command = BenchCommand.make(settings)
    if command.out is not None and not command.out.parent.is_dir():
        raise ConfigError(f"--out: there is no folder '{command.out.parent}'")

    def tell(line: str) -> None:
        if not output.quiet:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    measured = run(command.seconds, command.accounts, command.minutes, tell)
    report = {**measured, **here_and_now(), "versions": versions() | measured["versions"]}
    if command.out is not None:
        command.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    title = f"{report['date']}, {report['machine']}, {report['cores']} cores; all sides measured in this run"
    rows = [*_load(report["load"]), *_memory(report["memory"]), *_soak(report["soak"])]
    return show(output, report, title, COLUMNS, rows)


def _load(load: Mapping[str, Any]) -> Sequence[Sequence[str]]:
    return [
        _sides("overhead p50, ms", [side["overhead"]["p50"] for side in load.values()]),
        _sides("overhead p99, ms", [side["overhead"]["p99"] for side in load.values()]),
        _sides("answers a second", [side["throughput"] for side in load.values()]),
        ("connections at that load", *(str(side["connections"]) for side in load.values()), ABSENT),
        _sides("latency p50, ms", [side["latency"]["p50"] for side in load.values()]),
        _sides("latency p99, ms", [side["latency"]["p99"] for side in load.values()]),
    ]


def _memory(memory: Mapping[str, Any]) -> Sequence[Row]:
    return [
        _guard(f"memory of {memory['accounts']:,} accounts, GB", f"{memory['bytes'] / 1e9:.3g}"),
        _guard("bytes an account", f"{memory['per_account']:,.0f}"),
        _guard("bytes of limits at their fullest", f"{memory['limits_when_fullest']:,.0f}"),
    ]


def _soak(soak: Mapping[str, Any]) -> Sequence[Row]:
    memory, end = soak["memory"], soak["end"]
    low, high = memory["interval"]
    return [
        _guard(f"memory after {soak['seconds'] / 60:g} minutes, MB", f"{memory['first']:.1f} to {memory['last']:.1f}"),
        _guard("growth, MB an hour", f"{memory['slope']:.1f} [{low:.1f}, {high:.1f}]"),
        _guard("file descriptors", _range(soak["descriptors"])),
        _guard("threads", _range(soak["threads"])),
        _guard("answered of those taken at SIGTERM", f"{end['answered']:,} of {end['taken']:,}"),
        _guard("seconds to end, exit code", f"{end['seconds']:.2f}, {end['exit_code']}"),
    ]


def _sides(name: str, figures: Sequence[float]) -> Row:
    plain, slowapi, guard = (f"{figure:,.4g}" for figure in figures)
    return name, plain, slowapi, guard, f"{figures[2] / figures[1]:.3g}"


def _guard(name: str, figure: str) -> Row:
    return name, ABSENT, ABSENT, figure, ABSENT


def _range(figures: Sequence[int]) -> str:
    low, high = figures
    return str(low) if low == high else f"{low} to {high}"
