"""What a trial makes of its p-values."""

from __future__ import annotations

from typing import Any

import pytest

from gro.ownership.trial import counted


def asked(kind: str, wash: str | None = None, **p_values: float) -> dict[str, Any]:
    return {"kind": kind, "wash": wash, "p_values": p_values, "redrawn": {"rings": 0.03, "written": 0.5}}


SUSPECTS = [
    asked("washed", "pruned", rings=0.001, written=0.001),
    asked("stolen", rings=0.05, written=0.4),
    asked("stolen", rings=0.051),
    asked("washed", "pruned", rings=0.2, written=0.3),
    asked("washed", "copied", rings=0.01),
    asked("innocent", rings=0.01, written=1.0),
    asked("innocent", rings=0.8, written=0.9),
]


@pytest.mark.parametrize(
    ("by", "test", "value", "claimed"),
    [
        ("claims", "rings", "stolen", (1, 2)),
        ("claims", "rings", "washed", (2, 3)),
        ("claims", "rings", "innocent", (1, 2)),
        ("claims", "written", "stolen", (0, 1)),
        ("claims", "written", "washed", (1, 2)),
        ("washes", "rings", "pruned", (1, 2)),
        ("washes", "rings", "copied", (1, 1)),
        ("washes", "written", "copied", (0, 0)),
    ],
)
def test_claims_are_counted_among_those_that_were_asked(
    by: str, test: str, value: str, claimed: tuple[int, int]
) -> None:
    report = counted(SUSPECTS, alpha=0.05)
    found = report["claims"][test][value] if by == "claims" else report["washes"][value][test]
    assert (found["successes"], found["trials"]) == claimed


def test_secrets_that_are_drawn_anew_are_counted_for_themselves() -> None:
    """One secret claims many innocents that resemble each other, or none: its p-values are not independent."""
    redrawn = counted(SUSPECTS, alpha=0.05)["redrawn"]
    assert {name: (each["successes"], each["trials"]) for name, each in redrawn.items()} == {
        "rings": (2, 2),
        "written": (0, 2),
    }
    assert redrawn["rings"]["uniformity"]["distance"] == pytest.approx(0.97)
