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
from gro.defenses.base import Part
from gro.defenses.gate import Gate
from gro.defenses.lesson import Lesson
from gro.defenses.lists import Truncate
from gro.defenses.misinformation import false_names
from gro.defenses.personas import Personas
from gro.defenses.pipeline import Defended
from gro.defenses.witness import Network, features, suspicion
from gro.errors import ConfigError
from gro.models import build
from gro.models.base import lengths, most_recent
from gro.optimizer.staged import Staged, StagedSettings, build_staged
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


def gate(threshold: float = 0.0, doubt: float | None = None) -> Gate:
    """A gate that has learnt something or other; unless it is said otherwise all who are in doubt are false."""
    doubt = threshold if doubt is None else doubt
    return Gate(weights=network().written(), threshold=threshold, doubt=doubt, codebook=CODEBOOK)


STRICT, LENIENT = gate(-1e9), gate(1e9)


def answers(part: Part, model: Staged, histories: Tensor = HISTORIES, secret: bytes = SECRET) -> Tensor:
    return Defended(model, [part], K, secret=secret, per_history=True).lists(histories)


def random_histories(count: int, length: int = MAX_LENGTH, n_items: int = N_ITEMS) -> Tensor:
    return torch.randint(1, n_items + 1, (count, length))


def another(model: Staged, member: str) -> Staged:
    """The same target with another model in one place."""
    members = {"later": model.later, "early": model.early, "witness": model.witness}
    members[member] = staged(seed=50).later
    return Staged(list(members.values()), model.short).eval()


def test_what_a_history_looked_like_it_stays() -> None:
    model, histories = staged().float(), random_histories(60)
    looked = suspicion(network(), features(model, histories[:, : SHORT + 2]), SHORT)
    part = gate(float(looked.quantile(0.6)), float(looked.quantile(0.3)))
    doubted, false = (
        torch.stack(flags)
        for flags in zip(*(part.judged(model, histories[:, : end + 1]) for end in range(MAX_LENGTH)), strict=True)
    )
    assert bool((doubted >= false).all())
    for flags in (doubted, false):
        assert not bool(flags[:SHORT].any())
        assert bool((flags[1:] >= flags[:-1]).all())
        assert 0 < int(flags[SHORT + 1].sum()) < int(flags[-1].sum()) <= 60
    assert int(false[-1].sum()) < int(doubted[-1].sum())


def beginners(model: Staged, histories: Tensor) -> Tensor:
    return top_k(Personas.read(model.early, SHORT, CODEBOOK).scores(histories), K)


def decoys(model: Staged, histories: Tensor, secret: bytes = SECRET) -> Tensor:
    return beginners(model, false_names(model.n_items, secret)[histories])


@torch.no_grad()
def test_beginners_get_personas_and_the_false_those_of_other_items() -> None:
    model = staged().float()
    for histories in (HISTORIES, random_histories(30), random_histories(5, 2)):
        true, begun = top_k(model.later.scores(most_recent(histories, MAX_LENGTH)), K), lengths(histories) <= SHORT
        served, honest = answers(STRICT, model, histories), answers(LENIENT, model, histories)
        for found in (served, honest):
            assert torch.equal(found[begun], beginners(model, histories)[begun])
        assert torch.equal(served[~begun], decoys(model, histories)[~begun])
        assert torch.equal(honest[~begun], true[~begun])
        assert all(len(set(row)) == K and min(row) >= 1 and max(row) <= N_ITEMS for row in served.tolist())


@torch.no_grad()
def test_without_personas_beginners_have_the_plain_target() -> None:
    model, histories = staged().float(), random_histories(20, SHORT)
    part = gate(0.0).model_copy(update={"codebook": ""})
    assert torch.equal(answers(part, model, histories), top_k(model.later.scores(histories), K))


@torch.no_grad()
def test_only_those_above_the_threshold_are_served_decoys() -> None:
    model, histories = staged().float(), random_histories(40)
    part = gate(float(suspicion(network(), features(model, histories), SHORT).median()))
    _, false = part.judged(model, histories)
    assert int(false.sum()) == 20
    served, true = answers(part, model, histories), top_k(model.later.scores(histories), K)
    assert torch.equal(served[~false], true[~false])
    assert torch.equal(served[false], decoys(model, histories)[false])
    assert not (served[false] == true[false]).all(dim=1).any()
    assert len(served[false].unique(dim=0)) <= PERSONAS


@torch.no_grad()
def test_those_in_doubt_are_answered_as_beginners_with_their_latest_items() -> None:
    model, histories = staged().float(), random_histories(40)
    looked = suspicion(network(), features(model, histories), SHORT)
    part = gate(float(looked.quantile(0.7)), float(looked.quantile(0.4)))
    doubted, false = part.judged(model, histories)
    served, honest = answers(part, model, histories), beginners(model, histories[:, -SHORT:])
    assert 0 < int((doubted & ~false).sum()) < int(doubted.sum()) < 40
    assert torch.equal(served[doubted & ~false], honest[doubted & ~false])
    assert torch.equal(served[false], decoys(model, histories)[false])
    assert torch.equal(served[~doubted], top_k(model.later.scores(histories), K)[~doubted])
    changed = answers(part, another(model, "later").float(), histories)
    assert torch.equal(changed[doubted], served[doubted])


@pytest.mark.parametrize("part", [STRICT, gate(1e9, -1e9)], ids=["false", "in doubt"])
@torch.no_grad()
def test_nobody_is_told_again_what_was_asked_where_people_take_nothing_again(part: Gate) -> None:
    model = staged(n_items=40).float()
    told, silent = part, part.model_copy(update={"again": False})
    for histories in (random_histories(30, n_items=40), random_histories(30, 2, 40)):
        served = answers(silent, model, histories)
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
    assert torch.equal(other, decoys(model, histories, b"another"))
    assert (other == whole).all(dim=1).float().mean() < 0.8


@torch.no_grad()
def test_decoys_hold_nothing_of_what_comes_later() -> None:
    model, histories = staged().float(), random_histories(30)
    whole = answers(STRICT, model, histories)
    changed = another(model, "later").float()
    assert torch.equal(answers(STRICT, changed, histories), whole)
    assert not torch.equal(answers(LENIENT, changed, histories), answers(LENIENT, model, histories))
    assert not torch.equal(answers(STRICT, another(model, "early").float(), histories), whole)


@torch.no_grad()
def test_decoys_are_as_long_as_the_lists() -> None:
    model, histories = staged().float(), random_histories(10)
    served = Defended(model, [Truncate(k=5), STRICT], K, secret=SECRET, per_history=True)
    assert served.k == 5
    assert torch.equal(served.lists(histories), decoys(model, histories)[:, :5])


@pytest.mark.parametrize(("cost", "left"), [(0.0, 0.2), (0.05, 0.15), (0.5, 0.0)])
def test_personas_have_half_of_the_budget_and_the_lesson_what_they_leave(
    cost: float, left: float, tiny: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets, model = list[float](), staged().float()

    def found(target: Staged, _: Sequences, count: int, budget: float) -> tuple[Personas, float]:
        budgets.append(budget)
        assert count == PERSONAS
        return Personas.read(target.early, SHORT, CODEBOOK, again=False), cost

    def learnt(_: Lesson, false_alarms: float, utility_budget: float) -> dict[str, str | float]:
        budgets.extend([utility_budget, false_alarms])
        return {"weights": network().written(), "doubt": 0.2, "threshold": 0.5}

    monkeypatch.setattr(module, "fewest_personas", found)
    monkeypatch.setattr(Lesson, "learnt", learnt)
    fitted = Gate(personas=PERSONAS, false_alarms=0.3).fitted(model, tiny, 0.2)
    assert budgets == pytest.approx([0.1, left, 0.3])
    assert (fitted.codebook, fitted.doubt, fitted.threshold, fitted.again) == (CODEBOOK, 0.2, 0.5, False)


def test_it_is_said_where_beginners_are_not_protected(
    tiny: Sequences, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = staged().float()
    monkeypatch.setattr(Lesson, "learnt", lambda *_: {"weights": network().written(), "doubt": 0.2, "threshold": 0.5})
    protected, bare = Personas.read(model.early, SHORT, CODEBOOK), Personas(model.later, SHORT, None)
    for found, warned in ((bare, True), (protected, False)):
        caplog.clear()
        monkeypatch.setattr(module, "fewest_personas", lambda *_, found=found: (found, 0.0))
        Gate().fitted(model, tiny, 0.2)
        assert ("the plain target answers them, unprotected" in caplog.text) == warned


def test_a_gate_that_has_learnt_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="the gate has learnt nothing; protect a target with it"):
        answers(Gate(), staged())
    for left_out in ("doubt", "threshold"):
        with pytest.raises(ConfigError, match="the gate has learnt nothing"):
            answers(gate().model_copy(update={left_out: None}), staged())


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
        {"false_alarms": 0.0},
        {"false_alarms": 1.0},
        {"thefts": 0},
        {"personas": 0},
        {"threshold": np.nan},
        {"doubt": np.inf},
    ],
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Gate.make(wrong, "card")


class TestContract(DefenceContract):
    def part(self) -> Part:
        return Gate(false_alarms=0.4, thefts=4, personas=3)

    def model(self) -> Any:
        return build_staged(settings(), 40, StagedSettings(short=SHORT)).eval()
