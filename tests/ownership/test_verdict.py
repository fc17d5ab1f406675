"""Marks alone claim, at the level that was asked for; what else there is can only keep them from it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from gro.config import ModelSettings
from gro.errors import ConfigError, DataError
from gro.metrics import FloatArray
from gro.models import StateRecommender, build
from gro.ownership.calibration import OTHERS, TOGETHER
from gro.ownership.commitment import seal
from gro.ownership.fingerprint import Fingerprint
from gro.ownership.identity import hexadecimal
from gro.ownership.parameters import ParameterMark, marked
from gro.ownership.population import Innocent
from gro.ownership.promotion import Promotion, keyed_signs
from gro.ownership.statement import Statement, signed, verified
from gro.ownership.suspect import Suspect, Tokens, in_hand
from gro.ownership.triggers import Triggers
from gro.ownership.verdict import ASKED, LIKENESS, LOOKED_AT, UNFAIR, Verdict, committed, judge, references, unfair
from gro.serving import RankingService
from tests.ownership.doubles import Finds, rough

ITEMS, K = 60, 10
TOKENS = [f"i{item}" for item in range(1, ITEMS + 1)]
SIZES = ModelSettings(max_length=8, hidden_size=8, inner_size=8, n_layers=1, n_heads=1)
PROBES = torch.randint(1, ITEMS + 1, (150, 4), generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Raised(Innocent):
    """An innocent that lies in no folder."""

    number: int = 0

    @property
    def model(self) -> StateRecommender:
        return kin(self.number)

    @property
    def tokens(self) -> Tokens:
        return TOKENS


@dataclass(frozen=True)
class Left(Finds):
    """A mark in one suspect alone."""

    only: Suspect | None = None

    def examine(self, suspect: Suspect, draws: int) -> tuple[float, FloatArray]:
        value, others = super().examine(suspect, draws)
        return value if suspect is self.only else 0.0, others


def kin(number: int) -> StateRecommender:
    """Models as alike as those that were trained on the same data."""
    model = build(SIZES, ITEMS, seed=7).eval()
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator))
    return model


def suspect(number: int = 0) -> Suspect:
    return in_hand(kin(number))


def leaning(key: bytes, probes: torch.Tensor = PROBES) -> Promotion:
    """The promotion of an owner whose model is nobody's kin."""
    lists = RankingService(build(SIZES, ITEMS, seed=1).eval(), K)(probes)
    return Promotion(key, ITEMS, 1, probes, torch.zeros(len(probes), dtype=torch.int64), lists)


def ground(against: StateRecommender) -> Promotion:
    """The promotion by the one of 3,000 keys that fits a model best."""
    mark = leaning(b"")
    moved = (mark._counts(RankingService(against, K)(mark.probes)) - mark._counts(mark.lists)).flatten().float()
    keys = (number.to_bytes(2, "big") for number in range(3000))
    return replace(mark, key=max(keys, key=lambda key: float(keyed_signs(key, "items", ITEMS) @ moved)))


INNOCENTS = [Raised(Path(), stratum, 1.0, f"{i}", "", i) for i in range(1, 6) for stratum in ("seed", "users")]


def conclude(*marks: Finds, likeness: Sequence[Finds] = (), alpha: float = 0.01) -> Verdict:
    return judge(suspect(), marks, likeness, alpha=alpha)


@given(st.floats(-5, 5), st.floats(0.001, 0.9))
def test_a_claim_is_made_where_the_p_value_is_at_most_the_level(statistic: float, alpha: float) -> None:
    found = conclude(Finds(statistic), alpha=alpha)
    assert found.p_value == found.tests["finds"]["p_value"]
    assert found.p_value is not None
    assert found.verdict == ("copy" if found.p_value <= alpha else "not shown")
    alike = round(found.p_value * 10_000) - 1
    assert found.reason.startswith(f"{alike:,} of 9,999 other secrets")


def test_a_mark_that_was_washed_off_does_not_hide_one_that_was_not() -> None:
    found = conclude(Finds(-3.0, "washed"), Finds(6.0, "left"))
    assert found.verdict == "copy"
    assert found.together is not None
    assert found.p_value == found.together["p_value"]
    assert list(found.tests) == ["washed", "left"]
    assert found.tests["washed"]["p_value"] > 0.9
    assert conclude(Finds(-3.0, "washed"), Finds(0.0, "left")).verdict == "not shown"
    assert conclude(Finds(6.0)).together is None


@pytest.mark.parametrize("alike", [0.0, 1e6])
@pytest.mark.parametrize(("statistic", "verdict"), [(6.0, "copy"), (0.0, "not shown")])
def test_likeness_is_told_and_decides_nothing(alike: float, statistic: float, verdict: str) -> None:
    asked = suspect()
    found = judge(asked, [Left(statistic, only=asked)], [Finds(alike, "alike")], INNOCENTS)
    assert found.verdict == verdict
    assert found.p_value == found.tests["finds"]["p_value"]
    assert found.likeness["alike"]["statistic"] == alike
    assert list(found.likeness["alike"]["nulls"]) == ["seed", "users"]


def test_likeness_alone_claims_not_even_the_owners_own_model() -> None:
    model = kin(0)
    same = Fingerprint(PROBES, RankingService(model, K)(PROBES), ("used",), "fingerprint.walk")
    found = judge(in_hand(model), [], [same], INNOCENTS)
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert "likeness alone is no proof" in found.reason
    assert found.likeness["fingerprint.walk"]["statistic"] == 1
    assert found.likeness["fingerprint.walk"]["p_value"] == 1 / (1 + len(INNOCENTS) / 2)
    assert found.tests == found.control == {}
    assert references([same]) == {"used"}


def test_a_level_below_what_the_other_secrets_can_tell_makes_no_verdict() -> None:
    assert conclude(Finds(9.0), alpha=1e-4).verdict == "copy"
    found = conclude(Finds(9.0), alpha=0.99e-4)
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert "needs more than the 9,999 other secrets" in found.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("more", [[], [Finds(6.0, "clear")]])
def test_what_is_no_number_is_no_verdict(value: float, more: list[Finds]) -> None:
    for found in (conclude(Finds(value), *more), conclude(*more, likeness=[Finds(value)])):
        assert (found.verdict, found.reason) == ("inconclusive", "a test found no number in what the suspect answers")


def test_a_secret_that_was_ground_against_a_model_claims_its_kin_and_is_found_out() -> None:
    """Nothing in the suspect tells that the secret was not drawn by chance: innocents do."""
    mark, done = ground(kin(0)), list[int]()
    assert judge(suspect(), [mark]).verdict == "copy"
    found = judge(suspect(), [mark], (), INNOCENTS, told=done.append)
    assert (found.verdict, found.p_value) == ("inconclusive", None)
    assert "claim too many of the innocents" in found.reason
    assert {name: len(each) for name, each in found.control.items()} == {"seed": 5, "users": 5}
    assert found.tests["promotion"]["p_value"] <= 0.01
    assert done == list(range(1, 11))


def test_a_secret_that_was_drawn_claims_no_innocents() -> None:
    found = judge(suspect(), [leaning(b"drawn"), Triggers(torch.arange(1, 13).view(3, 4))], (), INNOCENTS)
    assert found.verdict == "not shown"
    assert not unfair(found.control, 0.01)
    assert found.together is not None
    assert list(found.together["nulls"]) == [OTHERS]


@given(st.integers(1, 200), st.floats(1e-3, 0.5))
@settings(max_examples=25)
def test_a_control_is_unfair_where_chance_claims_as_many_more_rarely_than_it_says(count: int, alpha: float) -> None:
    for claimed in range(count + 1):
        p_values = [alpha] * claimed + [1.0] * (count - claimed)
        control = {"seed": p_values[::2], "users": p_values[1::2]}
        assert unfair(control, alpha) == (bool(claimed) and bool(binom.sf(claimed - 1, count, alpha) < UNFAIR))


def test_without_innocents_no_control_is_unfair() -> None:
    assert not unfair({}, 0.01)


def test_innocents_are_asked_as_much_as_the_marks_take() -> None:
    probes = PROBES.repeat(15, 1)
    asked = in_hand(kin(0), budget=10_000)
    found = judge(asked, [leaning(b"drawn", probes)], (), INNOCENTS[:2])
    assert found.calls == asked.calls > 2_000
    assert found.verdict == "not shown"
    few = judge(suspect(), [leaning(b"drawn", probes)])
    assert (few.verdict, few.calls) == ("inconclusive", 0)
    assert "need more than the 2,000 calls" in few.reason


def test_weights_are_read_where_they_are_at_hand_and_innocents_likewise() -> None:
    written = ParameterMark(bytes(range(32)), b"\xa5\x5a")
    model = marked(kin(0), written, ["[PAD]", *TOKENS])
    found = judge(in_hand(model, tokens=TOKENS), [written, leaning(b"drawn")], (), INNOCENTS)
    assert (found.verdict, found.tests["parameters"]["statistic"]) == ("copy", 1)
    assert len(found.control) == 2
    blind = judge(in_hand(model), [written])
    assert (blind.verdict, blind.p_value) == ("inconclusive", None)
    assert "weights are not at hand" in blind.reason


KEY = Ed25519PrivateKey.generate()
MARKS: dict[str, Triggers | Promotion | ParameterMark | Fingerprint] = {
    "triggers": Triggers(torch.tensor([[1, 2], [3, 4]])),
    "triggers.b": Triggers(torch.tensor([[5, 6]])),
    "promotion": leaning(b"drawn"),
    "parameters": ParameterMark(bytes(32), b"m"),
    "fingerprint.walk": Fingerprint(PROBES, leaning(b"").lists, ("used",)),
}


@pytest.fixture
def evidence(plain: Path, tmp_path: Path) -> Path:
    """A folder with sealed secrets of every kind, and the statement that commits to them."""
    folder = tmp_path / "evidence"
    folder.mkdir()
    sealed = {name: seal(folder / f"{name}.secret", each.secret()) for name, each in MARKS.items()}
    signed(plain, KEY, "Owner", sealed | {"else": "0" * 64}).write(folder / "statement.json")
    return folder


@pytest.fixture
def statement(evidence: Path) -> Statement:
    return verified(evidence / "statement.json")


def test_every_secret_is_opened_that_somebody_reads(evidence: Path, statement: Statement) -> None:
    assert {each.name for each in committed(statement, evidence, ASKED)} == {"triggers", "triggers.b", "promotion"}
    every = committed(statement, evidence, LOOKED_AT)
    assert {each.name for each in every} == {"triggers", "triggers.b", "promotion", "parameters"}
    assert [each.name for each in committed(statement, evidence, LIKENESS)] == ["fingerprint.walk"]
    assert TOGETHER not in {*LOOKED_AT, *LIKENESS}


@pytest.mark.parametrize("name", ["triggers", "triggers.b", "promotion"])
def test_no_owner_shows_only_the_secrets_that_fit(evidence: Path, statement: Statement, name: str) -> None:
    (evidence / f"{name}.secret").unlink()
    with pytest.raises(ConfigError, match="no such file"):
        committed(statement, evidence, ASKED)


def test_a_key_that_was_made_after_the_fact_cannot_be_shown(evidence: Path, statement: Statement) -> None:
    (evidence / "promotion.secret").unlink()
    made = seal(evidence / "promotion.secret", ground(kin(0)).secret())
    with pytest.raises(DataError, match="is not the secret that was committed to"):
        committed(statement, evidence, ASKED)
    values = json.loads(statement.content)
    values["commitments"]["promotion"] = made
    edited = evidence / "edited.json"
    edited.write_bytes(json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
    with pytest.raises(DataError, match="altered after it was signed"):
        verified(edited)


def test_a_key_of_somebody_else_signs_no_statement_of_the_owners(
    evidence: Path, statement: Statement, plain: Path
) -> None:
    forged = evidence / "forged.json"
    signed(plain, Ed25519PrivateKey.generate(), "Owner", statement.commitments).write(forged)
    assert verified(forged).owner == "Owner"
    with pytest.raises(DataError, match="wrong key"):
        verified(forged, None, hexadecimal(KEY.public_key()))


def test_a_statement_whose_marks_cannot_be_read_here_makes_no_verdict(plain: Path, tmp_path: Path) -> None:
    sealed = {"parameters": seal(tmp_path / "parameters.secret", MARKS["parameters"].secret())}
    found = judge(in_hand(rough(0, ITEMS)), committed(signed(plain, KEY, "Owner", sealed), tmp_path, ASKED))
    assert (found.verdict, found.p_value, found.calls) == ("inconclusive", None, 0)
    assert "no mark that the statement commits to can be read here" in found.reason
