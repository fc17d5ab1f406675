"""A few lists for all beginners: each is answered as the kind of person that he looks most like.

What a service tells anybody it tells a thief, however often he asks; so it is the number of lists, not of answers, that
bounds what beginners' answers can teach. The states of the model of beginners are reduced to a few by k-means (vector
quantisation; Lloyd, IEEE Trans. Inf. Theory 1982).
"""

from __future__ import annotations

import base64
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from gro.data import Sequences
from gro.errors import ConfigError
from gro.models import StateRecommender, padded
from gro.models.base import device_of, lengths, most_recent
from gro.optimizer.staged import HELD
from gro.ranking import evaluating, top_k

LEARNT = 50_000
"""Beginnings of histories that the states are learnt from, at most."""
TOGETHER, ROUNDS = 1024, 30


@dataclass(frozen=True)
class Personas:
    """The states in whose place a model's own are taken.

    Attributes:
        model: of beginners.
        short: items that it reads.
        codebook: states ``[C, d]``.
    """

    model: StateRecommender
    short: int
    codebook: Tensor

    @classmethod
    def learnt(cls, model: StateRecommender, short: int, sequences: Sequences, count: int) -> Personas:
        """Learn at most ``count`` states from the beginnings of histories, without what is held out."""
        begun = [sequences.history(user)[:-HELD][:short].astype(np.int64) for user in range(sequences.n_users)]
        parts = [torch.from_numpy(history[: end + 1]) for history in begun for end in range(len(history))]
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(parts))[:LEARNT]
        with torch.no_grad(), evaluating(model):
            states = [
                _states(model, padded([parts[n] for n in some]).to(device_of(model))).cpu()
                for some in np.array_split(chosen, max(1, len(chosen) // TOGETHER))
            ]
        found = np.unique(torch.cat(states).double().numpy(), axis=0)
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            codebook, nearest = kmeans2(found, min(count, len(found)), iter=ROUNDS, minit="++", rng=rng)
        return cls(model, short, torch.from_numpy(codebook[np.unique(nearest)]).float())

    def lists(self, histories: Tensor, k: int) -> Tensor:
        """The list of the persona that each history ``[B, T]`` looks most like: ``[B, k]``; reads its latest items."""
        with torch.no_grad(), evaluating(self.model):
            codebook = self.codebook.to(device_of(self.model), self.model.item_embedding.weight.dtype)
            states = _states(self.model, most_recent(histories, self.short))
            nearest = torch.cdist(states, codebook, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
            return top_k(self.model.item_scores(codebook), k)[nearest]

    def written(self) -> str:
        """The codebook, 32-bit, in base64."""
        return base64.b64encode(self.codebook.numpy().astype("<f4").tobytes()).decode()

    @classmethod
    def read(cls, model: StateRecommender, short: int, written: str) -> Personas:
        """The personas of a model again.

        Raises:
            ConfigError: these are no states of the model.
        """
        width = model.item_embedding.embedding_dim
        try:
            codebook = np.frombuffer(base64.b64decode(written, validate=True), dtype="<f4")
        except ValueError:
            codebook = np.empty(0, dtype="<f4")
        if not len(codebook) or len(codebook) % width or not np.isfinite(codebook).all():
            raise ConfigError(f"the gate's 'codebook' is not one of states of {width} figures")
        return cls(model, short, torch.from_numpy(codebook.reshape(-1, width).copy()))


def _states(model: StateRecommender, histories: Tensor) -> Tensor:
    return model.prefix_states(histories, lengths(histories)[:, None] - 1)[:, 0]
