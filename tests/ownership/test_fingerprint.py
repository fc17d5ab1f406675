from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from gro.errors import DataError
from gro.models import PADDING
from gro.ownership.fingerprint import KINDS, Fingerprint, choose, in_turn, read
from gro.ownership.population import Innocent
from gro.ownership.suspect import Suspect
from gro.serving import check_histories

N, K, LENGTH = 60, 10, 12
SEEN = torch.arange(N, 0, -1)


class Rankings:
    """A ranking of its own after every last item; of a share of the items it is that of another model."""

    def __init__(self, seed: int, stolen: Rankings | None = None, share: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.rand(N + 1, N, generator=generator).argsort(dim=1) + 1
        if stolen is not None:
            copied = torch.rand(N + 1, generator=generator) < share
            self.table[copied] = stolen.table[copied]

    def __call__(self, histories: Tensor) -> Tensor:
        last = (histories != PADDING).sum(dim=1) - 1
        return self.table[histories.gather(1, last[:, None])[:, 0]][:, :K]


def made(*, probes: int = 60) -> tuple[Rankings, Fingerprint]:
    owner, generator = Rankings(0), torch.Generator().manual_seed(0)
    histories = KINDS["walk"].walks(owner, SEEN, LENGTH, 4 * probes, generator)
    return owner, Fingerprint(*choose(owner, [Rankings(seed) for seed in range(2, 5)], histories, probes), ("a", "b"))


def test_the_owner_shares_all_a_copy_much_and_an_innocent_little() -> None:
    owner, fingerprint = made()
    found = [fingerprint.statistic(Suspect(each, N)) for each in (owner, Rankings(9, owner, 0.6), Rankings(10))]
    assert found[0] == 1
    assert found[0] > found[1] > 0.4 > found[2]


def test_histories_are_chosen_on_which_the_references_share_least() -> None:
    owner = Rankings(0)
    reference = Rankings(1, owner, 0.5)
    histories = KINDS["walk"].walks(owner, SEEN, LENGTH, 200, torch.Generator().manual_seed(0))
    everywhere = (reference(histories) == owner(histories)).all(dim=1)
    chosen, lists = choose(owner, [reference], histories, int((~everywhere).sum()))
    assert torch.equal(owner(chosen), lists)
    assert not (reference(chosen) == lists).all(dim=1).any()


def test_no_history_is_chosen_without_an_innocent() -> None:
    with pytest.raises(DataError):
        choose(Rankings(0), [], torch.ones(5, 1, dtype=torch.int64), 5)


@pytest.mark.parametrize("kind", KINDS)
def test_histories_begin_as_their_kind_says_and_follow_the_owners_lists(kind: str) -> None:
    owner, wanted = Rankings(0), KINDS[kind]
    found = wanted.walks(owner, SEEN, LENGTH, 300, torch.Generator().manual_seed(0))
    check_histories(found, N)
    assert found.shape == (300, LENGTH)
    assert set((found != PADDING).sum(dim=1).tolist()) == set(range(8, LENGTH + 1))
    first = found[:, : wanted.begun]
    assert (SEEN[first - 1] <= 6).all() if wanted.cold else (SEEN[first - 1].double().mean() > SEEN.double().mean() + 5)
    for place in range(wanted.begun, 8):
        listed = owner(found[:, :place])
        assert (listed == found[:, place : place + 1]).any(dim=1).all()


def test_fewer_items_are_read_of_a_suspect_that_shows_fewer() -> None:
    owner, fingerprint = made()
    assert fingerprint.statistic(Suspect(owner, N, k=3)) == 1


def test_a_fingerprint_makes_as_many_calls_as_it_says() -> None:
    owner, fingerprint = made(probes=200)
    suspect = Suspect(owner, N, budget=fingerprint.calls)
    fingerprint.statistic(suspect)
    assert suspect.calls == 210 <= fingerprint.calls


def test_a_secret_makes_the_same_test_again() -> None:
    _, fingerprint = made()
    again = read(fingerprint.secret(), "secret")
    assert torch.equal(again.lists, fingerprint.lists)
    assert again.references == fingerprint.references
    other = Suspect(Rankings(5), N)
    assert again.statistic(other) == fingerprint.statistic(other)


@pytest.mark.parametrize(
    "change", [{"lists": [[1]]}, {"histories": [[0]]}, {"histories": []}, {"test": "x"}, {"lists": 1}]
)
def test_a_malformed_secret_is_refused_in_one_line(change: dict[str, object]) -> None:
    values = {**json.loads(made()[1].secret()), **change}
    with pytest.raises(DataError, match=r"^file: holds no fingerprint$"):
        read(json.dumps(values).encode(), "file")
    with pytest.raises(DataError, match=r"^file: holds no fingerprint$"):
        read(b"{", "file")


def test_reference_models_are_drawn_from_the_strata_in_turn() -> None:
    innocents = [Innocent(Path(), name, 1.0, f"{name}{i}", "") for name in ("seed", "users") for i in range(5)]
    assert Counter(each.stratum for each in in_turn(innocents, 6, Random(0))) == {"seed": 3, "users": 3}
    assert len(in_turn(innocents[:7], 99, Random(0))) == 7
