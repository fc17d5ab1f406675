"""``gro guard calibrate`` and ``gro guard verify``: what is made of a guard's logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gro.cli.guard.settings import CalibrateCommand, VerifyCommand
from gro.cli.output import show
from gro.cli.settings import Output
from gro.errors import ConfigError
from gro.service import chain
from gro.service.chain import Checkpoint
from gro.service.keyfile import read_key
from gro.service.monitor import calibration
from gro.service.monitor.files import write
from gro.service.querylog import QueryLog


def calibrate(settings: Mapping[str, Any], output: Output) -> int:
    """Calibrate the monitor on a clean log."""
    command = CalibrateCommand.make(settings)
    if not command.out.parent.is_dir():
        raise ConfigError(f"{command.out.parent}: no such folder; make it, or give another --out")
    made = calibration.calibrate(QueryLog(*command.log), command.false_alarms, command.confidence)
    write(command.out, made)
    report = {
        "calibration": str(command.out),
        "accounts": made.accounts,
        "items": len(made.background.items),
        "threshold": made.detector.threshold,
        "false_alarms": made.false_alarms,
        "confidence": made.confidence,
    }
    promise = f"{made.confidence:.0%} sure that at most {made.false_alarms:.2%} of accounts like these are ever flagged"
    rows = [(name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in report.items()]
    return show(output, report, f"{promise}; name the file as 'calibration' of [monitor]", ("", ""), rows)


def verify(settings: Mapping[str, Any], output: Output) -> int:
    """Check an audit log."""
    command = VerifyCommand.make(settings)
    checkpoint = None if command.checkpoint is None else Checkpoint.parse(command.checkpoint)
    found = chain.verify(command.log, read_key(command.key_file), checkpoint)
    report = {"entries": found.entries, "first": found.first, "checkpoint": str(found.head)}
    title = "no entry was changed, taken out or put in; keep the checkpoint elsewhere: it tells if the end is cut off"
    return show(output, report, title, ("", ""), [(name, str(value)) for name, value in report.items()])
