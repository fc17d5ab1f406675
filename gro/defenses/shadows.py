"""Targets of a thief's own, trained on what the thief has: how a defence is rehearsed by someone who knows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.data.sequences import MIN_INTERACTIONS
from gro.defenses.cards import Defence
from gro.defenses.training import Training
from gro.errors import DataError
from gro.models import Recommender, build
from gro.models.base import lengths
from gro.optimizer.plain import fit
from gro.training import Quiet

EPOCHS = 12
"""Passes in which a plain shadow learns, at most: it need not be good, it need only be bent like the victim."""


def shadow_targets(
    histories: Tensor, n_items: int, defence: Defence, settings: ProtectionSettings, seed: int, device: torch.device
) -> tuple[Recommender, Recommender]:
    """Train a plain and a defended target on histories ``[H, L]``, right-padded; those of fewer than 3 items are left.

    Args:
        histories: what the shadows learn; the last two items of each history choose their checkpoints.
        n_items: size of the catalogue.
        defence: the victim's; its secret is not used.
        settings: how the victim was trained and protected.
        seed: seed of both.
        device: where to train.

    Raises:
        DataError: no history has three items.
    """
    sequences = _sequences(histories, n_items)
    settings = settings.model_copy(update={"seed": seed, "epochs": min(settings.epochs, EPOCHS)})
    plain = build(settings, n_items, seed=seed).to(device)
    fit(plain, sequences, settings, folder=None, progress=Quiet())
    own = replace(defence, secret=None).keyed(sequences, seed)
    target = Training(plain, sequences, settings, own.key, None, Quiet())(own.training).target
    return plain, own.fitted(target, sequences, settings.utility_budget).before(target, settings.k, seed)


def _sequences(histories: Tensor, n_items: int) -> Sequences:
    sizes = lengths(histories)
    kept = histories[sizes >= MIN_INTERACTIONS]
    if not len(kept):
        raise DataError(f"a shadow target needs histories of {MIN_INTERACTIONS} or more items; the thief has none")
    names = np.array([str(item) for item in range(n_items + 1)])
    bounds = np.concatenate([[0], lengths(kept).cumsum(0).numpy()])
    return Sequences(
        "shadow",
        bounds,
        kept[kept > 0].numpy().astype(np.int32),
        names,
        np.array([str(user) for user in range(len(kept))]),
    )
