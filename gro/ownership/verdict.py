"""The verdict: whether a suspect is shown to be a copy, and everything that says so.

A claim is made at a level: an innocent suspect is called a copy with at most that probability. It rests on marks alone,
whose secrets were drawn by chance, so that this holds for every suspect that was made without them. Likeness, which
nobody drew, is told beside it and decides nothing: independent models that are trained to the end are alike too. No
claim is made where the evidence may not be used; "not shown" is no acquittal either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

from scipy.stats import binomtest

from gro.ownership import fingerprint, parameters, promotion, triggers
from gro.ownership.calibration import NO_NUMBER, TOGETHER, Calibration, Keyed, Test, weigh
from gro.ownership.commitment import unseal
from gro.ownership.population import Innocent, by_stratum, statistics
from gro.ownership.statement import Statement
from gro.ownership.suspect import Inconclusive, Suspect, in_hand

ALPHA: Final = 0.01
UNFAIR: Final = 0.01
"""Secrets that claim as many innocents as chance does with a smaller probability are not believed. Innocents resemble
each other, so that secrets that were drawn by chance may meet with this as often as a false claim: a lost verdict."""
SUFFIX: Final = ".secret"
Read = TypeVar("Read")
Readers = Mapping[str, Callable[[bytes, str, str], Read]]
ASKED: Final[Readers[Keyed]] = MappingProxyType({"triggers": triggers.read, "promotion": promotion.read})
"""How a mark that is read from answers is made from its secret, by the name of the commitment up to a dot."""
LOOKED_AT: Final[Readers[Keyed]] = MappingProxyType({**ASKED, "parameters": parameters.read})
"""The same where the suspect's weights are at hand."""
LIKENESS: Final[Readers[Test]] = MappingProxyType({"fingerprint": fingerprint.read})


@dataclass(frozen=True)
class Verdict:
    """What is said of a suspect.

    Attributes:
        verdict: in two words or fewer.
        reason: in one line.
        alpha: the level of the claim.
        calls: histories that were sent to the suspect.
        p_value: of all marks together; ``None`` where there is no verdict.
        tests: what each mark found; see :meth:`gro.ownership.calibration.Calibration.report`.
        together: the same of the joint statistic, where there are several marks.
        likeness: the same of what decides nothing, beside innocents.
        control: p-values of innocents by the same secrets, by stratum.
        made: when the suspect was asked, ISO 8601, UTC.
    """

    verdict: Literal["copy", "not shown", "inconclusive"]
    reason: str
    alpha: float
    calls: int
    p_value: float | None = None
    tests: Mapping[str, Any] = field(default_factory=dict)
    together: Mapping[str, Any] | None = None
    likeness: Mapping[str, Any] = field(default_factory=dict)
    control: Mapping[str, Sequence[float]] = field(default_factory=dict)
    made: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def report(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return asdict(self)


def judge(
    suspect: Suspect,
    marks: Sequence[Keyed],
    likeness: Sequence[Test] = (),
    innocents: Sequence[Innocent] = (),
    *,
    alpha: float = ALPHA,
    told: Callable[[int], None] = lambda done: None,
) -> Verdict:
    """Put tests to a suspect, and to innocents as a control, and say what follows.

    Args:
        suspect: asked by every test, within its budget.
        marks: all that were committed to, whatever they will find: to choose among them afterwards is to try until one
            fits.
        likeness: fingerprints, which need innocents.
        innocents: on which the marks are tried as a control; none of them may have been used to make a test.
        alpha: probability of a false claim.
        told: receives the number of innocents that were asked.
    """
    try:
        found = weigh(suspect, marks)
        alike = [test.statistic(suspect) for test in likeness]
    except Inconclusive as why:
        return Verdict("inconclusive", str(why), alpha, suspect.calls)
    if not all(map(math.isfinite, alike)):
        return Verdict("inconclusive", NO_NUMBER, alpha, suspect.calls)
    reports = {name: null.report(value) for name, (value, null) in found.items()}
    open_yet = Verdict(
        "inconclusive",
        "no mark that the statement commits to can be read here, and likeness alone is no proof",
        alpha,
        suspect.calls,
        together=reports.pop(TOGETHER, None),
        tests=reports,
        likeness=_likeness(likeness, alike, innocents, suspect.k),
        control=controlled(marks, innocents, suspect, told),
    )
    return _concluded(open_yet, *list(found.values())[-1]) if found else open_yet


def controlled(
    marks: Sequence[Keyed], innocents: Sequence[Innocent], suspect: Suspect, told: Callable[[int], None]
) -> dict[str, list[float]]:
    """P-values of innocents, by stratum, by the marks that a suspect was asked about."""
    found: dict[str, list[float]] = {}
    budget = 2 * sum(mark.calls for mark in marks)
    for done, each in enumerate(innocents if marks else (), start=1):
        tokens = None if suspect.inside is None else each.tokens
        weighed = weigh(in_hand(each.model, k=suspect.k, budget=budget, tokens=tokens), marks)
        statistic, null = list(weighed.values())[-1]
        found.setdefault(each.stratum, []).append(null.p_value(statistic))
        told(done)
    return found


def unfair(control: Mapping[str, Sequence[float]], alpha: float) -> bool:
    """Whether secrets claim more innocents than ones that were drawn by chance do."""
    p_values = [value for each in control.values() for value in each]
    claimed = sum(value <= alpha for value in p_values)
    return bool(p_values) and float(binomtest(claimed, len(p_values), alpha, "greater").pvalue) < UNFAIR


def _likeness(
    tests: Sequence[Test], found: Sequence[float], innocents: Sequence[Innocent], k: int
) -> dict[str, dict[str, Any]]:
    asked = by_stratum(statistics(tests, innocents, k), innocents) if tests else {}
    nulls = [Calibration({name: rows[:, i].tolist() for name, rows in asked.items()}) for i in range(len(tests))]
    return {test.name: null.report(value) for test, null, value in zip(tests, nulls, found, strict=True)}


def _concluded(found: Verdict, statistic: float, null: Calibration) -> Verdict:
    if unfair(found.control, found.alpha):
        return replace(found, reason="the same secrets claim too many of the innocents: what they read is no mark")
    if null.least > found.alpha:
        reason = f"a claim at {found.alpha:g} needs more than the {len(null.all):,} other secrets that are tried"
        return replace(found, reason=reason)
    p_value, alike = null.p_value(statistic), int((null.all >= statistic).sum())
    reason = (
        f"{alike:,} of {len(null.all):,} other secrets that might have been drawn read as much from the suspect as the "
        f"owner's does: p = {p_value:.3g}"
    )
    return replace(found, verdict="copy" if p_value <= found.alpha else "not shown", reason=reason, p_value=p_value)


def committed(statement: Statement, secrets: Path, readers: Readers[Read]) -> list[Read]:
    """Open every committed secret that one of the readers reads: ``NAME.secret`` in a folder.

    All of them, so that an owner cannot commit to many and show the one that fits.

    Raises:
        ConfigError: a secret is missing or in others' hands.
        DataError: one is not what was committed to.
    """
    tests = []
    for name, digest in statement.commitments.items():
        if reader := readers.get(name.partition(".")[0]):
            path = secrets / f"{name}{SUFFIX}"
            tests.append(reader(unseal(path, digest), str(path), name))
    return tests


def references(tests: Sequence[Test]) -> set[str]:
    """Digests of the innocents that helped to make tests: they calibrate nothing."""
    return {digest for test in tests if isinstance(test, fingerprint.Fingerprint) for digest in test.references}
