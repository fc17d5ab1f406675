from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gro import _recbole
from gro.config import ModelSettings
from gro.data import Sequences
from gro.errors import GroError
from gro.metrics import utility
from gro.models import Popularity, build
from gro.ranking import lists, places, ranks, top_k

Ints = npt.NDArray[np.int64]
LEVELS = [-float("inf"), -1.5, -0.0, 0.0, 1.0, 2.0]


def sequences(histories: Iterable[Sequence[int]], n_items: int) -> Sequences:
    rows = list(histories)
    return Sequences(
        name="made",
        indptr=np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64),
        items=np.concatenate([np.array(row, dtype=np.int32) for row in rows]),
        item_tokens=np.array(["[PAD]", *map(str, range(1, n_items + 1))]),
        user_tokens=np.array([f"u{user}" for user in range(len(rows))]),
    )


def random_sequences(n_users: int, n_items: int, seed: int) -> Sequences:
    rng = np.random.default_rng(seed)
    return sequences(
        (rng.integers(1, n_items + 1, length).tolist() for length in rng.integers(3, 15, n_users)), n_items
    )


def order(scores: Tensor) -> Ints:
    """Item ids of each row, best score first and lower id first among equals."""
    values = scores.double().numpy()
    return np.stack([np.lexsort((np.arange(values.shape[1]), -row)) for row in values]) + 1


class Hashed(nn.Module):
    """Scores that depend on every item of a history, with many ties and whatever the padding."""

    def __init__(self, n_items: int, max_length: int = 6, n_levels: int = 4) -> None:
        super().__init__()
        self.n_items, self.max_length, self.n_levels = n_items, max_length, n_levels
        self.shapes: list[tuple[int, int]] = []
        self.padding = 0

    def scores(self, histories: Tensor) -> Tensor:
        self.shapes.append((histories.shape[0], histories.shape[1]))
        self.padding += int((histories == 0).sum())
        columns = torch.arange(1, self.n_items + 1)
        mixed = (histories[:, :, None] * (columns * 7919 + 13)) % 101
        return ((mixed * (histories > 0)[:, :, None]).sum(dim=1) % self.n_levels).float()


class Noted(nn.Module):
    """A model that notes in which mode it is asked."""

    def __init__(self, n_items: int, width: int | None = None, fails: bool = False) -> None:
        super().__init__()
        self.n_items, self.max_length = n_items, 5
        self.width, self.fails = width or n_items, fails
        self.table = nn.Linear(1, 1)
        self.frozen = nn.Dropout()
        self.noted: list[tuple[bool, bool, bool]] = []

    def scores(self, histories: Tensor) -> Tensor:
        self.noted.append((self.training, self.frozen.training, torch.is_inference_mode_enabled()))
        if self.fails:
            raise RuntimeError("broken")
        return torch.zeros(len(histories), self.width)


@st.composite
def tied_scores(draw: st.DrawFn) -> Tensor:
    n_items = draw(st.integers(1, 12))
    levels = st.lists(st.sampled_from(LEVELS), min_size=n_items, max_size=n_items).filter(lambda row: max(row) > -9)
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    return torch.tensor(draw(st.lists(levels, min_size=1, max_size=5)), dtype=dtype)


@given(tied_scores(), st.data())
def test_top_k_is_the_stable_order_under_ties(scores: Tensor, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, scores.shape[1]))
    before = scores.clone()
    listed = order(scores)
    masked = np.take_along_axis(scores.double().numpy(), listed - 1, axis=1) == -np.inf
    np.testing.assert_array_equal(top_k(scores, k).numpy(), np.where(masked, 0, listed)[:, :k])
    assert torch.equal(scores, before)


@given(tied_scores())
def test_a_masked_item_has_the_last_place_and_any_other_that_of_the_stable_order(scores: Tensor) -> None:
    place_of = order(scores).argsort(axis=1) + 1
    for column in range(scores.shape[1]):
        masked = (scores[:, column] == -np.inf).numpy()
        found = places(scores, torch.full((len(scores),), column + 1)).numpy()
        np.testing.assert_array_equal(found, np.where(masked, scores.shape[1], place_of[:, column]))


@pytest.mark.parametrize("k", [1, 10, 100, 2999, 3000])
@pytest.mark.parametrize("n_levels", [1, 3, 200, 10**9])
def test_top_k_of_a_large_catalogue(n_levels: int, k: int) -> None:
    generator = torch.Generator().manual_seed(n_levels)
    scores = torch.randint(n_levels, (3, 3000), generator=generator).double()
    found = top_k(scores, k)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), order(scores)[:, :k])


def test_top_k_of_scores_that_share_or_skip_memory() -> None:
    counts = torch.tensor([2.0, 5.0, 2.0, 5.0])
    assert top_k(counts.expand(3, -1), 3).tolist() == [[2, 4, 1]] * 3
    assert top_k(counts.repeat_interleave(2)[None, ::2], 3).tolist() == [[2, 4, 1]]


@pytest.mark.parametrize("k", [0, -1, 5])
def test_top_k_refuses_lists_longer_than_the_catalogue(k: int) -> None:
    with pytest.raises(GroError, match=f"k is {k}; a list has between 1 and 4 items"):
        top_k(torch.zeros(2, 4), k)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("column", [0, 3])
def test_scores_that_are_not_finite_are_refused(value: float, column: int) -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 2)
    scores[1, column] = value
    with pytest.raises(GroError, match="scores are not finite") as error:
        top_k(scores, 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_ranks_of_a_diverged_model_are_refused(value: float) -> None:
    class Diverged(Hashed):
        def scores(self, histories: Tensor) -> Tensor:
            return torch.full((len(histories), self.n_items), value)

    for measure in (ranks, lambda m, h: lists(m, h, 2)):
        with pytest.raises(GroError, match="scores are not finite"):
            measure(Diverged(5), random_sequences(4, 5, 0).test)


def test_large_half_precision_scores_are_finite() -> None:
    class Large(Hashed):
        def scores(self, histories: Tensor) -> Tensor:
            return torch.linspace(60000, 50000, self.n_items, dtype=torch.float16).expand(len(histories), -1)

    data = random_sequences(4, 5, 0)
    np.testing.assert_array_equal(ranks(Large(5), data.test), data.test.targets)


@given(st.integers(1, 12), st.integers(2, 9), st.integers(1, 8), st.integers(1, 14), st.integers(0, 99))
def test_ranks_and_lists_are_a_dense_sort_user_by_user(
    n_users: int, n_items: int, max_length: int, batch_size: int, seed: int
) -> None:
    data = random_sequences(n_users, n_items, seed)
    model = Hashed(n_items, max_length)
    for held_out, end in ((data.test, -1), (data.valid, -2)):
        rows = [data.history(user).astype(np.int64) for user in range(n_users)]
        sorted_ids = [order(model.scores(torch.from_numpy(row[None, :end][:, -max_length:])))[0] for row in rows]
        expected = [ids.tolist().index(row[end]) + 1 for ids, row in zip(sorted_ids, rows, strict=True)]
        found = ranks(model, held_out, batch_size)
        assert found.dtype == np.int64
        assert found.tolist() == expected
        np.testing.assert_array_equal(lists(model, held_out, n_items, batch_size), sorted_ids)


@given(st.integers(0, 99), st.integers(1, 9))
def test_a_rank_is_the_place_in_the_list(seed: int, k: int) -> None:
    held_out = random_sequences(10, 9, seed).test
    model = Hashed(9)
    places = ranks(model, held_out)
    hits = lists(model, held_out, k) == held_out.targets[:, None]
    np.testing.assert_array_equal(hits.any(axis=1), places <= k)
    np.testing.assert_array_equal(hits.argmax(axis=1)[places <= k] + 1, places[places <= k])


def test_seen_items_are_not_masked() -> None:
    class Repeats(Hashed):
        def scores(self, histories: Tensor) -> Tensor:
            last = histories.gather(1, (histories > 0).sum(dim=1, keepdim=True) - 1)
            return (torch.arange(1, self.n_items + 1) == last).float()

    data = sequences([[1, 2, 4, 4], [3, 5, 5]], 5)
    assert ranks(Repeats(5), data.test).tolist() == [1, 1]
    assert lists(Repeats(5), data.test, 2).tolist() == [[4, 1], [5, 1]]


def test_users_of_similar_length_share_a_batch() -> None:
    lengths = [3, 40] * 8
    data = sequences(([1] * length for length in lengths), 4)
    model = Hashed(4, max_length=50)
    ranks(model, data.test, batch_size=8)
    assert model.shapes == [(8, 2), (8, 39)]
    assert model.padding == 0


def test_histories_are_scored_in_inference_and_every_mode_comes_back() -> None:
    model = Noted(6).train()
    model.frozen.eval()
    held_out = random_sequences(5, 6, 0).test
    assert ranks(model, held_out).tolist() == held_out.targets.tolist()
    lists(model, held_out, 3)
    assert set(model.noted) == {(False, False, True)}
    assert (model.training, model.table.training, model.frozen.training) == (True, True, False)
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(("model", "error"), [(Noted(6, fails=True), RuntimeError), (Noted(6, width=7), GroError)])
def test_modes_come_back_after_a_failure(model: Noted, error: type[Exception]) -> None:
    with pytest.raises(error):
        ranks(model.train(), random_sequences(5, 6, 0).test)
    assert model.training
    assert model.frozen.training
    assert not torch.is_inference_mode_enabled()


def test_a_column_for_padding_is_refused() -> None:
    with pytest.raises(GroError, match=r"scores are \[5, 7\]; they must be \[5, 6\], one column per item and none for"):
        ranks(Noted(6, width=7), random_sequences(5, 6, 0).test)


def test_popularity_ranks_ties_by_item_id() -> None:
    data = sequences([[2, 3, 1, 4], [3, 2, 4, 2], [5, 5, 1, 1]], 5)
    model = Popularity(data.train)
    assert model.scores(torch.ones(1, 1, dtype=torch.int64)).tolist() == [[0, 2, 2, 0, 2]]
    assert ranks(model, data.test).tolist() == [5, 1, 4]
    assert lists(model, data.test, 4).tolist() == [[2, 3, 5, 1]] * 3


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "NARM", "BERT4Rec"])
def test_real_models_rank_alike_in_any_batch_and_train_on_afterwards(name: str) -> None:
    data = random_sequences(20, 30, 1)
    model = (
        build(ModelSettings.model_validate({"model": name, "hidden_size": 8, "max_length": 10}), 30).double().train()
    )
    together, alone = ranks(model, data.test, 20), ranks(model, data.test, 1)
    assert together.tolist() == alone.tolist()
    assert model.training
    loss = model.loss(torch.from_numpy(data.train.items[:12].astype(np.int64)).view(2, 6))
    loss.backward()
    assert model.item_embedding.weight.grad is not None


def test_utility_of_ranks_equals_recbole_on_the_lists() -> None:
    held_out = random_sequences(200, 50, 2).test
    model = Hashed(50, n_levels=97)
    shown = torch.from_numpy(lists(model, held_out, 20))
    theirs = _recbole.evaluate_lists(shown, torch.from_numpy(held_out.targets))
    assert utility(ranks(model, held_out)) == pytest.approx(theirs, rel=0, abs=1e-12)
