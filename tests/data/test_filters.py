from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gro.data
from gro.config import DataSettings
from gro.data.atomic import Interactions
from gro.data.filters import apply_filters, parse_intervals, within
from gro.errors import DataError

Write = Callable[..., DataSettings]
Pairs = list[tuple[int, int]]

RATED = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ROWS = "u\ta\t1\t1\nu\tb\t2\t2\nu\tc\t3\t3\nu\td\t\t4\nu\te\t5\t5\nu\tf\t4\t6\n"


def interactions(pairs: Pairs) -> Interactions:
    users, items = np.array(pairs, np.int32).reshape(-1, 2).T
    times = np.arange(len(pairs), dtype=np.float64)
    names = np.array([str(i) for i in range(50)])
    return Interactions(Path("toy.inter"), users, items, times, {"timestamp": times}, names, names)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("[2,4]", [2, 3, 4]),
        ("(2,4)", [3]),
        ("[2,4)", [2, 3]),
        ("(2,4]", [3, 4]),
        ("[3,inf)", [3, 4, 5]),
        ("(-inf,2]", [0, 1, 2]),
        (" (0,1] ; [ 3 , 4 ) ", [1, 3]),
    ],
)
def test_intervals_mean_what_recbole_says(text: str, inside: list[int]) -> None:
    assert np.flatnonzero(within(np.arange(6), parse_intervals(text, "key"))).tolist() == inside


@pytest.mark.parametrize(
    "text", ["", "5", "[5", "5,inf", "[5,inf", "[5]", "[1,2,3]", "[a,2]", "[4,2]", "[nan,2]", "[1,2];"]
)
def test_malformed_interval_names_the_setting(write: Write, text: str) -> None:
    with pytest.raises(DataError, match="user_inter_num_interval is ") as caught:
        gro.data.load(write(RATED + ROWS, user_inter_num_interval=text))
    assert "[5,inf)" in str(caught.value)


def test_value_interval_drops_missing_values_too(write: Write) -> None:
    sequences = gro.data.load(write(RATED + ROWS, val_interval={"rating": "[0,2];[4,9]", "timestamp": "(1,inf)"}))
    assert sequences.item_tokens[1:].tolist() == ["b", "e", "f"]


def test_value_interval_on_a_missing_column_names_the_nearest(write: Write) -> None:
    with pytest.raises(DataError, match=r"val_interval.ratings: .*toy.inter has rating, timestamp.*mean 'rating'"):
        gro.data.load(write(RATED + ROWS, val_interval={"ratings": "[3,inf)"}))


def test_nobody_left_names_the_filters(write: Write) -> None:
    with pytest.raises(
        DataError, match=r"no user is left after filtering; widen user_inter_num_interval = '\[9,inf\)'"
    ):
        gro.data.load(write(RATED + ROWS, user_inter_num_interval="[9,inf)"))


@pytest.mark.parametrize(("keep", "times"), [("first", [0, 1, 2]), ("last", [1, 2, 3])])
def test_repeated_pairs(keep: str, times: list[int]) -> None:
    settings = DataSettings.make({"dataset": "toy", "rm_dup_inter": keep})
    assert apply_filters(interactions([(1, 7), (1, 8), (2, 7), (1, 7)]), settings).times.tolist() == times


pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60)


def literal_core(pairs: Pairs, users: Callable[[int], bool], items: Callable[[int], bool]) -> Pairs:
    """RecBole's loop, written out."""
    while True:
        by_user, by_item = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = [(u, i) for u, i in pairs if users(by_user[u]) and items(by_item[i])]
        if len(kept) == len(pairs):
            return kept
        pairs = kept


@given(pairs, st.integers(1, 4), st.integers(1, 4), st.integers(4, 12))
def test_core_is_recboles_loop_and_a_fixpoint(pairs: Pairs, low_user: int, low_item: int, high_item: int) -> None:
    settings = DataSettings(
        dataset="toy",
        user_inter_num_interval=f"[{low_user},inf)",
        item_inter_num_interval=f"[{low_item},{high_item})",
    )
    expected = literal_core(pairs, lambda n: n >= low_user, lambda n: low_item <= n < high_item)
    if not expected:
        with pytest.raises(DataError, match="no user is left"):
            apply_filters(interactions(pairs), settings)
        return
    core = apply_filters(interactions(pairs), settings)
    assert list(zip(core.users.tolist(), core.items.tolist(), strict=True)) == expected
    assert apply_filters(core, settings).times.tolist() == core.times.tolist()
