"""The fingerprint: the owner's lists on secret histories, chosen so that copies share them and innocents do not.

Where the data says what comes next, innocent models of it agree with the owner's as much as a stolen copy does. So the
owner looks for histories far from the data, such as those of the coldest items, and for the rare ones that a theft
carries over all the same: the owner robs its own model by several architectures, and keeps the histories after which
the least faithful of these copies still shares more of the owner's list than the most similar of some innocent models.
(Of a classifier such inputs are called conferrable: Lukas, Zhang & Kerschbaum, ICLR 2021.)

What thieves of one kind carry over, those of another may never have asked for: who begins with real histories sees
nothing of the coldest items. So there is one fingerprint for each kind of thief.

Nothing is put into the model, so nothing can be trained out of it but the likeness itself. What breaks it: a copy that
was made with few calls, or by an architecture that does not carry the owner's lists over so far from the data, is no
more like the owner's model than the best innocents are, and is not claimed. Lists cut below the items that are read
weaken it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from random import Random
from typing import Annotated, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gro.artifacts import Artifact
from gro.config import Settings
from gro.data import Sequences
from gro.defenses.served import exposed_by, served
from gro.errors import ConfigError, DataError
from gro.metrics import FloatArray, IntArray, agreement
from gro.models import PADDING, Recommender
from gro.ownership.population import Innocent
from gro.ownership.suspect import EVERY, TOGETHER, Ask, K, Suspect
from gro.runs import lists_of
from gro.serving import RankingService
from gro_surrogates.strategies import Autoregressive

NAME: Final = "fingerprint"
CANDIDATES: Final = 10
"""Histories that are looked at for every one that is taken."""
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
        rows = [[item for item in row if item != PADDING] for row in self.histories.tolist()]
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
        histories = pad_sequence([torch.tensor(row) for row in found.histories], True, PADDING)
    except (ValueError, RecursionError, ConfigError, RuntimeError):
        raise DataError(f"{source}: holds no fingerprint") from None
    if lists.ndim != 2 or len(lists) != len(histories):
        raise DataError(f"{source}: holds no fingerprint")
    return Fingerprint(histories, lists, tuple(found.references), name)


def made(
    owner: Artifact,
    sequences: Sequences,
    references: Sequence[Innocent],
    copies: Sequence[Recommender],
    *,
    name: str,
    probes: int,
) -> Fingerprint:
    """Make a fingerprint of an artifact as it is served, behind its defence.

    Args:
        owner: the artifact.
        sequences: its interactions.
        references: innocents that choose the histories; see :func:`in_turn`.
        copies: that the owner stole of it, of all architectures and by one kind of thief: what one kind carries over,
            another may never have asked for.
        name: of the test.
        probes: secret histories.

    Raises:
        DataError: there is no innocent or no copy.
        GroError: the artifact's defence cannot apply.
    """
    target, length = served(owner, lists_of(owner), 0, torch.device("cpu")), owner.model.max_length
    service = RankingService(target, exposed_by(target, lists_of(owner)))
    k = min(K, service.k)
    train = sequences.train
    seen = np.bincount(train.items, minlength=train.n_items + 1)[1:]
    histories, lists = choose(
        service,
        [RankingService(each, k) for each in copies],
        [RankingService(each.model, k) for each in references],
        torch.from_numpy(np.argsort(seen, kind="stable") + 1),
        length=length,
        probes=probes,
        generator=torch.Generator().manual_seed(secrets.randbits(63)),
    )
    return Fingerprint(histories, lists[:, :k], tuple(each.digest for each in references), name)


def in_turn(innocents: Sequence[Innocent], count: int, random: Random) -> list[Innocent]:
    """Draw up to ``count`` innocents at random, as many of each stratum as can be."""
    strata: dict[str, list[Innocent]] = {}
    for each in random.sample(innocents, len(innocents)):
        strata.setdefault(each.stratum, []).append(each)
    turns = chain.from_iterable(zip_longest(*strata.values()))
    return [each for each in turns if each is not None][:count]


def choose(
    owner: Ask,
    copies: Sequence[Ask],
    references: Sequence[Ask],
    coldest: Tensor,
    *,
    length: int,
    probes: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Choose histories by the lead of the least faithful copy over the most similar innocent, the largest first.

    Args:
        owner: answers with lists ``[B, K]``.
        copies: of the owner's model; answer with ``[B, k]``.
        references: innocent models; never those that calibrate a verdict.
        coldest: every item id, those that the owner's data knows least first.
        length: longest history.
        probes: how many to choose.
        generator: source of all choices.

    Returns:
        Histories ``[P, length]``, right-padded, and the owner's lists after them ``[P, K]``.

    Raises:
        DataError: there is no copy or no reference model.
    """
    if not copies or not references:
        raise DataError("a fingerprint is chosen by at least one copy and one innocent model")
    histories = candidates(owner, coldest, CANDIDATES * probes, length, generator)
    lists = answers(owner, histories)
    like_copies, like_innocents = (
        np.stack([_shared(answers(each, histories), lists) for each in models]) for models in (copies, references)
    )
    lead = like_copies.min(axis=0) - like_innocents.max(axis=0)
    chosen = torch.from_numpy(np.argsort(-lead, kind="stable")[:probes])
    return histories[chosen], torch.from_numpy(lists)[chosen]


def candidates(owner: Ask, coldest: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    """Histories ``[count, length]``, right-padded: some items at random, then a walk along the owner's lists.

    Thieves walk so. The first items, one at least and often all, are of one part of the catalogue; none is taken from
    people, whose histories are not for suspects to read.
    """
    parts = [part[torch.randint(len(part), (count, length), generator=generator)] for part in _parts(coldest)]
    begun = torch.stack(parts)[torch.randint(len(parts), (count,), generator=generator), torch.arange(count)]
    known, lengths = (torch.randint(1, length + 1, (count,), generator=generator) for _ in range(2))
    walk, histories = Autoregressive(), begun[:, :1]
    for place in range(1, length):
        following = walk.pick(histories, owner(histories), len(coldest), generator)
        histories = torch.cat([histories, torch.where(place < known, begun[:, place], following)[:, None]], dim=1)
    return histories.masked_fill(torch.arange(length) >= lengths[:, None], PADDING)


def _parts(coldest: Tensor) -> list[Tensor]:
    """The coldest tenth of the catalogue, its coldest third, its hottest tenth, and the whole."""
    tenth, third = max(1, len(coldest) // 10), max(1, len(coldest) // 3)
    return [coldest[:tenth], coldest[:third], coldest[-tenth:], coldest]


def answers(model: Ask, histories: Tensor) -> IntArray:
    """The lists of a model after many histories, ``[N, k]``."""
    return np.concatenate([model(part).numpy() for part in histories.split(TOGETHER)])


def _shared(lists: IntArray, owners: IntArray) -> FloatArray:
    return agreement(lists, owners, lists.shape[1])
