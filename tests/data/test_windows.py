from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.data import Sequences
from gro.data.windows import Windows, batches, cut

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=8)
LENGTHS = st.integers(1, 9)
SEEDS = st.integers(0, 2**32 - 1)


def counted(sizes: list[int]) -> Sequences:
    """Users of the given sizes whose interactions are numbered 1, 2, ... through all of them."""
    n = sum(sizes)
    tokens = np.array(["[PAD]", *map(str, range(1, n + 1))])
    indptr = np.cumsum([0, *sizes], dtype=np.int64)
    return Sequences("counted", indptr, np.arange(1, n + 1, dtype=np.int32), tokens, np.array(list(map(str, sizes))))


def rows(windows: list[Windows]) -> list[list[int]]:
    return [[item for item in row if item] for batch in windows for row in batch.items.tolist()]


def predicted(windows: list[Windows]) -> list[int]:
    contexts = [context for batch in windows for context in batch.context.tolist()]
    return [item for row, context in zip(rows(windows), contexts, strict=True) for item in row[context:]]


@given(SIZES, LENGTHS, SEEDS, st.integers(1, 5), st.integers(1, 9))
def test_every_interaction_but_the_first_is_a_target_once(
    sizes: list[int], length: int, seed: int, batch_size: int, stride: int
) -> None:
    sequences = counted(sizes)
    targets = predicted(batches(sequences, length, batch_size, seed, min(stride, length)))
    firsts = {int(start) + 1 for start, size in zip(sequences.indptr, sizes, strict=False) if size}
    assert sorted(targets) == sorted(set(range(1, sum(sizes) + 1)) - firsts)


@given(st.integers(0, 60), LENGTHS, SEEDS, st.integers(1, 9))
def test_a_stride_promises_items_before_every_target(size: int, length: int, seed: int, stride: int) -> None:
    stride = min(stride, length)
    for batch in batches(counted([size]), length, 4, seed, stride):
        for row, context in zip(rows([batch]), batch.context.tolist(), strict=True):
            assert context >= min(row[context] - 1, length - stride + 1 if row[0] > 1 else 1)


@given(st.lists(st.integers(20, 60), min_size=20, max_size=30), SEEDS, st.floats(0.1, 0.9))
def test_item_dropout_leaves_out_its_share_and_keeps_the_order(sizes: list[int], seed: int, share: float) -> None:
    passed = rows(batches(counted(sizes), 100, 8, seed, item_dropout=share))
    assert abs(sum(map(len, passed)) / sum(sizes) - (1 - share)) < 0.15
    owner = np.repeat(np.arange(len(sizes)), sizes)
    for row in passed:
        assert row == sorted(set(row))
        assert len({owner[item - 1] for item in row}) == 1


@given(SIZES, LENGTHS, SEEDS)
def test_windows_are_runs_of_one_user(sizes: list[int], length: int, seed: int) -> None:
    sequences = counted(sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    for row in rows(batches(sequences, length, 3, seed)):
        assert 2 <= len(row) <= length + 1
        assert row == list(range(row[0], row[0] + len(row)))
        assert len({owner[item - 1] for item in row}) == 1


@given(SIZES, LENGTHS, SEEDS)
def test_windows_of_a_user_overlap_by_one_and_begin_at_the_start(sizes: list[int], length: int, seed: int) -> None:
    sequences = counted(sizes)
    start, stop, _ = cut(sequences, length, length, np.random.default_rng(seed))
    spans = sorted(zip(start.tolist(), stop.tolist(), strict=True))
    for begin, end in zip(sequences.indptr.tolist(), sequences.indptr[1:].tolist(), strict=False):
        mine = [span for span in spans if begin <= span[0] < end]
        if end - begin < 2:
            assert not mine
            continue
        assert mine[0][0] == begin
        assert mine[-1][1] == end
        assert all(later[0] == earlier[1] - 1 for earlier, later in pairwise(mine))
        assert len(mine) <= 1 + -(-(end - begin - 1) // length)


@given(SIZES, LENGTHS, SEEDS, st.integers(1, 5))
def test_batches_are_right_padded_and_no_wider_than_needed(
    sizes: list[int], length: int, seed: int, batch_size: int
) -> None:
    for batch in batches(counted(sizes), length, batch_size, seed):
        real = batch.items != 0
        assert 1 <= len(batch.items) <= batch_size
        assert real.sum(1).max() == batch.items.shape[1] <= length + 1
        assert (real[:, 1:] <= real[:, :-1]).all()


def test_a_history_that_fits_is_one_whole_window() -> None:
    assert sorted(rows(batches(counted([6, 6]), 5, 4, 0))) == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]


def test_a_seed_is_a_pass(tiny: Sequences) -> None:
    first, again, other = (batches(tiny, 6, 8, seed) for seed in (1, 1, 2))
    assert [batch.items.tolist() for batch in first] == [batch.items.tolist() for batch in again]
    assert [batch.items.tolist() for batch in first] != [batch.items.tolist() for batch in other]
    assert sorted(map(tuple, rows(first))) != sorted(map(tuple, rows(other)))


def test_passes_reach_every_first_cut() -> None:
    firsts = {min(rows(batches(counted([40]), 5, 4, seed)))[-1] for seed in range(100)}
    assert firsts == {2, 3, 4, 5, 6}


def test_windows_of_similar_size_share_a_batch() -> None:
    widths = [batch.items.shape[1] for batch in batches(counted([3, 20] * 16), 30, 4, 0)]
    assert sorted(widths) == [3] * 4 + [20] * 4


@pytest.mark.parametrize("sizes", [[0], [1], [1, 0, 1]])
def test_users_without_a_target_make_no_window(sizes: list[int]) -> None:
    assert batches(counted(sizes), 4, 2, 0) == []
