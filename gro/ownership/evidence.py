"""A verdict that was written to a file, read again and checked: it says what follows from its numbers, or nothing.

Every p-value is counted again from the innocents' statistics. That the numbers are those which the suspect gave is
shown only by asking it again.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import AwareDatetime, ConfigDict, FiniteFloat, NonNegativeInt

from gro.artifacts.manifest import sha256
from gro.config import Settings
from gro.errors import ConfigError, DataError
from gro.ownership.calibration import Calibration
from gro.ownership.statement import Statement

EXACT: Final = 1e-9
"""Relative difference up to which two p-values are the same."""


class Finding(Settings):
    """What one test found; see :meth:`gro.ownership.calibration.Calibration.report`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    statistic: FiniteFloat
    p_value: FiniteFloat
    nearest: str
    nulls: dict[str, list[FiniteFloat]]
    """Statistics of the innocents of each stratum."""

    @property
    def effect(self) -> float | None:
        """As :meth:`gro.ownership.calibration.Calibration.effect`."""
        return Calibration(self.nulls).effect(self.statistic)

    @property
    def innocents(self) -> int:
        """How many innocents there are."""
        return sum(map(len, self.nulls.values()))

    @property
    def near(self) -> int:
        """How many there are of the nearest stratum."""
        return len(self.nulls[self.nearest])

    @property
    def alike(self) -> int:
        """How many are at least as like the owner's model as the suspect is."""
        return sum(value >= self.statistic for each in self.nulls.values() for value in each)


class VerdictFile(Settings):
    """What ``gro own verify`` writes; see :class:`gro.ownership.verdict.Verdict`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    verdict: Literal["copy", "not shown", "inconclusive"]
    reason: str
    alpha: FiniteFloat
    calls: NonNegativeInt
    suspect: str
    made: AwareDatetime
    """When the suspect was asked."""
    p_value: FiniteFloat | None
    tests: dict[str, Finding]
    together: Finding | None
    statement: str
    """Digest of the owner's statement."""

    @property
    def decisive(self) -> Finding | None:
        """What the verdict rests on: the joint statistic of several tests, or the only test."""
        return self.together or next(iter(self.tests.values()), None)

    @property
    def findings(self) -> dict[str, Finding]:
        """What each test found, and all of them together."""
        return self.tests | ({"together": self.together} if self.together else {})


@dataclass(frozen=True)
class Evidence:
    """What a report is written of.

    Attributes:
        verdict: as it was given.
        statement: what the owner signed.
        digest: SHA-256 of the verdict's file.
    """

    verdict: VerdictFile
    statement: Statement
    digest: str

    @property
    def untested(self) -> list[str]:
        """Names of the commitments that no test of the verdict opened."""
        return sorted(self.statement.commitments.keys() - self.verdict.tests.keys())


def read(path: Path, statement: Statement) -> Evidence:
    """Read a verdict of ``gro own verify``, and check it.

    Args:
        path: of the verdict.
        statement: verified, that the verdict rests on.

    Raises:
        DataError: it is missing or malformed, says what its own numbers do not, or rests on another statement.
    """
    try:
        content = path.read_bytes()
        values = json.loads(content)
        found = VerdictFile.make(values if isinstance(values, dict) else {}, str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path}: not a verdict of gro: not JSON") from None
    except ConfigError as error:
        raise DataError(f"{error}: not a verdict of 'gro own verify'") from None
    if found.statement != statement.digest:
        raise DataError(f"{path}: rests on the statement {found.statement}, not on {statement.digest}")
    for name, finding in found.findings.items():
        _recount(finding, f"{path}: altered: '{name}'")
    _conclude(found, path)
    return Evidence(found, statement, sha256(content))


def _recount(finding: Finding, source: str) -> None:
    null = Calibration(finding.nulls)
    if finding.nearest != null.nearest:
        raise DataError(f"{source}: the innocents that are nearest are '{null.nearest}', not '{finding.nearest}'")
    if not math.isclose(finding.p_value, null.p_value(finding.statistic), rel_tol=EXACT):
        raise DataError(f"{source}: p = {finding.p_value:.3g} does not follow from the statistics of its innocents")


def _conclude(found: VerdictFile, path: Path) -> None:
    if found.verdict == "inconclusive":
        return
    if found.p_value is None or found.decisive is None or found.p_value != found.decisive.p_value:
        raise DataError(f"{path}: altered: the p-value of the verdict is not that of its tests")
    if (found.verdict == "copy") != (found.p_value <= found.alpha):
        raise DataError(f"{path}: altered: '{found.verdict}' does not follow from p = {found.p_value:.3g}")
