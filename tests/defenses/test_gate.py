"""The gate: whom it takes for false, and what they and beginners are served."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.defenses import gate as module
from gro.defenses.astray import astray, elsewhere, others
from gro.defenses.base import Part
from gro.defenses.gate import Gate
from gro.defenses.lesson import Lesson
from gro.defenses.lists import Truncate
from gro.defenses.personas import Personas
from gro.defenses.pipeline import Defended
from gro.defenses.witness import Network, features
from gro.errors import ConfigError
from gro.models import build
from gro.models.base import lengths, most_recent
from gro.optimizer.staged import TRAINED, Staged, StagedSettings, build_staged
from gro.ranking import top_k
from gro.testing.defence import DefenceContract

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
N_ITEMS, SHORT, MAX_LENGTH, K, SECRET, PERSONAS, WIDTH = 20, 3, 8, 12, b"owner", 6, 8
HISTORIES = torch.tensor(
    [[4, 5, 4, 7, 8, 9, 10, 11, 4, 4], [3, 9, 3, 3, 0, 0, 0, 0, 0, 0], [7] * 10, [2] + [0] * 9, [2, 6, 1] + [0] * 7]
)
CODEBOOK = base64.b64encode(np.random.default_rng(0).normal(size=(PERSONAS, WIDTH)).astype("<f4").tobytes()).decode()


def settings(name: str = "SASRec", **changes: object) -> ProtectionSettings:
    small: dict[str, object] = {"model": name, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1}
    return ProtectionSettings.model_validate(small | {"max_length": MAX_LENGTH, "dropout": 0.0} | changes)


def staged(name: str = "SASRec", seed: int = 0, n_items: int = N_ITEMS) -> Staged:
    """A target whose members are sure of what they say."""
    made = build_staged(settings(name, seed=seed), n_items, StagedSettings(short=SHORT)).double().eval()
    with torch.no_grad():
        for member in made.models():
            member.item_embedding.weight.mul_(10)
    return made


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network().eval().requires_grad_(False)


def gate(*thresholds: float) -> Gate:
    """A gate that has learnt something or other; the last threshold holds for all longer histories."""
    whole = [*thresholds, *thresholds[-1:] * (MAX_LENGTH - len(thresholds))]
    return Gate(weights=network().written(), thresholds=tuple(whole), codebook=CODEBOOK)


def looks(model: Staged, histories: Tensor) -> Tensor:
    """The logit of each history after each of its items."""
    found: Tensor = network()(features(model, Personas.read(model.early, SHORT, CODEBOOK), histories))
    return found


STRICT, LENIENT = gate(-1e9), gate(1e9)


def answers(part: Part, model: Staged, histories: Tensor = HISTORIES, secret: bytes = SECRET) -> Tensor:
    return Defended(model, [part], K, secret=secret, per_history=True).lists(histories)


def random_histories(count: int, length: int = MAX_LENGTH, n_items: int = N_ITEMS) -> Tensor:
    return torch.randint(1, n_items + 1, (count, length))


def another(model: Staged, member: str) -> Staged:
    """The same target with another model in one place."""
    members = dict(zip(("later", *TRAINED), model.models(), strict=True)) | {member: staged(seed=50).later}
    return Staged(list(members.values()), model.short).eval()


def test_a_history_is_false_since_it_looks_so_without_a_break() -> None:
    model, histories = staged().float(), random_histories(60)
    logits = looks(model, histories)
    part = gate(*logits.quantile(0.4, dim=0).tolist())
    for end in range(1, MAX_LENGTH + 1):
        since = part.since(model, histories[:, :end])
        false = logits[:, :end] > torch.tensor(part.thresholds[:end])
        for begin, row in zip(since.tolist(), false.tolist(), strict=True):
            assert row[begin:] == [True] * (end - begin)
            assert not begin or not row[begin - 1]
        assert 20 < int((since < end).sum()) < 50
    padded = torch.nn.functional.pad(histories[:, :4], (0, 4))
    assert torch.equal(part.since(model, padded), part.since(model, histories[:, :4]))


def beginners(model: Staged, histories: Tensor) -> Tensor:
    return top_k(Personas.read(model.early, SHORT, CODEBOOK).scores(histories), K)


def true(model: Staged, histories: Tensor) -> Tensor:
    return top_k(model.later.scores(histories), K)


def decoys(part: Gate, model: Staged, histories: Tensor, secret: bytes = SECRET) -> Tensor:
    """What each is told that goes astray, one by one."""
    instead, found = others(model.popularity, secret), list[Tensor]()
    personas = Personas.read(model.early, SHORT, CODEBOOK, again=part.again)
    for history, whole in zip(most_recent(histories, MAX_LENGTH), histories, strict=True):
        known = history[history > 0][None]
        if (whole > 0).sum() <= SHORT:
            found.append(personas.astray(known, instead))
        else:
            found.append(astray(model.later, known, part.since(model, known), SHORT, instead))
    return top_k(torch.cat(found), K)


@torch.no_grad()
def test_the_true_get_personas_or_the_truth_and_the_false_are_led_astray() -> None:
    model = staged().float()
    for histories in (HISTORIES, random_histories(30), random_histories(30, SHORT), random_histories(5, 2)):
        begun = lengths(histories) <= SHORT
        honest = answers(LENIENT, model, histories)
        assert torch.equal(honest[begun], beginners(model, histories)[begun])
        assert torch.equal(honest[~begun], true(model, histories)[~begun])
        served = answers(STRICT, model, histories)
        assert torch.equal(served, decoys(STRICT, model, histories))
        assert (served == honest).all(dim=1).float().mean() < 0.7
        assert all(len(set(row)) == K and min(row) >= 1 and max(row) <= N_ITEMS for row in served.tolist())


@torch.no_grad()
def test_false_beginners_get_lists_that_others_get_too() -> None:
    model = staged(n_items=200).float()
    lists = {tuple(row) for row in beginners(model, random_histories(2000, 2, 200)).tolist()}
    assert 1 < len(lists) <= PERSONAS
    assert {tuple(row) for row in answers(STRICT, model, random_histories(200, 2, 200)).tolist()} <= lists


@torch.no_grad()
def test_without_personas_beginners_have_the_plain_target() -> None:
    model, histories = staged().float(), random_histories(20, SHORT)
    part = LENIENT.model_copy(update={"codebook": ""})
    assert torch.equal(answers(part, model, histories), true(model, histories))
    part, instead = STRICT.model_copy(update={"codebook": ""}), others(model.popularity, SECRET)
    assert torch.equal(answers(part, model, histories), top_k(elsewhere(model.later, histories, instead), K))


@torch.no_grad()
def test_only_those_above_their_threshold_are_led_astray() -> None:
    model, histories = staged().float(), random_histories(40)
    part = gate(*looks(model, histories).quantile(0.5, dim=0).tolist())
    since = part.since(model, histories)
    false = since < MAX_LENGTH
    assert int(false.sum()) == 20
    assert 0 < int((since[false] > SHORT).sum()) < 20
    served, honest = answers(part, model, histories), true(model, histories)
    assert torch.equal(served[~false], honest[~false])
    assert torch.equal(served[false], decoys(part, model, histories)[false])
    assert (served[false] == honest[false]).all(dim=1).float().mean() < 0.5


@torch.no_grad()
def test_beginners_are_not_told_again_what_was_asked_where_people_take_nothing_again() -> None:
    model, histories = staged(n_items=40).float(), random_histories(30, 2, 40)
    for told in (LENIENT, STRICT):
        served = answers(told.model_copy(update={"again": False}), model, histories)
        assert not bool((served[:, :, None] == histories[:, None, :]).any())
        for row, whole, history in zip(served, answers(told, model, histories), histories, strict=True):
            left = [item for item in whole.tolist() if item not in history.tolist()]
            assert row.tolist()[: len(left)] == left


@torch.no_grad()
def test_decoys_are_the_same_whenever_the_same_is_asked_and_another_secret_s_are_others() -> None:
    model, histories = staged().float(), random_histories(30)
    whole = answers(STRICT, model, histories)
    assert torch.equal(answers(STRICT, model, histories), whole)
    assert torch.equal(torch.cat([answers(STRICT, model, row[None]) for row in histories]), whole)
    other = answers(STRICT, model, histories, b"another")
    assert torch.equal(other, decoys(STRICT, model, histories, b"another"))
    assert (other == whole).all(dim=1).float().mean() < 0.5


@torch.no_grad()
def test_decoys_are_as_long_as_the_lists() -> None:
    model, histories = staged().float(), random_histories(10)
    served = Defended(model, [Truncate(k=5), STRICT], K, secret=SECRET, per_history=True)
    assert served.k == 5
    assert torch.equal(served.lists(histories), decoys(STRICT, model, histories)[:, :5])


@pytest.mark.parametrize(("cost", "left"), [(0.0, 0.2), (0.05, 0.15), (0.5, 0.0)])
def test_personas_have_half_of_the_budget_and_the_lesson_what_they_leave(
    cost: float, left: float, tiny: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets, model = list[float](), staged().float()

    def found(target: Staged, _: Sequences, count: int, budget: float) -> tuple[Personas, float]:
        budgets.append(budget)
        assert count == PERSONAS
        return Personas.read(target.early, SHORT, CODEBOOK, again=False), cost

    def learnt(_: Lesson, utility_budget: float) -> dict[str, str | list[float]]:
        budgets.append(utility_budget)
        return {"weights": network().written(), "thresholds": [0.5, 0.7]}

    monkeypatch.setattr(module, "fewest_personas", found)
    monkeypatch.setattr(Lesson, "learnt", learnt)
    fitted = Gate(personas=PERSONAS).fitted(model, tiny, 0.2)
    assert budgets == pytest.approx([0.1, left])
    assert (fitted.codebook, fitted.thresholds, fitted.again) == (CODEBOOK, (0.5, 0.7), False)


def test_it_is_said_where_beginners_are_not_protected(
    tiny: Sequences, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = staged().float()
    monkeypatch.setattr(Lesson, "learnt", lambda *_: {"weights": network().written(), "thresholds": [0.5, 0.7]})
    for found, warned in (
        (Personas(model.later, SHORT, None), True),
        (Personas.read(model.early, SHORT, CODEBOOK), False),
    ):
        monkeypatch.setattr(module, "fewest_personas", lambda *_, found=found: (found, 0.0))
        caplog.clear()
        Gate().fitted(model, tiny, 0.2)
        assert ("the plain target answers who looks like people" in caplog.text) == warned


def test_a_gate_that_has_learnt_nothing_is_refused() -> None:
    learnt = LENIENT.model_copy(update={"thresholds": LENIENT.thresholds[:-1]})
    for part in (Gate(), learnt):
        with pytest.raises(ConfigError, match="the gate has learnt nothing of histories of 8 items; protect a target"):
            answers(part, staged().float())
    answers(learnt, staged().float(), HISTORIES[:, :7])


def test_a_target_without_a_witness_is_refused_before_anything_is_trained(tiny: Sequences) -> None:
    plain = build(settings(), N_ITEMS).eval()
    for refused in (
        lambda: Gate().fitted(plain, tiny),
        lambda: Defended(plain, [STRICT], 5, secret=SECRET, per_history=True),
    ):
        with pytest.raises(ConfigError, match="the gate needs a target that is trained by 'staged', not SASRec"):
            refused()


@pytest.mark.parametrize(
    "wrong",
    [
        {"thefts": 0},
        {"personas": 0},
        {"thresholds": [0.0, np.nan]},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Gate.make(wrong, "card")


class TestContract(DefenceContract):
    def part(self) -> Part:
        return Gate(thefts=4, personas=3)

    def model(self) -> Any:
        return build_staged(settings(), 40, StagedSettings(short=SHORT)).eval()
