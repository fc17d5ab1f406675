"""Marks go into a model within a budget, and an artifact, a statement and secrets come of it."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path

import pytest
import torch

from gro import artifacts
from gro.config import ModelSettings
from gro.errors import GroError
from gro.metrics import ndcg
from gro.models import StateRecommender
from gro.ownership import promotion, triggers
from gro.ownership.commitment import unseal
from gro.ownership.identity import generate
from gro.ownership.marking import marked
from gro.ownership.settings import MarkSettings, PromotionSettings, TriggerSettings
from gro.ownership.statement import verified
from gro.ownership.suspect import in_hand
from gro.ranking import ranks
from gro.runs import dataset_of
from gro.training import Log
from tests.conftest import Gro

QUICK = MarkSettings(epochs=12, learning_rate=0.02, utility_budget=0.2)
KEY = b"a key of the test"


class Target:
    """A run that is worth stealing, and marks for it."""

    def __init__(self, folder: Path) -> None:
        self.artifact = artifacts.load(folder)
        self.model, self.sequences = self.artifact.model, dataset_of(self.artifact, None)
        self.triggers = triggers.drawn(self.sequences, KEY, 9, TriggerSettings(chains=3, length=3, strength=2.0))
        self.promotion = promotion.drawn(self.model, KEY, PromotionSettings(strength=2.0, probes=200))

    def marked(self, settings: MarkSettings = QUICK) -> tuple[StateRecommender, Log]:
        architecture = self.artifact.manifest.model.part(ModelSettings)
        return marked(self.model, architecture, self.sequences, [self.triggers, self.promotion], settings)

    def loss(self, model: StateRecommender) -> float:
        was, now = (ndcg(ranks(each, self.sequences.valid), 10).mean() for each in (self.model, model))
        return float(1 - now / was)


@pytest.fixture(scope="module")
def target(learnt: Path) -> Target:
    return Target(learnt)


def test_marks_are_learnt_together_within_the_budget(target: Target) -> None:
    before = {name: value.clone() for name, value in target.model.state_dict().items()}
    model, log = target.marked()
    assert all(torch.equal(value, before[name]) for name, value in target.model.state_dict().items())
    assert target.loss(model) == pytest.approx(log.best["utility_loss"])
    assert log.best["utility_loss"] <= QUICK.utility_budget
    within = [each for each in log.figures if each["utility_loss"] <= QUICK.utility_budget]
    assert log.best["score"] == max(each["triggers"] * max(each["promotion"], 0.0) for each in within)
    assert target.triggers.statistic(in_hand(model)) > 0.5 > target.triggers.statistic(in_hand(target.model))
    assert promotion.bound(target.promotion.statistic(in_hand(model))) < 0.01


def test_the_same_seed_makes_the_same_model(target: Target) -> None:
    settings = MarkSettings(epochs=2, utility_budget=1.0)
    first, second = (target.marked(settings)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_marks_weigh_less_after_an_epoch_that_overspent(target: Target) -> None:
    with pytest.raises(GroError, match=r"marking costs at least .* and the budget is 0.00%"):
        target.marked(MarkSettings(epochs=2, learning_rate=0.5, utility_budget=1e-6))
    _, log = target.marked(QUICK)
    weights = [each["weight"] for each in log.figures]
    for figures, weight, following in zip(log.figures, weights, weights[1:], strict=False):
        overspent = figures["utility_loss"] > QUICK.utility_budget
        assert math.isclose(following, weight / 2 if overspent else min(1.0, 2 * weight))


def test_a_run_is_marked_by_command(gro: Gro, learnt: Path, tmp_path: Path) -> None:
    key, out = tmp_path / "key", tmp_path / "marked"
    public = generate(key)
    arguments = ["own", "mark", str(learnt), "--key", str(key), "--owner", "Somebody", "--out", str(out), "--quiet"]
    kinds = ["--kind", "promotion", "--kind", "parameters"]
    answer = gro(*arguments, *kinds, "--utility-budget", "1", "--epochs", "1", "--json")
    assert answer.code == 0, answer.err
    evidence = tmp_path / "marked.evidence"
    statement = verified(evidence / "statement.json", out)
    assert statement.public_key == answer.json["public_key"]
    assert public.exists()
    assert [each.created for each in statement.lineage] == [artifacts.load(learnt).manifest.created]
    assert set(statement.commitments) == {"promotion", "parameters"} == set(answer.json["kinds"])
    for name, committed in statement.commitments.items():
        path = evidence / f"{name}.secret"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(unseal(path, committed))["test"] == name
    assert not any(word in (out / "manifest.json").read_text() for word in ("mark", "promotion", "parameters"))
    assert gro("evaluate", str(out), "--quiet").code == 0
    assert "holds a run already" in gro(*arguments, *kinds).line


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--kind", "triggers"], "20 chains of 4 items need a catalogue of 320 items; tiny has 40"),
        (["--kind", "tattoo"], "tattoo"),
        (["--utility-budget", "2"], "utility"),
    ],
)
def test_what_cannot_be_marked_is_refused(
    gro: Gro, learnt: Path, tmp_path: Path, extra: list[str], reason: str
) -> None:
    key, out = tmp_path / "key", tmp_path / "marked"
    generate(key)
    answer = gro(
        "own", "mark", str(learnt), "--key", str(key), "--owner", "Somebody", "--out", str(out), "--quiet", *extra
    )
    assert answer.code == 2
    assert reason in answer.line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "key.pub"]
