"""The fingerprint: the owner's lists on secret histories, chosen so that copies share them and innocents do not.

Innocent models of one dataset agree where the data says what comes next. They differ where it says nothing: after
random histories, walks along a model's own lists, chains of the coldest items, single items. A copy was made from the
owner's lists and repeats them there too (Cao, Jia & Gong, "IPGuard", ASIA CCS 2021, look for such places at the
decision boundary of a classifier; Lukas, Zhang & Kerschbaum, ICLR 2021, choose by reference models, as here).

It passes through extraction, since nothing was put into the model: what is recognised is the model itself. What breaks
it is a copy that agrees with the owner's model no more than an innocent does, which is no copy worth having.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gro.config import Settings
from gro.errors import ConfigError, DataError
from gro.metrics import IntArray, agreement
from gro.models import PADDING
from gro.ownership.suspect import EVERY, TOGETHER, Ask, Suspect
from gro_surrogates.strategies import Autoregressive

PROBES = 500
CANDIDATES = 8
"""Histories that are looked at for every one that is taken."""
SHORT = 3
"""Most items of a short history."""

Items = list[Annotated[int, Field(gt=0)]]


class Secret(Settings):
    """What is committed to."""

    test: Literal["fingerprint"]
    histories: list[Items]
    lists: list[Items]
    references: list[str]
    """SHA-256 of the weights' file of each reference model; these are never among the innocents of a verdict."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The mean agreement of the first ten of a suspect's lists with the owner's, on secret histories.

    Attributes:
        histories: ``[P, T]``, right-padded.
        lists: the owner's ``[P, k]``.
        references: digests of the models by which the histories were chosen.
    """

    histories: Tensor
    lists: Tensor
    references: tuple[str, ...]
    name: str = "fingerprint"

    @property
    def calls(self) -> int:
        """Most calls that it makes of a suspect."""
        return len(self.histories) + len(self.histories) // EVERY + 1

    def statistic(self, suspect: Suspect) -> float:
        """Ask a suspect: from 0, no item in common, to 1, the same items everywhere.

        Raises:
            Inconclusive: the suspect does not answer as a ranking service does.
        """
        k = min(suspect.k, self.lists.shape[1])
        return float(agreement(suspect(self.histories).numpy(), self.lists.numpy(), k).mean())

    def secret(self) -> bytes:
        """What is committed to and kept; :func:`read` makes the test again from it."""
        rows = [[item for item in row if item != PADDING] for row in self.histories.tolist()]
        values = Secret(test="fingerprint", histories=rows, lists=self.lists.tolist(), references=list(self.references))
        return values.model_dump_json().encode()


def read(secret: bytes, source: str) -> Fingerprint:
    """The fingerprint of a secret that was opened.

    Raises:
        DataError: it is malformed.
    """
    try:
        found = Secret.make(json.loads(secret), source)
        lists = torch.tensor(found.lists)
        histories = pad_sequence([torch.tensor(row) for row in found.histories], True, PADDING)
    except (ValueError, RecursionError, ConfigError, RuntimeError):
        raise DataError(f"{source}: holds no fingerprint") from None
    if lists.ndim != 2 or len(lists) != len(histories):
        raise DataError(f"{source}: holds no fingerprint")
    return Fingerprint(histories, lists, tuple(found.references))


def choose(
    owner: Ask,
    references: Sequence[Ask],
    n_items: int,
    length: int,
    coldest: Tensor,
    *,
    probes: int = PROBES,
    seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose secret histories: those after which the reference models share least of the owner's lists.

    Args:
        owner: answers with lists ``[B, K]``.
        references: innocent models; never those that calibrate a verdict.
        n_items: size of the catalogue.
        length: longest history.
        coldest: item ids, of which the owner's data knows least first.
        probes: how many to choose.
        seed: for tests alone; unset draws a secret one.

    Returns:
        Histories ``[P, length]``, right-padded, and the owner's lists after them ``[P, K]``.

    Raises:
        DataError: there is no reference model.
    """
    if not references:
        raise DataError("a fingerprint is chosen by at least one innocent model")
    generator = torch.Generator().manual_seed(secrets.randbits(63) if seed is None else seed)
    histories = candidates(owner, n_items, length, coldest, CANDIDATES * probes, generator)
    lists = answers(owner, histories)
    shared = np.mean([agreement(answers(each, histories), lists, lists.shape[1]) for each in references], axis=0)
    chosen = torch.from_numpy(np.argsort(shared, kind="stable")[:probes])
    return histories[chosen], torch.from_numpy(lists)[chosen]


def candidates(
    owner: Ask, n_items: int, length: int, coldest: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Histories ``[count, length]`` of four kinds: walks, random ones, cold ones, short ones.

    Walks go along the owner's own lists, as thieves do; cold ones are made of the coldest tenth of the items.
    """
    quarter = -(-count // 4)
    cold = coldest[: max(1, n_items // 10)]
    histories = torch.cat(
        [
            _walks(owner, quarter, n_items, length, generator),
            torch.randint(1, n_items + 1, (quarter, length), generator=generator),
            cold[torch.randint(len(cold), (quarter, length), generator=generator)],
            torch.randint(1, n_items + 1, (quarter, length), generator=generator),
        ]
    )
    short = min(SHORT, length)
    lengths = torch.randint(short, length + 1, (len(histories),), generator=generator)
    lengths[-quarter:] = torch.randint(1, short + 1, (quarter,), generator=generator)
    histories = histories.masked_fill(torch.arange(length) >= lengths[:, None], PADDING)
    return histories[torch.randperm(len(histories), generator=generator)[:count]]


def answers(model: Ask, histories: Tensor) -> IntArray:
    """The lists of a model after many histories, ``[N, k]``."""
    return np.concatenate([model(part).numpy() for part in histories.split(TOGETHER)])


def _walks(owner: Ask, size: int, n_items: int, length: int, generator: torch.Generator) -> Tensor:
    strategy = Autoregressive()
    histories = strategy.start(size, n_items, generator)
    while histories.shape[1] < length:
        following = strategy.pick(histories, owner(histories), n_items, generator)
        histories = torch.cat([histories, following[:, None]], dim=1)
    return histories
