from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gro.service.decoys import Decoys

lists = st.lists(st.lists(st.integers(1, 80), unique=True, max_size=20), max_size=4)


@given(lists, st.binary(min_size=1), st.integers(1, 80))
def test_decoys_are_lists_of_as_many_different_items_of_the_catalogue(
    true: list[list[int]], secret: bytes, n_items: int
) -> None:
    within = [[item for item in each if item <= n_items] for each in true]
    found = Decoys(secret, n_items).lists(within)
    assert [len(each) for each in found] == [len(each) for each in within]
    for each in found:
        assert len(set(each)) == len(each)
        assert all(1 <= item <= n_items for item in each)
    assert found == Decoys(secret, n_items).lists(within)


def test_each_secret_leads_elsewhere() -> None:
    true = [list(range(1, 101))]
    one, other = (Decoys(secret, 100).lists(true)[0] for secret in (b"a", b"b"))
    assert one != other
    assert sum(a == b for a, b in zip(one, true[0], strict=True)) < 10


def test_items_outside_the_catalogue_stay() -> None:
    assert Decoys(b"a", 5).lists([[9, 0]]) == [[9, 0]]
