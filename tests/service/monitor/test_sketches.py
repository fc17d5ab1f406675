from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gro.service.monitor import sketches
from gro.service.monitor.hashing import SKIPPED, TAIL, ends, mixed

histories = st.lists(st.integers(1, 10**9), max_size=40)


@given(histories, st.integers(0, SKIPPED))
def test_the_end_of_a_history_is_that_of_the_longer_one_without_its_last_items(items: list[int], dropped: int) -> None:
    shorter = items[: max(len(items) - dropped, 0)]
    if len(shorter) >= TAIL or len(items) <= SKIPPED + TAIL:
        assert ends(mixed(np.array(items, np.int64)))[dropped] == ends(mixed(np.array(shorter, np.int64)))[0]


@given(histories.filter(lambda items: len(set(items)) > 1))
def test_the_end_of_a_history_depends_on_the_order(items: list[int]) -> None:
    last = items[-TAIL:]
    if last != last[::-1]:
        there, back = (ends(mixed(np.array(each, np.int64)))[0] for each in (last, last[::-1]))
        assert there != back


def test_nothing_is_left_of_a_history_shorter_than_what_is_dropped() -> None:
    assert ends(mixed(np.array([7])))[1:].tolist() == [0] * SKIPPED


@given(st.integers(0, 800), st.integers(0, 2**32))
def test_counting_is_right_within_a_tenth(n: int, seed: int) -> None:
    bits = np.zeros(sketches.BITS // 8, np.uint8)
    items = np.random.default_rng(seed).choice(10**6, n, replace=False)
    for part in np.array_split(items, 5):
        sketches.add(bits, mixed(part))
        sketches.add(bits, mixed(part))
    assert abs(sketches.distinct(bits) - n) <= max(0.12 * n, 5)


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_signatures_estimate_distances_of_sets(seed: int, shared: int) -> None:
    rng = np.random.default_rng(seed)
    items = rng.choice(10**6, 80 - shared, replace=False)
    estimates = [
        sketches.distances(
            sketches.signature(mixed(items[:40], salt))[None], sketches.signature(mixed(items[-40:], salt))
        )
        for salt in range(100)
    ]
    true = 1 - shared / (80 - shared)
    assert abs(float(np.mean(estimates)) - true) < 0.08
