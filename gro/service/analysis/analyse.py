"""The verb ``gro logs analyse``: a query log in, a report with pictures out."""

from __future__ import annotations

from itertools import islice
from math import isfinite
from typing import Any

from gro.drawing import figure
from gro.errors import DataError
from gro.service.analysis import report
from gro.service.analysis.counts import count
from gro.service.analysis.numbers import numbers
from gro.service.analysis.roles import DRAWN, roles
from gro.service.analysis.settings import AnalyseCommand
from gro.service.analysis.survey import Told, survey
from gro.service.monitor import files
from gro.service.querylog import QueryLog


def analyse(told: Told = lambda calls: None, **settings: Any) -> dict[str, Any]:
    """Analyse a query log and write ``report.html`` and ``report.json``; see :class:`AnalyseCommand`.

    Args:
        told: now and then, how many calls have been read; every call is read twice.
        settings: those of the command.

    Returns:
        What ``report.json`` holds; see :func:`gro.service.analysis.numbers.numbers`.

    Raises:
        ConfigError: a setting is wrong, or the folder holds anything but an earlier report.
        DataError: the log or the calibration cannot be read, or the log holds no calls.
        MissingExtraError: matplotlib is not installed.
    """
    command = AnalyseCommand.make(settings)
    figure(1, 1)  # where matplotlib is missing, this is told before a long log is read
    report.check(command.out)
    calibration = files.read(command.calibration) if command.calibration else None
    log, names = QueryLog(*command.log), ", ".join(str(path) for path in command.log)
    for path in command.log:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: a log that is analysed must be a file, since it is read twice")
    found = survey(log, calibration, told)
    if not found.calls:
        raise DataError(f"{names}: holds no calls; there is nothing to analyse")
    if not isfinite(found.last - found.first):
        raise DataError(f"{names}: times from {found.first:g} to {found.last:g} are not Unix seconds of calls")
    chosen = roles(found, calibration is not None)
    followed = {*chosen.listed[:DRAWN], *chosen.busiest, *chosen.sample}
    counts = count(islice(log, found.calls), found, chosen.flagged, followed, told)
    if counts.calls != found.calls:
        raise DataError(f"{names}: changed while it was read; analyse a log that is no longer written")
    content = numbers(command, calibration, found, chosen, counts)
    report.write(command.out, content)
    return content
