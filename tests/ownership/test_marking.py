"""A mark goes into a model within a budget; an artifact, a statement and secrets come of it."""

from __future__ import annotations

import json
import math
import stat
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch

from gro import artifacts
from gro.config import ModelSettings
from gro.errors import GroError
from gro.metrics import ndcg
from gro.models import StateRecommender
from gro.ownership import promotion, triggers
from gro.ownership.calibration import weigh
from gro.ownership.commitment import unseal
from gro.ownership.identity import generate, identify
from gro.ownership.marking import Mark, marked, shown
from gro.ownership.settings import MarkSettings, PromotionSettings, TriggerSettings
from gro.ownership.statement import verified
from gro.ownership.suspect import in_hand
from gro.ownership.verdict import ASKED, committed
from gro.ranking import ranks
from gro.runs import dataset_of
from gro.serving import RankingService
from gro.training import Log
from gro_surrogates.settings import ThiefSettings
from gro_surrogates.thief import Thief
from tests.conftest import Gro

QUICK = MarkSettings(epochs=12, learning_rate=0.02, batch_size=8, utility_budget=0.25)
KEY = b"a key of the test"


class Target:
    """A run that is worth stealing, and marks for it."""

    def __init__(self, folder: Path) -> None:
        self.artifact = artifacts.load(folder)
        self.model, self.sequences = self.artifact.model, dataset_of(self.artifact, None)
        self.triggers = triggers.drawn(self.sequences, KEY, 9, TriggerSettings(rings=3, length=3, strength=2.0))
        self.promotion = promotion.drawn(self.model, KEY, PromotionSettings(strength=1.0, probes=200))

    def marked(self, mark: Mark, settings: MarkSettings = QUICK) -> tuple[StateRecommender, Log]:
        return marked(self.model, self.artifact.manifest.model.part(ModelSettings), self.sequences, mark, settings)

    def loss(self, model: StateRecommender) -> float:
        was, now = (ndcg(ranks(each, self.sequences.valid), 10).mean() for each in (self.model, model))
        return float(1 - now / was)


@pytest.fixture(scope="module")
def target(learnt: Path) -> Target:
    return Target(learnt)


def p_value(mark: Mark, model: StateRecommender) -> float:
    ((statistic, null),) = weigh(in_hand(model), [mark]).values()
    return null.p_value(statistic)


@pytest.mark.parametrize("name", ["triggers", "promotion"])
def test_a_mark_is_learnt_within_the_budget(target: Target, name: str) -> None:
    mark: Mark = getattr(target, name)
    before = {key: value.clone() for key, value in target.model.state_dict().items()}
    model, log = target.marked(mark)
    assert all(torch.equal(value, before[key]) for key, value in target.model.state_dict().items())
    assert target.loss(model) == pytest.approx(log.best["utility_loss"])
    assert log.best["utility_loss"] <= QUICK.utility_budget
    within = [each for each in log.figures if each["utility_loss"] <= QUICK.utility_budget]
    assert log.best["score"] == max(each["score"] for each in within)
    clear = {"triggers": 0.6, "promotion": 3.0}[name]
    assert shown(mark, model) > clear > shown(mark, target.model)
    assert p_value(mark, model) < 0.05 < p_value(mark, target.model)


def test_a_ring_leads_on_wherever_it_is_entered_and_whatever_was_before(target: Target) -> None:
    model, _ = target.marked(target.triggers)
    rings = target.triggers.rings
    items, following = rings.flatten(), rings.roll(-1, dims=1).flatten()
    service = RankingService(model, 3)
    assert (service(items[:, None]) == following[:, None]).any(dim=1).all()
    before = torch.randint(1, model.n_items + 1, (50, 4))
    rows = torch.cat([before.repeat_interleave(len(items), 0), items.repeat(50)[:, None]], dim=1)
    assert (service(rows) == following.repeat(50)[:, None]).any(dim=1).double().mean() > 0.6


def test_only_the_vectors_of_the_rings_move(target: Target) -> None:
    model, _ = target.marked(target.triggers)
    before, after = target.model.state_dict(), model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"item_embedding.weight", "head.weight"}
    rows = (after["head.weight"] != before["head.weight"]).any(dim=1).nonzero()[:, 0]
    assert rows.tolist() == target.triggers.rings.flatten().sort().values.tolist()


def test_a_second_mark_leaves_the_first(target: Target) -> None:
    first, _ = target.marked(target.promotion)
    architecture = target.artifact.manifest.model.part(ModelSettings)
    settings = QUICK.model_copy(update={"utility_budget": 0.5})
    both, log = marked(first, architecture, target.sequences, target.triggers, settings, original=target.model)
    assert target.loss(both) == pytest.approx(log.best["utility_loss"])
    assert p_value(target.promotion, both) < 0.05
    assert shown(target.triggers, both) > 0.6


def test_a_mark_passes_into_copies(target: Target) -> None:
    model, _ = target.marked(target.promotion)
    settings = ThiefSettings(max_length=9, epochs=5, hidden_size=16, inner_size=16, n_layers=1)

    def copies_lean(victim: StateRecommender) -> float:
        thefts = [Thief(settings)(RankingService(victim, 10), 40, 2_000, seed) for seed in range(4)]
        return fmean(target.promotion.examine(in_hand(theft.surrogate), draws=0)[0] for theft in thefts)

    assert copies_lean(model) > 1.5
    assert copies_lean(target.model) < 1


def test_the_same_seed_makes_the_same_model(target: Target) -> None:
    settings = MarkSettings(epochs=2, utility_budget=1.0)
    first, second = (target.marked(target.promotion, settings)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_mark_weighs_less_after_an_epoch_that_overspent(target: Target) -> None:
    _, log = target.marked(target.promotion, MarkSettings(epochs=6, learning_rate=0.05, utility_budget=0.02))
    overspent = [each["utility_loss"] > 0.02 for each in log.figures]
    assert any(overspent)
    for now, following, too_much in zip(log.figures, log.figures[1:], overspent, strict=False):
        assert math.isclose(following["weight"], now["weight"] / 2 if too_much else min(1.0, 2 * now["weight"]))


def test_a_mark_that_costs_too_much_is_refused(target: Target) -> None:
    loud = replace(target.promotion, strength=100.0)
    with pytest.raises(GroError, match=r"promotion: costs at least .* and the budget is 0.10%"):
        target.marked(loud, MarkSettings(epochs=1, learning_rate=0.1, batch_size=4, utility_budget=0.001))


def test_a_run_is_marked_by_command(gro: Gro, learnt: Path, plain: Path, tmp_path: Path) -> None:
    key, out = tmp_path / "key", tmp_path / "model"
    public = generate(key)
    arguments = ["own", "mark", str(learnt), "--key", str(key), "--owner", "Somebody", "--out", str(out), "--quiet"]
    kinds = ["--kind", "promotion"]
    answer = gro(*arguments, *kinds, "--parents", str(plain), "--utility-budget", "1", "--epochs", "1", "--json")
    assert answer.code == 0, answer.err
    evidence = tmp_path / "model.evidence"
    statement = verified(evidence / "statement.json", out)
    assert statement.public_key == answer.json["public_key"]
    assert public.exists()
    ancestors = [identify(artifacts.load(folder)).manifest for folder in (plain, learnt)]
    assert [each.manifest for each in statement.lineage] == ancestors
    assert set(statement.commitments) == {"promotion"} == set(answer.json["kinds"])
    for name, digest in statement.commitments.items():
        path = evidence / f"{name}.secret"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(unseal(path, digest))["test"] == name
    (test,) = committed(statement, evidence, ASKED)
    statistic, _ = test.examine(in_hand(artifacts.load(out).model), draws=0)
    assert statistic == pytest.approx(answer.json["shown"]["promotion"])
    told, untold = (artifacts.load(folder).manifest for folder in (out, learnt))
    assert told.settings == {**untold.settings, "out": str(out)}  # it does not tell that it is marked
    assert told.metrics.keys() <= untold.metrics.keys()
    assert gro("evaluate", str(out), "--quiet").code == 0
    assert "holds a run already" in gro(*arguments, *kinds).line


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--kind", "triggers"], "20 rings of 4 items need a catalogue of 320 items; tiny has 40"),
        (["--kind", "tattoo"], "tattoo"),
        (["--utility-budget", "2"], "utility"),
        (["--kind", "promotion", "--parents", "nowhere"], "nowhere"),
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
