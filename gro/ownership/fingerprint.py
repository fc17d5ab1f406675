"""The fingerprint: the owner's lists on secret histories of a kind that copies share and innocents share less.

Where people's histories go, innocent models that were trained to the end agree with the owner's about as much as a
stolen copy does. Thieves ask for more than people do: they walk along the lists, each step anywhere in a list of a
hundred, and soon are where the data says little and models differ. So the secret histories are walks, of two kinds:

- "walk" begins with an item that people like, as thieves do who hold real histories;
- "cold" begins with a chain of the coldest items, for thieves who start anywhere (after the triggers of AOW, CIKM
  2024, arXiv 2407.21034, but nothing is trained in).

Of each kind those are kept on which reference models, innocents themselves, share least of the owner's lists. None is
taken from people, whose histories are not for suspects to read.

Nothing is put into the model, so nothing can be trained out of it but the likeness itself. What breaks it: a kind fails
where the thief asked nothing like it (a thief with real histories carries nothing over to cold ones), so a verdict
looks at the largest of both; copies that were made with few calls are no more like the owner's model than innocents
are; and innocents that were trained less than the suspect make an innocent suspect look like a copy.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from random import Random
from types import MappingProxyType
from typing import Annotated, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gro.artifacts import Artifact
from gro.config import Settings
from gro.data import Sequences
from gro.defenses.served import exposed_by, served
from gro.errors import ConfigError, DataError
from gro.metrics import IntArray, agreement
from gro.models import PADDING, padded, unpadded
from gro.ownership.population import Innocent
from gro.ownership.suspect import EVERY, TOGETHER, Ask, K, Suspect
from gro.runs import lists_of
from gro.serving import RankingService
from gro_surrogates.strategies import Autoregressive

NAME: Final = "fingerprint"
CANDIDATES: Final = 4
"""Histories that are looked at for every one that is taken."""
Items = list[Annotated[int, Field(gt=0)]]


@dataclass(frozen=True)
class Kind:
    """A kind of secret histories: some items at random, then a walk along the owner's lists.

    Attributes:
        cold: whether the first items are of the coldest tenth of the catalogue, or drawn by how often people took them.
        begun: number of the first items.
        longest: most items.
    """

    cold: bool
    begun: int
    longest: int

    def walks(self, owner: Ask, seen: Tensor, most: int, count: int, generator: torch.Generator) -> Tensor:
        """Histories ``[count, T]``, right-padded; the shortest have three fifths of the items of the longest.

        Args:
            owner: answers with the lists that are walked along.
            seen: how often people took each item ``[n_items]``.
            most: items that the owner's model reads.
            count: how many.
            generator: source of all choices.
        """
        length = min(self.longest, most)
        weights = seen.double()
        if self.cold:
            coldest = seen.argsort(stable=True)[: max(1, len(seen) // 10)]
            weights = torch.zeros(len(seen)).scatter(0, coldest, 1.0)
        begun = min(self.begun, length)
        histories = 1 + torch.multinomial(weights, count * begun, True, generator=generator).view(count, begun)
        while histories.shape[1] < length:
            following = Autoregressive().pick(histories, owner(histories), len(seen), generator)
            histories = torch.cat([histories, following[:, None]], dim=1)
        lengths = torch.randint(-(-3 * length // 5), length + 1, (count, 1), generator=generator)
        return histories.masked_fill(torch.arange(length) >= lengths, PADDING)


KINDS: Final[Mapping[str, Kind]] = MappingProxyType({"cold": Kind(True, 8, 20), "walk": Kind(False, 1, 50)})


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
    name: str = NAME

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
        rows = unpadded(self.histories)
        values = Secret(test="fingerprint", histories=rows, lists=self.lists.tolist(), references=list(self.references))
        return values.model_dump_json().encode()


def read(secret: bytes, source: str, name: str = NAME) -> Fingerprint:
    """The fingerprint of that name whose secret was opened.

    Raises:
        DataError: it is malformed.
    """
    try:
        found = Secret.make(json.loads(secret), source)
        lists = torch.tensor(found.lists)
        histories = padded(found.histories)
    except (ValueError, RecursionError, ConfigError, RuntimeError):
        raise DataError(f"{source}: holds no fingerprint") from None
    if lists.ndim != 2 or len(lists) != len(histories):
        raise DataError(f"{source}: holds no fingerprint")
    return Fingerprint(histories, lists, tuple(found.references), name)


def made(
    owner: Artifact, sequences: Sequences, references: Sequence[Innocent], *, kind: str, probes: int
) -> Fingerprint:
    """Make the fingerprint of a kind of an artifact as it is served, behind its defence.

    Args:
        owner: the artifact.
        sequences: its interactions.
        references: innocents that choose the histories; see :func:`in_turn`.
        kind: one of :data:`KINDS`.
        probes: secret histories.

    Raises:
        DataError: there is no innocent.
        GroError: the artifact's defence cannot apply.
    """
    target = served(owner, lists_of(owner), 0, torch.device("cpu"))
    service = RankingService(target, exposed_by(target, lists_of(owner)))
    k = min(K, service.k)
    seen = torch.from_numpy(np.bincount(sequences.train.items, minlength=sequences.n_items + 1)[1:])
    generator = torch.Generator().manual_seed(secrets.randbits(63))
    histories = KINDS[kind].walks(service, seen, owner.model.max_length, CANDIDATES * probes, generator)
    asked = [RankingService(each.model, k) for each in references]
    chosen, lists = choose(service, asked, histories, probes)
    return Fingerprint(chosen, lists[:, :k], tuple(each.digest for each in references), f"{NAME}.{kind}")


def in_turn(innocents: Sequence[Innocent], count: int, random: Random) -> list[Innocent]:
    """Draw up to ``count`` innocents at random, as many of each stratum as can be."""
    strata: dict[str, list[Innocent]] = {}
    for each in random.sample(innocents, len(innocents)):
        strata.setdefault(each.stratum, []).append(each)
    turns = chain.from_iterable(zip_longest(*strata.values()))
    return [each for each in turns if each is not None][:count]


def choose(owner: Ask, references: Sequence[Ask], histories: Tensor, probes: int) -> tuple[Tensor, Tensor]:
    """Choose the histories after which the references share least of the owner's lists, on average.

    Args:
        owner: answers with lists ``[B, K]``.
        references: innocent models; never those that calibrate a verdict. Answer with ``[B, k]``.
        histories: to choose from ``[N, T]``, right-padded.
        probes: how many to choose.

    Returns:
        Histories ``[P, T]`` and the owner's lists after them ``[P, K]``.

    Raises:
        DataError: there is no reference model.
    """
    if not references:
        raise DataError("a fingerprint is chosen by at least one innocent model")
    lists = answers(owner, histories)
    shared = [agreement(theirs, lists, theirs.shape[1]) for theirs in (answers(each, histories) for each in references)]
    chosen = torch.from_numpy(np.argsort(np.mean(shared, axis=0), kind="stable")[:probes])
    return histories[chosen], torch.from_numpy(lists)[chosen]


def answers(model: Ask, histories: Tensor) -> IntArray:
    """The lists of a model after many histories, ``[N, k]``."""
    return np.concatenate([model(part).numpy() for part in histories.split(TOGETHER)])
