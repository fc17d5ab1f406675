"""Personas: a few lists for all beginners."""

from __future__ import annotations

import base64
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.defenses import personas as module
from gro.defenses.astray import astray, elsewhere, others
from gro.defenses.personas import Personas, fewest_personas, first_steps, lost, misled, taken_again
from gro.errors import ConfigError
from gro.metrics import ndcg
from gro.models import Recommender, StateRecommender, padded
from gro.models.base import lengths, most_recent
from gro.optimizer.staged import HELD, Staged, StagedSettings, build_staged, witnesses
from gro.ranking import ranks, top_k

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
N_ITEMS, SHORT, WIDTH = 20, 3, 8


def staged(name: str = "SASRec") -> Staged:
    small = {"model": name, "hidden_size": WIDTH, "inner_size": 8, "n_layers": 1, "n_heads": 1, "max_length": 8}
    made = build_staged(ProtectionSettings.model_validate(small), N_ITEMS, StagedSettings(short=SHORT)).eval()
    with torch.no_grad():
        for member in made.models():
            member.item_embedding.weight.mul_(10)
    return made


def sequences(sizes: list[int]) -> Sequences:
    rng = np.random.default_rng(0)
    tokens = np.array([str(item) for item in range(N_ITEMS + 1)])
    users = np.array([f"u{user}" for user in range(len(sizes))])
    items = rng.integers(1, N_ITEMS + 1, sum(sizes)).astype(np.int32)
    return Sequences("some", np.cumsum([0, *sizes]), items, tokens, users)


LONG, SHORT_ONES = sequences([9, 12, 7] * 20), sequences([3, 4, 5, 9] * 15)


def states(model: StateRecommender, histories: Tensor) -> Tensor:
    with torch.no_grad():
        return model.prefix_states(histories, lengths(histories)[:, None] - 1)[:, 0]


def histories(count: int, width: int = 6) -> Tensor:
    drawn = torch.randint(1, N_ITEMS + 1, (count, width))
    return drawn * (torch.arange(width) < torch.randint(1, width + 1, (count, 1)))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_each_history_has_the_list_of_the_nearest_state(name: str) -> None:
    early = staged(name).early
    codebook, asked = torch.randn(5, WIDTH), histories(40)
    found = Personas(early, SHORT, codebook).scores(asked)
    for row, history in zip(found, asked, strict=True):
        own = states(early, most_recent(history[None], SHORT))[0]
        nearest = min(codebook, key=lambda state: float((state - own).norm()))
        torch.testing.assert_close(row, early.item_scores(nearest[None])[0])


@torch.no_grad()
def test_there_are_as_many_lists_as_personas_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENOUGH", 0.0)
    personas, _ = fewest_personas(staged(), LONG, 4, 1.0)
    lists = top_k(personas.scores(histories(500)), 10)
    assert 1 < len(lists.unique(dim=0)) <= 4


@torch.no_grad()
def test_an_answer_does_not_depend_on_what_is_asked_beside_it() -> None:
    personas, asked = fewest_personas(staged(), LONG, 4, 1.0)[0], histories(30)
    whole = personas.scores(asked)
    torch.testing.assert_close(torch.cat([personas.scores(row[None]) for row in asked]), whole)


@pytest.mark.parametrize("answer", [None, torch.ones(2, WIDTH)])
@torch.no_grad()
def test_false_beginners_hear_a_persona_and_others_what_leads_astray_unless_they_heard_nothing(
    answer: Tensor | None,
) -> None:
    model, asked, instead = staged(), histories(60), others(torch.rand(N_ITEMS), b"owner")
    personas = Personas(model.early if answer is not None else model.later, SHORT, answer)
    size, seen = lengths(asked), set()
    since = (torch.rand(60) * size).long()
    found = misled(model.later, personas, asked, since, instead)
    for row, history, end, begin in zip(found, asked, size.tolist(), since[:, None], strict=True):
        known = history[None, :end]
        if end <= SHORT:
            wanted = personas.astray(known, instead)
        elif answer is not None and int(begin) <= SHORT:
            wanted = elsewhere(model.later, known, instead)
        else:
            wanted = astray(model.later, known, begin, 0, instead)
        torch.testing.assert_close(row[None], wanted)
        seen.add((end <= SHORT, int(begin) <= SHORT))
    assert len(seen) == 3


@torch.no_grad()
def test_without_a_codebook_it_is_the_model_on_the_latest_items() -> None:
    early, asked = staged().early, histories(30)
    torch.testing.assert_close(Personas(early, SHORT, None).scores(asked), early.scores(most_recent(asked, SHORT)))


def test_states_are_those_after_the_beginnings_without_what_is_held_out() -> None:
    early = staged().early
    found = module._beginnings(early, SHORT, SHORT_ONES, np.random.default_rng(0))
    begun = [SHORT_ONES.history(user)[:-HELD][:SHORT].astype(np.int64) for user in range(SHORT_ONES.n_users)]
    parts = [torch.from_numpy(history[:end]) for history in begun for end in range(1, len(history) + 1)]
    wanted = states(early, padded(parts)).double().unique(dim=0)
    assert found.shape == wanted.shape
    assert bool((torch.cdist(wanted, found).amin(dim=1) < 1e-5).all())


def test_centroids_are_in_the_midst_of_their_states() -> None:
    clusters = torch.randn(3, WIDTH).double() * 100
    cloud = (clusters[:, None] + torch.randn(3, 50, WIDTH).double()).flatten(0, 1)
    found = module._centroids(cloud, 3, np.random.default_rng(0)).double()
    wanted = cloud.view(3, 50, WIDTH).mean(dim=1)
    assert bool((torch.cdist(wanted, found).amin(dim=1) < 1e-3).all())
    assert len(module._centroids(cloud[:2], 16, np.random.default_rng(0))) == 2


def test_where_people_begin_alike_there_are_no_more_personas_than_beginnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENOUGH", 0.0)
    alike = replace(LONG, items=np.full_like(LONG.items, 7))
    with warnings.catch_warnings(action="error"):
        codebook = fewest_personas(staged(), alike, 16, 1.0)[0].codebook
    assert codebook is not None
    assert 1 <= len(codebook) <= SHORT
    assert bool(codebook.isfinite().all())


@torch.no_grad()
def test_a_model_of_more_figures_has_the_same_personas() -> None:
    early, codebook, asked = staged().early, torch.randn(5, WIDTH), histories(40)
    found = top_k(Personas(early, SHORT, codebook).scores(asked), 10)
    wide = Personas(early.double(), SHORT, codebook).scores(asked)
    assert wide.dtype == torch.float64
    assert torch.equal(top_k(wide, 10), found)


def numpy_state() -> list[int]:
    state: list[int] = np.random.get_state(legacy=False)["state"]["key"].tolist()  # noqa: NPY002  it must stay as it is
    return state


def test_learning_personas_leaves_the_model_and_the_generators_as_they_were() -> None:
    model = staged().train()
    state, drawn = torch.get_rng_state(), numpy_state()
    one, again = (fewest_personas(model, SHORT_ONES, 4, 1.0)[0] for _ in range(2))
    assert one.written() == again.written()
    assert torch.equal(torch.get_rng_state(), state)
    assert numpy_state() == drawn
    assert all(part.training for part in model.modules())


def test_what_is_lost_is_the_part_of_all_ndcg_that_beginners_no_longer_have() -> None:
    later, found = staged().later, Personas(staged().early, SHORT, torch.randn(2, WIDTH))
    before, after = (ndcg(ranks(model, SHORT_ONES.valid), 10) for model in (later, found))
    begun = SHORT_ONES.valid.lengths <= SHORT
    assert 0 < begun.sum() < len(begun)
    wanted = sum(before[user] - after[user] for user in np.flatnonzero(begun)) / sum(before)
    assert lost(found, before, SHORT_ONES.valid) == pytest.approx(max(0.0, wanted))
    assert lost(found, ndcg(ranks(later, LONG.valid), 10), LONG.valid) == 0
    assert lost(later, before, SHORT_ONES.valid) == 0


def test_where_nobody_is_a_beginner_the_fewest_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENOUGH", 0.0)
    found, cost = fewest_personas(staged(), LONG, 4, 0.0)
    assert found.codebook is not None
    assert (len(found.codebook), cost) == (4, 0.0)


def test_there_are_more_where_beginners_lose_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = iter([0.3, 0.2, 0.1])
    monkeypatch.setattr(module, "ENOUGH", 0.0)
    monkeypatch.setattr(module, "lost", lambda *_: next(costs))
    found, cost = fewest_personas(staged(), SHORT_ONES, 2, 0.15)
    assert found.codebook is not None
    assert (len(found.codebook), cost) == (2 * module.GROWTH**2, 0.1)


def test_where_none_will_do_the_plain_target_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "lost", lambda *_: 0.5)
    model = staged()
    found, cost = fewest_personas(model, SHORT_ONES, 2, 0.15)
    assert (found.codebook, cost, found.written()) == (None, 0.0, "")
    assert found.model is model.later
    assert Personas.read(staged().early, SHORT, "").codebook is None


def worth(model: Recommender, known: Sequences) -> float:
    """NDCG@10 of the first items of people whom the witness does not know, row by row."""
    earned = []
    for user in np.setdiff1d(np.arange(known.n_users), witnesses(known)).tolist():
        history = torch.from_numpy(known.history(user)[:-HELD].astype(np.int64))
        for at in range(1, min(SHORT + 1, len(history))):
            with torch.no_grad():
                place = 1 + int(
                    (model.scores(history[None, :at]) > model.scores(history[None, :at])[0, history[at] - 1]).sum()
                )
            earned.append(1 / np.log2(1 + place) if place <= 10 else 0.0)
    return float(np.mean(earned))


def test_there_are_more_where_the_witness_is_worth_more_to_beginners(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = staged(), list[float]()
    for part in (0.0, 0.8, 1.1, 100.0):
        monkeypatch.setattr(module, "ENOUGH", part)
        found, _ = fewest_personas(model, LONG, 2, 1.0)
        if found.codebook is None:
            assert found.model is model.later
            sizes.append(np.inf)
        else:
            assert worth(found, LONG) >= part * worth(model.witness, LONG) - 1e-6
            sizes.append(len(found.codebook))
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (2, np.inf)


@torch.no_grad()
def test_first_steps_are_those_of_people_whom_the_witness_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    model = staged()
    found = ndcg(ranks(model.early, first_steps(SHORT_ONES, SHORT)), 10)
    assert found.mean() == pytest.approx(worth(model.early, SHORT_ONES))
    monkeypatch.setattr(module, "STEPS", 7)
    assert len(first_steps(SHORT_ONES, SHORT).targets) == 7


@torch.no_grad()
def test_what_is_in_a_history_stands_behind_everything_else() -> None:
    early, codebook, asked = staged().early, torch.randn(5, WIDTH), histories(40)
    plain = Personas(early, SHORT, codebook).scores(asked)
    found = Personas(early, SHORT, codebook, again=False).scores(asked)
    for row, whole, history in zip(top_k(found, N_ITEMS), top_k(plain, N_ITEMS), asked, strict=True):
        there = [item for item in whole.tolist() if item in history.tolist()]
        assert row.tolist() == [item for item in whole.tolist() if item not in there] + there


def test_items_that_people_have_again_are_counted_without_what_is_held_out() -> None:
    again = total = 0
    for user in range(SHORT_ONES.n_users):
        history = SHORT_ONES.history(user)[:-HELD].tolist()
        total += len(history)
        again += sum(item in history[:at] for at, item in enumerate(history))
    assert again > 0
    assert taken_again(SHORT_ONES) == pytest.approx(again / total)


@pytest.mark.parametrize(("seldom", "again"), [(0.5, False), (0.0, True)])
def test_personas_tell_again_only_where_people_take_again(
    seldom: float, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SELDOM", seldom)
    monkeypatch.setattr(module, "ENOUGH", 0.0)
    assert fewest_personas(staged(), LONG, 4, 1.0)[0].again == again


@torch.no_grad()
def test_personas_are_written_and_read_exactly() -> None:
    early = staged().early
    one = Personas(early, SHORT, torch.randn(5, WIDTH))
    again = Personas.read(early, SHORT, one.written())
    assert again.written() == one.written()
    asked = histories(20)
    assert torch.equal(again.scores(asked), one.scores(asked))


@pytest.mark.parametrize(
    "written",
    [
        "AAAA",
        "no base64!",
        "\N{SNOWMAN}",
        base64.b64encode(np.full(WIDTH, np.inf, "<f4").tobytes()).decode(),
        base64.b64encode(np.zeros(WIDTH + 1, "<f4").tobytes()).decode(),
    ],
)
def test_codebooks_that_are_none_are_refused(written: str) -> None:
    with pytest.raises(ConfigError, match=f"the gate's 'codebook' is not one of states of {WIDTH} figures"):
        Personas.read(staged().early, SHORT, written)
