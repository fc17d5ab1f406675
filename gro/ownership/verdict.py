"""The verdict: whether a suspect is shown to be a copy, and everything that says so.

A claim is made at a level: an innocent suspect is called a copy with at most that probability. No claim is made where
the evidence may not be used; "not shown" is no acquittal either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from gro.errors import ConfigError
from gro.ownership import fingerprint, promotion, triggers
from gro.ownership.calibration import Calibration, Test, joint
from gro.ownership.commitment import unseal
from gro.ownership.population import Innocent, by_stratum, statistics
from gro.ownership.statement import Statement
from gro.ownership.suspect import Inconclusive, Suspect

ALPHA: Final = 0.01
SUFFIX: Final = ".secret"
READERS: Final[Mapping[str, Callable[[bytes, str, str], Test]]] = MappingProxyType(
    {"fingerprint": fingerprint.read, "triggers": triggers.read, "promotion": promotion.read}
)
"""How a test is made from its secret, by the name of the commitment up to a dot; others are other evidence."""


@dataclass(frozen=True)
class Verdict:
    """What is said of a suspect.

    Attributes:
        verdict: in two words or fewer.
        reason: in one line.
        alpha: the level of the claim.
        calls: histories that were sent to the suspect.
        p_value: of all tests together; ``None`` where there is no verdict.
        tests: what each test found; see :meth:`gro.ownership.calibration.Calibration.report`.
        together: the same of the joint statistic, where there are several tests.
        made: when the suspect was asked, ISO 8601, UTC.
    """

    verdict: Literal["copy", "not shown", "inconclusive"]
    reason: str
    alpha: float
    calls: int
    p_value: float | None = None
    tests: Mapping[str, Any] = field(default_factory=dict)
    together: Mapping[str, Any] | None = None
    made: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def report(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return asdict(self)


def judge(
    suspect: Suspect,
    tests: Sequence[Test],
    innocents: Sequence[Innocent],
    *,
    alpha: float = ALPHA,
    told: Callable[[int], None] = lambda done: None,
) -> Verdict:
    """Put tests to a suspect and to innocents, and say what follows.

    Several tests are joined into one statistic, whose null has whatever dependence there is between them.

    Args:
        suspect: asked by every test, within its budget.
        tests: all that were committed to, whatever they will find: to choose among them afterwards is to try until one
            fits.
        innocents: that calibrate; none of them may have been used to make a test.
        alpha: probability of a false claim.
        told: receives the number of innocents that were asked.
    """
    try:
        found = [test.statistic(suspect) for test in tests]
    except Inconclusive as why:
        return Verdict("inconclusive", str(why), alpha, suspect.calls)
    if not all(map(math.isfinite, found)):
        return Verdict("inconclusive", "a test found no number in what the suspect answers", alpha, suspect.calls)
    asked = by_stratum(statistics(tests, innocents, suspect.k, told), innocents)
    nulls = [Calibration({name: rows[:, i].tolist() for name, rows in asked.items()}) for i in range(len(tests))]
    reports = {test.name: null.report(value) for test, null, value in zip(tests, nulls, found, strict=True)}
    if len(tests) == 1:
        return _concluded(found[0], nulls[0], alpha, suspect.calls, reports, None)
    statistic, null = joint(found, asked)
    return _concluded(statistic, null, alpha, suspect.calls, reports, null.report(statistic))


def _concluded(
    statistic: float,
    null: Calibration,
    alpha: float,
    calls: int,
    tests: Mapping[str, Any],
    together: Mapping[str, Any] | None,
) -> Verdict:
    if null.least > alpha:
        reason = (
            f"a claim at {alpha:g} needs {math.ceil(1 / alpha) - 1} innocents of the stratum '{null.nearest}', "
            f"which is nearest to the owner's model; there are {len(null.nulls[null.nearest])}"
        )
        return Verdict("inconclusive", reason, alpha, calls, None, tests, together)
    p_value, alike = null.p_value(statistic), int((null.all >= statistic).sum())
    reason = f"{alike} of {len(null.all)} innocents are as like the owner's model as the suspect is: p = {p_value:.3g}"
    return Verdict("copy" if p_value <= alpha else "not shown", reason, alpha, calls, p_value, tests, together)


def committed_tests(statement: Statement, secrets: Path) -> list[Test]:
    """Open every committed secret that is a test of a suspect's answers: ``NAME.secret`` in a folder.

    All of them, so that an owner cannot commit to many and show the one that fits.

    Raises:
        ConfigError: a secret is missing, in others' hands, or there is none.
        DataError: one is not what was committed to.
    """
    kinds = {name: name.partition(".")[0] for name in statement.commitments}
    kinds = {name: kind for name, kind in kinds.items() if kind in READERS}
    if not kinds:
        raise ConfigError(f"the statement commits to no test of a suspect's answers: {', '.join(READERS)}")
    tests = []
    for name, kind in kinds.items():
        path = secrets / f"{name}{SUFFIX}"
        tests.append(READERS[kind](unseal(path, statement.commitments[name]), str(path), name))
    return tests


def references(tests: Sequence[Test]) -> set[str]:
    """Digests of the innocents that helped to make tests: they calibrate nothing."""
    return {digest for test in tests if isinstance(test, fingerprint.Fingerprint) for digest in test.references}
