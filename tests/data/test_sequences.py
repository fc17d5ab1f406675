from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.data.sequences import Sequences, sequences_from_rows
from gro.errors import DataError

Histories = list[list[int]]

histories = st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=12), min_size=1, max_size=6)
NAMES = np.array([f"t{i}" for i in range(10)])


def rows(histories: Histories) -> list[tuple[int, int, int]]:
    """(user, item, time) in a file's order: users one after the other."""
    return [(u, item, 10 * t) for u, items in enumerate(histories) for t, item in enumerate(items)]


def build(table: list[tuple[int, int, int]]) -> Sequences:
    users, items, times = (np.array(column, np.int32) for column in zip(*table, strict=True))
    return sequences_from_rows("toy", users, items, times, NAMES, NAMES)


def in_tokens(sequences: Sequences) -> dict[str, list[str]]:
    return {str(t): sequences.item_tokens[sequences.history(u)].tolist() for u, t in enumerate(sequences.user_tokens)}


@given(histories)
def test_round_trip(histories: Histories) -> None:
    sequences = build(rows(histories))
    assert in_tokens(sequences) == {f"t{u}": [f"t{i}" for i in items] for u, items in enumerate(histories)}
    assert sequences.n_users == len(histories)
    assert sequences.n_items == len({i for items in histories for i in items})
    assert sequences.n_interactions == len(sequences.items) == sum(map(len, histories))
    assert sequences.items.dtype == np.int32
    assert sequences.items.min() == 1
    assert sequences.items.max() == sequences.n_items


@given(histories, st.randoms(use_true_random=False))
def test_order_of_rows_with_distinct_times_does_not_matter(histories: Histories, random: object) -> None:
    table = rows(histories)
    shuffled = table.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert in_tokens(build(shuffled)) == in_tokens(build(table))


@given(histories)
def test_tied_times_keep_the_files_order(histories: Histories) -> None:
    table = rows(histories)
    tied = [(user, item, 5) for user, item, _ in table]
    assert in_tokens(build(tied)) == in_tokens(build(table))


@given(histories, st.integers(1, 14))
def test_leave_one_out_is_a_partition(histories: Histories, max_length: int) -> None:
    sequences = build(rows(histories))
    train, valid, test = sequences.train, sequences.valid, sequences.test
    everyone = np.arange(sequences.n_users)
    for u in range(sequences.n_users):
        parts = [*train.history(u), valid.targets[u], test.targets[u]]
        assert parts == sequences.history(u).tolist()
    assert (train.n_users, train.n_items) == (sequences.n_users, sequences.n_items)
    for held, behind in ((valid, 2), (test, 1)):
        padded = held.histories(everyone, max_length)
        assert padded.dtype == held.targets.dtype == np.int64
        assert padded.shape[1] == min(max_length, held.lengths.max())
        for u in range(sequences.n_users):
            before = sequences.history(u)[:-behind]
            assert held.lengths[u] == len(before)
            assert padded[u][padded[u] > 0].tolist() == before[-max_length:].tolist()
            assert not padded[u][min(len(before), max_length) :].any()


def test_histories_follow_the_asked_users() -> None:
    test = build(rows([[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]])).test
    assert test.histories([2, 0, 2], 2).tolist() == [[8, 9], [2, 3], [8, 9]]
    assert test.histories([1], 50).tolist() == [[5, 6]]
    assert test.histories([], 50).shape == (0, 0)


@pytest.mark.parametrize("user", [-1, 1])
def test_unknown_user_is_refused(user: int) -> None:
    sequences = build(rows([[0, 1, 2]]))
    with pytest.raises(IndexError):
        sequences.test.histories([user], 5)
    with pytest.raises(IndexError):
        sequences.history(user)


@pytest.mark.parametrize("view", ["train", "valid", "test"])
def test_two_items_cannot_be_left_out(view: str) -> None:
    sequences = build(rows([[0, 1, 2], [3, 4]]))
    with pytest.raises(DataError, match="user 't1' has 2"):
        getattr(sequences, view)


def test_digest_tells_contents_apart() -> None:
    sequences = build(rows([[0, 1, 2], [3, 4, 5, 0]]))
    assert sequences.digest == build(rows([[0, 1, 2], [3, 4, 5, 0]])).digest
    assert sequences.digest == dataclasses.replace(sequences, name="other").digest
    others = [
        dataclasses.replace(sequences, items=sequences.items[::-1]),
        dataclasses.replace(sequences, indptr=np.array([0, 4, 7])),
        dataclasses.replace(sequences, item_tokens=np.char.replace(sequences.item_tokens, "t0", "x")),
        dataclasses.replace(sequences, user_tokens=np.array(["t0t", "1"])),
        sequences.train,
    ]
    assert len({sequences.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_digest_does_not_depend_on_the_machines_integers() -> None:
    sequences = build(rows([[0, 1, 2]]))
    wide = dataclasses.replace(sequences, items=sequences.items.astype(np.int64), indptr=sequences.indptr.astype(">i8"))
    assert wide.digest == sequences.digest
