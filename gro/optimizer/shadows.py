"""Targets of a thief's own, trained on what the thief has: how a defence is rehearsed by someone who knows it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.data.sequences import MIN_INTERACTIONS
from gro.errors import DataError
from gro.metrics import ndcg
from gro.models import StateRecommender, build
from gro.models.base import lengths
from gro.optimizer.plain import fit
from gro.optimizer.protect import Protection
from gro.ranking import ranks
from gro.training import Quiet

EPOCHS = 12
"""Passes in which a plain shadow learns, at most: it need not be good, it need only be bent like the victim."""


def shadow_targets(
    histories: Tensor, n_items: int, settings: ProtectionSettings, seed: int, device: torch.device
) -> tuple[StateRecommender, StateRecommender]:
    """Train a plain and a protected target on histories ``[H, L]``, right-padded; those of fewer than 3 items are left.

    Args:
        histories: what the shadows learn; the last two items of each history choose their checkpoints.
        n_items: size of the catalogue.
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
    defended = build(settings, n_items).to(device)
    defended.load_state_dict(plain.state_dict())
    student = build(settings.model_copy(update={"model": settings.student or settings.model}), n_items, seed=seed + 1)
    Protection(
        target=defended,
        student=student.to(device),
        sequences=sequences,
        settings=settings,
        plain_ndcg=float(ndcg(ranks(plain, sequences.valid), 10).mean()) or 1.0,
        folder=None,
        progress=Quiet(),
    ).run()
    return plain, defended


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
