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
from gro.ownership.fingerprint import Fingerprint, candidates, choose, in_turn, read
from gro.ownership.population import Innocent
from gro.ownership.suspect import Suspect
from gro.serving import check_histories

N, K, LENGTH = 60, 10, 12
COLDEST = torch.arange(N, 0, -1)


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
    owner = Rankings(0)
    copies, references = [Rankings(1, owner, 0.6)], [Rankings(seed) for seed in range(2, 5)]
    generator = torch.Generator().manual_seed(0)
    chosen = choose(owner, copies, references, COLDEST, length=LENGTH, probes=probes, generator=generator)
    return owner, Fingerprint(*chosen, ("a", "b"))


def test_the_owner_shares_all_a_copy_much_and_an_innocent_little() -> None:
    owner, fingerprint = made()
    found = [fingerprint.statistic(Suspect(each, N)) for each in (owner, Rankings(9, owner, 0.6), Rankings(10))]
    assert found[0] == 1
    assert found[0] > found[1] > 0.4 > found[2]


def test_histories_are_chosen_that_the_copies_carry_over() -> None:
    owner = Rankings(0)
    copy = Rankings(1, owner, 0.5)
    histories, lists = choose(
        owner,
        [copy],
        [Rankings(2)],
        COLDEST,
        length=LENGTH,
        probes=50,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(copy(histories), lists)


def test_no_probe_is_made_without_a_copy_and_an_innocent() -> None:
    owner, generator = Rankings(0), torch.Generator()
    for copies, references in (([], [owner]), ([owner], [])):
        with pytest.raises(DataError):
            choose(owner, copies, references, COLDEST, length=LENGTH, probes=5, generator=generator)


def test_candidates_are_histories_that_often_begin_cold_or_hot() -> None:
    found = candidates(Rankings(0), COLDEST, 400, LENGTH, torch.Generator().manual_seed(0))
    check_histories(found, N)
    assert found.shape == (400, LENGTH)
    assert ((found[:, 0] > N - N // 10).sum()) > 400 / 4  # of the coldest tenth
    assert ((found[:, 0] <= N // 10).sum()) > 400 / 4  # of the hottest
    assert len(set((found != PADDING).sum(dim=1).tolist())) == LENGTH


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
