"""``gro own compare``: whether two artifacts are the same, and how alike they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gro.cli.output import ABSENT, show
from gro.cli.own.settings import CompareCommand
from gro.cli.settings import Output
from gro.errors import ConfigError
from gro.ownership.compare import compare as compared

COLUMNS: Final = ("", "found", "innocents' mean", "highest", "p-value")
SAME: Final = {
    "files": "same files",
    "weights": "same weights",
    "permutation": "same item table up to a permutation of dimensions",
    "linear map": "same item table up to a linear map",
}
ALIKE: Final = {
    "cka": "linear CKA of the item tables",
    "space": "mean squared canonical correlation of the item tables",
    "permuted": "cosine of the item tables, dimensions matched",
    "agreement": "agreement of the 10 best items on real histories",
}


def compare(settings: Mapping[str, Any], output: Output) -> int:
    """Print what :func:`gro.ownership.compare.compare` finds."""
    command = CompareCommand.make(settings)
    if len(command.runs) != 2:
        raise ConfigError(f"{len(command.runs)} artifact(s) given; gro own compare takes two")
    report = compared(*command.runs, command.innocents, command.data_path, command.device)
    return show(output, report, " and ".join(report["runs"]), COLUMNS, list(_rows(report)))


def _rows(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, text in SAME.items():
        yield text, "yes" if report["same"][name] else "no", *[ABSENT] * 3
    for name, text in ALIKE.items():
        yield text, _figure(report["similarity"][name]), *_beside(report["innocents"] and report["innocents"][name])


def _beside(calibrated: Mapping[str, Any] | None) -> tuple[str, ...]:
    if calibrated is None:
        return (ABSENT,) * 3
    near = calibrated["strata"][calibrated["nearest"]]
    highest = max(stratum["highest"] for stratum in calibrated["strata"].values())
    return _figure(near["mean"]), _figure(highest), _figure(calibrated["p_value"])


def _figure(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4f}"
