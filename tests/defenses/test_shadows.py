"""Targets of a thief's own: as the victim is, with the defence and without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.defenses import cards, shadows
from gro.defenses.cards import Defence
from gro.defenses.pipeline import Defended
from gro.errors import DataError
from gro.metrics import ndcg
from gro.models import StateRecommender, build
from gro.ranking import ranks

SETTINGS = ProtectionSettings(
    hidden_size=16,
    inner_size=16,
    n_layers=1,
    n_heads=1,
    max_length=10,
    k=5,
    epochs=8,
    patience=0,
    batch_size=8,
    dropout=0.0,
    learning_rate=1e-2,
    warm_up_epochs=1,
    protect_epochs=2,
    swap_weight=20.0,
    utility_budget=1.0,
)
CPU = torch.device("cpu")


GRO = cards.read("gro")


def shadow_targets(
    histories: Tensor, settings: ProtectionSettings, seed: int, n_items: int = 20, defence: Defence = GRO
) -> tuple[StateRecommender, StateRecommender]:
    plain, defended = shadows.shadow_targets(histories, n_items, defence, settings, seed, CPU)
    assert isinstance(plain, StateRecommender)
    assert isinstance(defended, StateRecommender)
    return plain, defended


def padded(sequences: Sequences) -> Tensor:
    rows = [torch.from_numpy(sequences.history(user).astype(np.int64)) for user in range(sequences.n_users)]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_both_learn_the_histories_and_only_one_is_bent(tiny: Sequences) -> None:
    plain, defended = shadow_targets(padded(tiny), SETTINGS, 0)
    untrained = build(SETTINGS, tiny.n_items, seed=0)
    good, bent, bad = (float(ndcg(ranks(model, tiny.test), 10).mean()) for model in (plain, defended, untrained))
    assert good > bad + 0.1
    assert bent > bad
    assert not torch.equal(weights(plain), weights(defended))
    as_it_was = SETTINGS.model_copy(update={"swap_weight": 0.0, "protect_epochs": 1, "warm_up_epochs": 0})
    stronger = [
        float((weights(plain) - weights(shadow_targets(padded(tiny), settings, 0)[1])).abs().max())
        for settings in (as_it_was, SETTINGS)
    ]
    assert stronger[0] < stronger[1]


def test_a_seed_is_a_pair_of_shadows_whatever_the_victim_s_was(tiny: Sequences) -> None:
    histories = padded(tiny)[:20]
    quick = SETTINGS.model_copy(update={"epochs": 2, "protect_epochs": 1})
    first = shadow_targets(histories, quick, 3)
    again = shadow_targets(histories, quick.model_copy(update={"seed": 9}), 3)
    other = shadow_targets(histories, quick, 4)
    for one, two, three in zip(first, again, other, strict=True):
        assert torch.equal(weights(one), weights(two))
        assert not torch.equal(weights(one), weights(three))


def test_a_defence_that_stands_before_the_model_is_rehearsed_with_a_secret_of_the_thief_s(tiny: Sequences) -> None:
    quick = SETTINGS.model_copy(update={"epochs": 1})
    owner = cards.read("misinformation").keyed(tiny, 0)
    plain, defended = shadows.shadow_targets(padded(tiny), tiny.n_items, owner, quick, 0, CPU)
    assert isinstance(defended, Defended)
    assert defended.model is plain
    assert defended._secret != owner.key


def test_histories_too_short_to_hold_out_from_are_left(tiny: Sequences) -> None:
    quick = SETTINGS.model_copy(update={"epochs": 1, "protect_epochs": 1})
    histories = padded(tiny)[:10]
    short = torch.zeros(2, histories.shape[1], dtype=torch.int64)
    short[:, :2] = 7
    both = [shadow_targets(each, quick, 0) for each in (histories, torch.cat([short[:1], histories, short[1:]]))]
    for one, two in zip(*both, strict=True):
        assert torch.equal(weights(one), weights(two))
    with pytest.raises(DataError, match="histories of 3 or more items; the thief has none"):
        shadow_targets(short, quick, 0)


def test_shadows_read_the_histories_as_they_are() -> None:
    found = shadows._sequences(torch.tensor([[4, 2, 9, 0], [1, 2, 0, 0], [5, 5, 6, 7]]), 9)
    assert [found.history(user).tolist() for user in range(found.n_users)] == [[4, 2, 9], [5, 5, 6, 7]]
    assert found.n_items == 9
    found.require_targets()
