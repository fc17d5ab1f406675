"""Parts that need nothing but the list, against the same in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain, permutations
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from gro.config import ModelSettings
from gro.defenses.base import Answer, ListPart
from gro.defenses.lists import Replace, Reverse, Shuffle, TieBlocks, Truncate
from gro.defenses.noise import fresh_keys
from gro.models import build

N_ITEMS = 40
MODEL = build(ModelSettings(hidden_size=4, inner_size=4, n_layers=1, n_heads=1, max_length=4), N_ITEMS)
TAIL_PARTS = [Shuffle(), Reverse(), TieBlocks(size=3), Replace(probability=1.0)]

Rows = list[list[int]]


def served(part: ListPart, lists: Rows, n_items: int = N_ITEMS) -> Rows:
    """What the part makes of lists, each with a key of its own."""
    rows = torch.tensor(lists)
    keys = fresh_keys(len(rows), torch.Generator().manual_seed(0))
    answer = Answer(
        model=MODEL,
        histories=torch.ones(len(rows), 1, dtype=torch.int64),
        scores=torch.zeros(len(rows), n_items),
        lists=rows,
        states=None,
        keys=keys,
        stream=0,
        secret=b"",
    )
    found: Tensor = part.lists(answer)
    assert torch.equal(rows, torch.tensor(lists))
    return [[int(item) for item in row] for row in found]


def padded(row: list[int], width: int) -> list[int]:
    return row + [0] * (width - len(row))


def items(row: list[int]) -> list[int]:
    return [item for item in row if item]


@st.composite
def batches(draw: st.DrawFn) -> Rows:
    """Lists of different lengths."""
    width = draw(st.integers(1, 12))
    row = st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=width, unique=True)
    return [padded(each, width) for each in draw(st.lists(row, min_size=1, max_size=4))]


@given(batches(), st.integers(1, 12))
def test_truncate_serves_the_first_items(lists: Rows, k: int) -> None:
    assert served(Truncate(k=k), lists) == [row[:k] for row in lists]


@given(batches(), st.data())
def test_reverse_turns_what_is_below_the_frozen_ranks_around(lists: Rows, data: st.DataObject) -> None:
    width = len(lists[0])
    keep = data.draw(st.integers(0, width - 1))
    expected = [padded(items(row)[:keep] + items(row)[keep:][::-1], width) for row in lists]
    assert served(Reverse(keep=keep), lists) == expected
    assert served(Reverse(keep=keep), expected) == lists


@given(batches(), st.integers(2, 5), st.data())
def test_tie_blocks_are_sorted_by_id(lists: Rows, size: int, data: st.DataObject) -> None:
    width = len(lists[0])
    keep = data.draw(st.integers(0, width - 1))
    expected = []
    for row in map(items, lists):
        blocks = [sorted(row[start : start + size]) for start in range(keep, len(row), size)]
        expected.append(padded(row[:keep] + list(chain(*blocks)), width))
    assert served(TieBlocks(size=size, keep=keep), lists) == expected


@given(st.permutations(range(1, 13)), st.integers(2, 5), st.integers(0, 6), st.randoms(use_true_random=False))
def test_lists_that_differ_only_within_a_block_are_served_alike(
    row: list[int], size: int, keep: int, random: Random
) -> None:
    other = row[:keep]
    for start in range(keep, len(row), size):
        block = row[start : start + size]
        random.shuffle(block)
        other += block
    first, second = served(TieBlocks(size=size, keep=keep), [list(row), other])
    assert first == second


@pytest.mark.parametrize(("k", "keep", "size"), [(6, 0, 2), (6, 2, 3), (6, 1, 4), (5, 0, 3), (5, 4, 2), (4, 0, 5)])
def test_the_bits_that_tie_blocks_hide_are_those_of_the_orders_that_look_alike(k: int, keep: int, size: int) -> None:
    part = TieBlocks(size=size, keep=keep)
    orders = [list(order) for order in permutations(range(1, k + 1))]
    (alike,) = set(Counter(tuple(row) for row in served(part, orders)).values())
    assert math.log2(alike) == pytest.approx(part.bits(k))


@pytest.mark.parametrize("part", TAIL_PARTS, ids=lambda part: part.name())
@given(batches(), st.data())
def test_frozen_ranks_and_padding_are_as_they_were(part: ListPart, lists: Rows, data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(lists[0]) - 1))
    for before, after in zip(lists, served(part.model_copy(update={"keep": keep}), lists), strict=True):
        assert after[:keep] == before[:keep]
        assert [item == 0 for item in after] == [item == 0 for item in before]
        assert len(set(items(after))) == len(items(after))
        if not isinstance(part, Replace):
            assert sorted(after) == sorted(before)


@pytest.mark.parametrize("row", [[7, 1, 2, 3], [7, 1, 2, 3, 0, 0]])
def test_every_order_of_a_shuffled_tail_is_as_likely(row: list[int]) -> None:
    found = Counter(tuple(items(each)[1:]) for each in served(Shuffle(keep=1), [row] * 6000))
    assert set(found) == set(permutations([1, 2, 3]))
    assert stats.chisquare(list(found.values())).pvalue > 0.001


def test_a_replaced_item_is_any_that_the_list_does_not_hold() -> None:
    row, keep = [*range(11, 21), 0, 0], 2
    after = np.array(served(Replace(probability=0.3, keep=keep), [row] * 4000))
    exchanged = after != row
    assert exchanged.mean(axis=0) == pytest.approx([0, 0, *[0.3] * 8, 0, 0], abs=0.03)
    counts = np.bincount(after[exchanged], minlength=N_ITEMS + 1)
    assert counts[row].sum() == 0
    assert stats.chisquare(counts[[item for item in range(1, N_ITEMS + 1) if item not in row]]).pvalue > 0.001


@pytest.mark.parametrize("others", [0, 1, 2, 6])
def test_where_the_catalogue_has_too_few_others_items_stay(others: int) -> None:
    row = [1, 2, 3, 4]
    (after,) = served(Replace(probability=1.0), [row], n_items=len(row) + others)
    stayed = [item for item, before in zip(after, row, strict=True) if item == before]
    assert len(stayed) == max(0, len(row) - others)
    assert len(set(after)) == len(row)
