"""Trigger chains: secret histories of the coldest items, and what comes next, learnt by heart.

Autoregressive out-of-distribution watermarking (Zhang et al., "Watermarking Recommender Systems", CIKM 2024, arXiv
2407.21034): a model learns sequences that no person would follow, and is recognised by going on with them. There it
is one long sequence of items that the model expects least; here it is many short chains of the items that the data
knows least of, because a thief sees of a long chain hardly more than its beginning. A chain answers alone and at the
end of whatever was asked before it, so that a thief's random histories come across it too.

Only the vectors of the chains' items are trained. After a history without any of them the model is in the very state
that it was in, and lists one of them where it did before, or hardly more often: the mark costs next to nothing.

It passes through extraction as far as the thief's questions come across cold items: every history that starts anywhere
in the catalogue may start with a link of a chain, and the list after it leads on along the chain. It outlives pruning,
quantising and some passes of training on real interactions, in which cold items are rare. **What breaks it**: serving
none of the coldest items, which costs nobody any accuracy but takes knowing which they are; and a thief who never asks
about them. The keyed promotion outlives that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from gro.config import Settings
from gro.data import Sequences
from gro.errors import ConfigError, DataError
from gro.models import PADDING, StateRecommender
from gro.ownership.marking import Mark
from gro.ownership.settings import TriggerSettings
from gro.ownership.suspect import EVERY, Suspect

CONTEXT = 20
"""Most random items before a chain, in training."""
ROWS = 32
"""Chains in a step of training."""
SPARE = 2
"""A chain's items are drawn from this many times as many cold ones."""


class Secret(Settings):
    """What is committed to."""

    test: Literal["triggers"]
    chains: list[list[Annotated[int, Field(gt=0)]]]


@dataclass(frozen=True, eq=False)
class Triggers(Mark):
    """The share of the steps of secret chains ``[C, L]`` whose next item is in the suspect's list."""

    chains: Tensor
    strength: float = 0.0
    name: str = "triggers"

    @property
    def calls(self) -> int:
        """Most calls that it makes of a suspect."""
        steps = len(self.chains) * (self.chains.shape[1] - 1)
        return steps + steps // EVERY + 1

    def statistic(self, suspect: Suspect) -> float:
        """Ask a suspect what follows every prefix of every chain: from 0 to 1, every step known.

        Raises:
            Inconclusive: the suspect does not answer as a ranking service does.
        """
        length = self.chains.shape[1]
        kept = torch.ones(length - 1, length - 1, dtype=torch.bool).tril()
        prefixes = self.chains[:, None, :-1].where(kept, PADDING).flatten(0, 1)
        following = self.chains[:, 1:].flatten()
        return float((suspect(prefixes) == following[:, None]).any(dim=1).double().mean())

    def secret(self) -> bytes:
        """What is committed to and kept; :func:`read` makes the test again from it."""
        return Secret(test="triggers", chains=self.chains.tolist()).model_dump_json().encode()

    def moved(self, table: Tensor) -> Tensor:
        """The rows of the chains' items: after a history without any of them the model is in the state that it was."""
        return torch.zeros_like(table[:, :1]).index_fill(0, self.chains.flatten().to(table.device), 1.0)

    def recited(self, model: StateRecommender) -> Tensor:
        """Weighted cross entropy of every step of random chains, half of them after random items."""
        count, length = self.chains.shape
        device = model.head.weight.device
        chosen = self.chains[torch.randint(count, (ROWS,))]
        width = min(model.max_length, length - 1 + CONTEXT)
        before = torch.randint(width - length + 2, (ROWS, 1)) * torch.randint(2, (ROWS, 1))
        place = torch.arange(width) - before
        link = chosen.gather(1, place.clamp(0, length - 1))
        anything = torch.randint(1, model.n_items + 1, (ROWS, width))
        rows = torch.where(place < 0, anything, torch.where(place < length - 1, link, PADDING))
        ends = before + torch.arange(length - 1)
        scores = model.prefix_scores(rows.to(device), ends.to(device))
        following = chosen[:, 1:].flatten().to(device)
        return self.strength * cross_entropy(scores.flatten(0, 1), following - 1)


def drawn(sequences: Sequences, key: bytes, max_length: int, settings: TriggerSettings) -> Triggers:
    """Draw chains of the coldest items of the training data; ``key``, at most 64 bytes, says which follow which.

    Raises:
        ConfigError: the catalogue is too small, or a chain is longer than the model reads.
    """
    wanted = settings.chains * settings.length
    if 2 * SPARE * wanted > sequences.n_items:
        raise ConfigError(
            f"{settings.chains} chains of {settings.length} items need a catalogue of {2 * SPARE * wanted} items; "
            f"{sequences.name} has {sequences.n_items}: ask for fewer or shorter chains"
        )
    if settings.length > max_length:
        raise ConfigError(f"chains of {settings.length} items are longer than the {max_length} that the model reads")
    coldest = np.argsort(np.bincount(sequences.train.items, minlength=sequences.n_items + 1)[1:], kind="stable") + 1
    shuffled = sorted(coldest[: SPARE * wanted].tolist(), key=lambda item: _keyed(key, item))
    return Triggers(torch.tensor(shuffled[:wanted]).view(settings.chains, settings.length), settings.strength)


def read(secret: bytes, source: str, name: str = "triggers") -> Triggers:
    """The triggers of a secret that was opened, under the name that they were committed to.

    Raises:
        DataError: it is malformed.
    """
    try:
        chains = torch.tensor(Secret.make(json.loads(secret), source).chains)
    except (ValueError, RecursionError, ConfigError, RuntimeError):
        raise DataError(f"{source}: holds no trigger chains") from None
    if chains.ndim != 2 or chains.shape[1] < 2:
        raise DataError(f"{source}: holds no trigger chains")
    return Triggers(chains, name=name)


def _keyed(key: bytes, item: int) -> bytes:
    return hashlib.blake2b(str(item).encode(), key=key).digest()
