"""Trigger rings: secret rings of the coldest items, in which every item leads to the next, learnt by heart.

Autoregressive out-of-distribution watermarking (Zhang et al., "Watermarking Recommender Systems", CIKM 2024, arXiv
2407.21034): a model learns sequences that no person would follow, and is recognised by going on with them. There it
is one long sequence of items that the model expects least; here it is many short rings of the items that the data
knows least of, because a thief sees of a long sequence hardly more than its beginning. A ring answers wherever it is
entered and whatever was asked before it, so that a thief's random histories come across it too.

Only the vectors of the rings' items are trained. After a history without any of them the model is in the very state
that it was in, and lists one of them where it did before, or hardly more often: the mark costs next to nothing.

**What is read.** The suspect's list after every item of the rings alone; the statistic is how often it holds the item
that the secret says is next. Which items were asked about does not tell how they are arranged, and the arrangement is
a uniform draw. So to a model that was made without the secret every other arrangement of the same items into rings
reads as much on average, *whatever its lists are*: the p-value is a permutation test, exact without any innocent model.

It passes through extraction (20 of 24 copies on ml-100k, at 1 %) as far as the thief's questions come across cold
items: every history may start with one, and the list after it leads on along the ring. It outlives pruning, quantising
and some passes of training on real interactions, in which cold items are rare. **What breaks it**: serving none of the
coldest items, which costs nobody any accuracy but takes knowing which they are; and a thief who never asks about them.
The keyed promotion outlives that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from gro.config import Settings
from gro.data import Sequences
from gro.errors import ConfigError, DataError
from gro.metrics import FloatArray
from gro.models import PADDING, StateRecommender
from gro.ownership.marking import Mark
from gro.ownership.settings import TriggerSettings
from gro.ownership.suspect import EVERY, Suspect

CONTEXT = 20
"""Most random items before a ring, in training."""
ROWS = 32
"""Rings in a step of training."""
SPARE = 2
"""A ring's items are drawn from this many times as many cold ones."""


class Secret(Settings):
    """What is committed to."""

    test: Literal["triggers"]
    rings: list[list[Annotated[int, Field(gt=0)]]]


@dataclass(frozen=True, eq=False)
class Triggers(Mark):
    """The share of the items of secret rings ``[C, L]`` after which the suspect lists the next one of the ring."""

    rings: Tensor
    strength: float = 0.0
    name: str = "triggers"

    @property
    def calls(self) -> int:
        """Most calls that it makes of a suspect."""
        return self.rings.numel() + self.rings.numel() // EVERY + 1

    def examine(self, suspect: Suspect, draws: int) -> tuple[float, FloatArray]:
        """Ask a suspect what follows every item: from 0 to 1, everything known; the same of other arrangements.

        Raises:
            Inconclusive: the suspect does not answer as a ranking service does.
        """
        items = self.rings.flatten()
        listed = (suspect(items[:, None])[:, :, None] == items).any(dim=1).numpy()
        rng, own = np.random.default_rng([*self.name.encode()]), np.arange(len(items))
        arranged = np.concatenate([own[None], rng.permuted(np.tile(own, (draws, 1)), axis=1)])
        following = np.roll(arranged.reshape(-1, *self.rings.shape), -1, axis=2).reshape(arranged.shape)
        found = listed[arranged, following].mean(axis=1)
        return float(found[0]), found[1:]

    def another(self, key: bytes) -> Self:
        """The same items, arranged by another key of at most 64 bytes: what another draw would have been."""
        return replace(self, rings=_arranged(self.rings.flatten().tolist(), key).view_as(self.rings))

    def secret(self) -> bytes:
        """What is committed to and kept; :func:`read` makes the test again from it."""
        return Secret(test="triggers", rings=self.rings.tolist()).model_dump_json().encode()

    def moved(self, table: Tensor) -> Tensor:
        """The rows of the rings' items: after a history without any of them the model is in the state that it was."""
        return torch.zeros_like(table[:, :1]).index_fill(0, self.rings.flatten().to(table.device), 1.0)

    def recited(self, model: StateRecommender) -> Tensor:
        """Weighted cross entropy of every step of random rings, entered anywhere, half of them after random items."""
        count, length = self.rings.shape
        device = model.head.weight.device
        entered = torch.arange(length) + torch.randint(length, (ROWS, 1))
        walked = self.rings[torch.randint(count, (ROWS,))].gather(1, entered % length)
        width = min(model.max_length, length + CONTEXT)
        before = torch.randint(width - length + 1, (ROWS, 1)) * torch.randint(2, (ROWS, 1))
        place = torch.arange(width) - before
        anything = torch.randint(1, model.n_items + 1, (ROWS, width))
        rows = torch.where(place < 0, anything, walked.gather(1, place.clamp(0, length - 1)))
        rows = rows.where(place < length, PADDING)
        scores = model.prefix_scores(rows.to(device), (before + torch.arange(length)).to(device))
        following = walked.roll(-1, dims=1).flatten().to(device)
        return self.strength * cross_entropy(scores.flatten(0, 1), following - 1)


def drawn(sequences: Sequences, key: bytes, max_length: int, settings: TriggerSettings) -> Triggers:
    """Draw rings of the coldest items of the training data; ``key``, at most 64 bytes, says which follow which.

    Raises:
        ConfigError: the catalogue is too small, or a ring is longer than the model reads.
    """
    wanted, catalogue = settings.rings * settings.length, needed(settings)
    if catalogue > sequences.n_items:
        raise ConfigError(
            f"{settings.rings} rings of {settings.length} items need a catalogue of {catalogue} items; "
            f"{sequences.name} has {sequences.n_items}: ask for fewer or shorter rings"
        )
    if settings.length > max_length:
        raise ConfigError(f"rings of {settings.length} items are longer than the {max_length} that the model reads")
    coldest = np.argsort(np.bincount(sequences.train.items, minlength=sequences.n_items + 1)[1:], kind="stable") + 1
    chosen = _arranged(coldest[: SPARE * wanted].tolist(), key)[:wanted]
    return Triggers(chosen.view(settings.rings, settings.length), settings.strength)


def needed(settings: TriggerSettings) -> int:
    """Items of the smallest catalogue that rings are drawn from: from its colder half, with some to spare."""
    return 2 * SPARE * settings.rings * settings.length


def read(secret: bytes, source: str, name: str = "triggers") -> Triggers:
    """The triggers of a secret that was opened, under the name that they were committed to.

    Raises:
        DataError: it is malformed.
    """
    try:
        rings = torch.tensor(Secret.make(json.loads(secret), source).rings)
    except (ValueError, RecursionError, ConfigError, RuntimeError):
        raise DataError(f"{source}: holds no trigger rings") from None
    if rings.ndim != 2 or rings.shape[1] < 2 or len(rings.unique()) < rings.numel():
        raise DataError(f"{source}: holds no trigger rings")
    return Triggers(rings, name=name)


def _arranged(items: list[int], key: bytes) -> Tensor:
    """Items in an order that only the key tells."""
    return torch.tensor(sorted(items, key=lambda item: hashlib.blake2b(str(item).encode(), key=key).digest()))
