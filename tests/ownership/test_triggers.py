"""Trigger chains are cold, secret, and known to whoever was taught them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from gro.data import Sequences
from gro.errors import ConfigError, DataError
from gro.models.base import lengths
from gro.ownership import triggers
from gro.ownership.settings import TriggerSettings
from gro.ownership.suspect import Suspect
from gro.ownership.triggers import Triggers

ITEMS = 40
CHAINS = Triggers(torch.tensor([[1, 2, 3], [4, 5, 6]]))
SMALL = TriggerSettings(chains=2, length=2)


def suspect(knows: dict[tuple[int, ...], int]) -> Suspect:
    """Lists what follows the histories that it knows; items from 20 on otherwise."""

    def ask(histories: Tensor) -> Tensor:
        lists = torch.arange(20, 25).repeat(len(histories), 1)
        for row, (history, length) in enumerate(zip(histories, lengths(histories), strict=True)):
            lists[row, -1] = knows.get(tuple(history[:length].tolist()), lists[row, -1])
        return lists

    return Suspect(ask, ITEMS, k=5)


def test_every_step_of_every_chain_counts_alike() -> None:
    steps = {(1,): 2, (1, 2): 3, (4,): 5, (4, 5): 6}
    for known in range(len(steps) + 1):
        assert CHAINS.statistic(suspect(dict(list(steps.items())[:known]))) == known / len(steps)


def test_it_asks_no_more_than_it_says() -> None:
    asked = suspect({})
    CHAINS.statistic(asked)
    assert 4 <= asked.calls <= CHAINS.calls


def test_chains_are_of_cold_items_each_in_one_place(tiny: Sequences) -> None:
    chains = triggers.drawn(tiny, b"key", 50, SMALL).chains.flatten().numpy()
    counts = np.bincount(tiny.train.items, minlength=tiny.n_items + 1)[1:]
    assert len(set(chains.tolist())) == 4
    assert counts[chains - 1].max() <= np.sort(counts)[7]


def test_the_key_says_which_items_follow_which(tiny: Sequences) -> None:
    drawn = [triggers.drawn(tiny, key, 50, SMALL).chains for key in (b"one", b"one", b"two")]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("settings", "reads", "reason"),
    [
        (TriggerSettings(), 50, "catalogue of 320 items; tiny has 20"),
        (SMALL, 1, "longer than the 1 that the model reads"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tiny: Sequences, settings: TriggerSettings, reads: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        triggers.drawn(tiny, b"key", reads, settings)


def test_the_secret_is_the_whole_test() -> None:
    assert torch.equal(triggers.read(CHAINS.secret(), "it").chains, CHAINS.chains)


@pytest.mark.parametrize("chains", [[[1, 2], [3]], [[1], [2]], [1, 2], [["a", "b"]], [[0, 1]], None, []])
def test_a_malformed_secret_is_refused(chains: object) -> None:
    secret = json.dumps({"test": "triggers", "chains": chains}).encode()
    with pytest.raises(DataError, match="it: holds no trigger chains"):
        triggers.read(secret, "it")
