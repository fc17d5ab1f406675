"""What a thief knows beside the catalogue's size."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gro.data import Sequences
from gro.models import padded


def held_histories(sequences: Sequences, share: float, length: int, seed: int) -> Tensor:
    """Draw real histories for a data-limited thief: the last ``L <= length`` items of each, ``[H, L]``, right-padded.

    Args:
        sequences: the interactions the thief may see; give it those of training.
        share: part of the users whose histories it holds; at least one user's.
        length: longest history.
        seed: source of the choice.
    """
    chosen = np.random.default_rng(seed).permutation(sequences.n_users)[: max(1, round(share * sequences.n_users))]
    histories = [torch.from_numpy(sequences.history(int(user))[-length:].astype(np.int64)) for user in chosen]
    return padded(histories)
