"""A verdict that was written to a file, read again and checked: it says what follows from its numbers, or nothing.

Every p-value is counted again from the statistics beside it. That the numbers are those which the suspect and the
innocents gave is shown only by asking them again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from pydantic import AwareDatetime, ConfigDict, Field, FiniteFloat, NonNegativeInt

from gro.artifacts.manifest import sha256
from gro.config import Settings
from gro.errors import ConfigError, DataError
from gro.ownership.calibration import OTHERS, TOGETHER, Calibration, joint
from gro.ownership.statement import Digest, Statement
from gro.ownership.verdict import ASKED, LIKENESS, LOOKED_AT, unfair

EXACT: Final = 1e-9
"""Relative difference up to which two figures are the same."""
LINE: Final = 300
"""Most characters that are told of what is wrong with a file."""

Said = Literal["copy", "not shown", "inconclusive"]
Statistics = Annotated[list[FiniteFloat], Field(min_length=1)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]


class Finding(Settings):
    """What one test found; see :meth:`gro.ownership.calibration.Calibration.report`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    statistic: FiniteFloat
    p_value: Share
    nearest: str
    nulls: Annotated[dict[str, Statistics], Field(min_length=1)]
    """Statistics of other secrets, or of the innocents of each stratum."""

    @property
    def effect(self) -> float | None:
        """As :meth:`gro.ownership.calibration.Calibration.effect`."""
        return Calibration(self.nulls).effect(self.statistic)

    @property
    def size(self) -> int:
        """How many statistics the suspect's is compared with."""
        return sum(map(len, self.nulls.values()))

    @property
    def alike(self) -> int:
        """How many of them are at least as high."""
        return sum(value >= self.statistic for each in self.nulls.values() for value in each)


class VerdictFile(Settings):
    """What ``gro own verify`` writes; see :class:`gro.ownership.verdict.Verdict`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    verdict: Said
    reason: str
    alpha: Annotated[FiniteFloat, Field(gt=0, lt=1)]
    calls: NonNegativeInt
    suspect: str
    made: AwareDatetime
    """When the suspect was asked."""
    p_value: Share | None
    tests: dict[str, Finding]
    """What each mark found."""
    together: Finding | None
    likeness: dict[str, Finding]
    control: dict[str, list[Share]]
    """P-values of innocents by the same secrets, by stratum."""
    statement: Digest
    """Digest of the owner's statement."""

    @property
    def decisive(self) -> Finding | None:
        """What the verdict rests on: the joint statistic of several marks, or the only mark."""
        return self.together or next(iter(self.tests.values()), None)

    @property
    def marks(self) -> dict[str, Finding]:
        """What each mark found, and all of them together."""
        return self.tests | ({TOGETHER: self.together} if self.together else {})

    @property
    def innocents(self) -> list[float]:
        """P-values of all innocents of the control."""
        return [value for each in self.control.values() for value in each]

    @property
    def unfair(self) -> bool:
        """As :func:`gro.ownership.verdict.unfair`."""
        return unfair(self.control, self.alpha)

    @property
    def following(self) -> tuple[Said, float | None]:
        """The verdict and the p-value that follow from the marks and from the control."""
        found = self.decisive
        if found is None or self.unfair or Calibration(found.nulls).least > self.alpha:
            return "inconclusive", None
        return "copy" if found.p_value <= self.alpha else "not shown", found.p_value


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
        """Names of the commitments that the verdict tells nothing of."""
        return sorted(self.statement.commitments.keys() - self.verdict.tests.keys() - self.verdict.likeness.keys())


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
        raise DataError(f"{shorten(str(error), LINE)}: not a verdict of 'gro own verify'") from None
    if found.statement != statement.digest:
        raise DataError(f"{path}: rests on the statement {found.statement}, not on {statement.digest}")
    try:
        _check(found, statement)
    except DataError as error:
        raise DataError(f"{path}: altered: {error}") from None
    return Evidence(found, statement, sha256(content))


def _check(found: VerdictFile, statement: Statement) -> None:
    if found.tests and not _named(statement, ASKED) <= found.tests.keys() <= _named(statement, LOOKED_AT):
        raise DataError("its marks are not all that the statement commits to, and no others")
    if not found.likeness.keys() <= _named(statement, LIKENESS):
        raise DataError("it tells of a likeness that the statement does not commit to")
    for name, each in (found.marks | found.likeness).items():
        _recount(each, name)
    for name, each in found.marks.items():
        if each.nulls.keys() != {OTHERS}:
            raise DataError(f"'{name}': a mark is compared with '{OTHERS}' and nothing else")
    _rejoin(found)
    if (found.verdict, found.p_value) != found.following:
        told = (_told(*found.following), _told(found.verdict, found.p_value))
        raise DataError("what follows from its figures is {}, not {}".format(*told))


def _named(statement: Statement, readers: Container[str]) -> set[str]:
    """Names of the commitments that one of the readers reads."""
    return {name for name in statement.commitments if name.partition(".")[0] in readers}


def _recount(finding: Finding, name: str) -> None:
    null = Calibration(finding.nulls)
    if finding.nearest != null.nearest:
        raise DataError(f"'{name}': the nearest are {null.nearest!r}, not {finding.nearest!r}")
    if not math.isclose(finding.p_value, null.p_value(finding.statistic), rel_tol=EXACT):
        raise DataError(f"'{name}': p = {finding.p_value:.3g} does not follow from the statistics beside it")


def _rejoin(found: VerdictFile) -> None:
    """Put the marks together again, where there are several."""
    marks, together = [*found.tests.values()], found.together
    if (together is not None) != (len(marks) > 1):
        raise DataError(f"'{TOGETHER}' is told of several marks, and only of those")
    if together is None:
        return
    if {each.size for each in marks} != {together.size}:
        raise DataError("its marks are compared with other secrets of different number")
    statistic, null = joint(
        [each.statistic for each in marks], {OTHERS: np.column_stack([each.nulls[OTHERS] for each in marks])}
    )
    if not np.allclose([statistic, *null.all], [together.statistic, *together.nulls[OTHERS]], rtol=EXACT, atol=EXACT):
        raise DataError(f"'{TOGETHER}' does not follow from the marks")


def _told(verdict: str, p_value: float | None) -> str:
    return f"'{verdict}'" if p_value is None else f"'{verdict}' with p = {p_value:.3g}"
