"""A suspect: a ranking service of somebody else's that is asked little, in disguise, and not believed.

What may not be used as evidence is refused as :class:`Inconclusive`: an endpoint that fails, refuses or limits, one
whose answers are no lists of distinct items of the owner's catalogue, and one that does not answer alike when asked the
same again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gro import artifacts
from gro.artifacts import Artifact
from gro.artifacts.manifest import ITEMS
from gro.defenses.served import served
from gro.errors import GroError
from gro.metrics import FloatArray, agreement
from gro.models import PADDING, Recommender, StateRecommender
from gro.ownership.wire import Endpoint
from gro.runs import lists_of
from gro.serving import RankingService, check_histories
from gro.theft import stolen_copy

K: Final = 10
"""Items of a list that are read: a thief who cuts the lists short of this serves nobody."""
BUDGET: Final = 2_000
"""Calls that a verdict may take."""
EVERY: Final = 20
"""One in this many calls asks something again."""
ALIKE: Final = 0.9
"""Least mean agreement of two answers to the same history: arithmetic may differ from batch to batch, lists may not."""
CPU: Final = torch.device("cpu")
TOGETHER: Final = 256
"""Histories that are sent at a time, at most."""

Ask = Callable[[Tensor], Tensor]
Tokens = Sequence[str] | npt.NDArray[np.str_]


class Inside(NamedTuple):
    """What can be read of a suspect whose weights are at hand."""

    table: FloatArray
    """The vectors of its items ``[n_items, d]``."""
    tokens: Tokens
    """Token of the item of each row."""


class Inconclusive(GroError):  # noqa: N818  it is a verdict, not an accident
    """There is no verdict; the message is the reason."""


class Suspect:
    """A ranking service under suspicion, as ``histories -> lists``.

    Questions are shuffled and one in twenty of all is an old one asked again, so that who answers can tell neither the
    tests apart nor the questions that check on him.

    Attributes:
        n_items: size of the owner's catalogue.
        k: length of the lists that are read.
        calls: histories sent so far, those asked again included.
        budget: most histories that are sent.
        inside: what is known of its weights.
    """

    def __init__(
        self, ask: Ask, n_items: int, *, k: int = K, budget: int = BUDGET, inside: Inside | None = None
    ) -> None:
        """Suspect what ``ask`` answers: right-padded histories ``[B, T]`` in, lists ``[B, >= k]`` out."""
        self.n_items, self.k, self.budget, self.calls, self.inside = n_items, k, budget, 0, inside
        self._ask = ask
        self._generator = torch.Generator().manual_seed(secrets.randbits(63))
        self._answered: dict[bytes, Tensor] = {}
        self._asked_again = 0
        self._alike: list[float] = []

    def __call__(self, histories: Tensor) -> Tensor:
        """Ask about right-padded histories ``[B, T]``; lists ``[B, k]`` of distinct ids, best first.

        Raises:
            Inconclusive: the budget is too small, or the answers may not be used.
        """
        check_histories(histories, self.n_items)
        again = self._again(histories)
        asked = torch.cat([histories, histories[again]])
        if self.calls + len(asked) > self.budget:
            raise Inconclusive(f"the tests need more than the {self.budget:,} calls that they may make")
        order = torch.randperm(len(asked), generator=self._generator)
        lists = torch.empty(len(asked), self.k, dtype=torch.int64)
        for places in order.split(TOGETHER):
            self.calls += len(places)
            lists[places] = self._checked(asked[places])
        self._compare(lists[again], lists[len(histories) :])
        return lists[: len(histories)]

    def _again(self, histories: Tensor) -> Tensor:
        """Rows that are due to be asked once more."""
        due = min(len(histories), (self.calls + len(histories)) // EVERY - self._asked_again)
        self._asked_again += due
        return torch.randperm(len(histories), generator=self._generator)[:due]

    def _checked(self, histories: Tensor) -> Tensor:
        try:
            lists = torch.as_tensor(self._ask(histories)).cpu()
        except Inconclusive:
            raise
        except Exception as error:  # noqa: BLE001  it is somebody else's
            told = " ".join(str(error).split())
            raise Inconclusive(f"the suspect fails: {type(error).__name__}: {told}") from None
        if lists.ndim != 2 or len(lists) != len(histories) or lists.is_floating_point() or lists.is_complex():
            raise Inconclusive(f"the suspect answers {len(histories)} histories by {lists.dtype} {list(lists.shape)}")
        if lists.shape[1] < self.k:
            raise Inconclusive(f"the suspect's lists have {lists.shape[1]} items; the tests read {self.k}")
        lists = lists[:, : self.k].long()
        if (lists == PADDING).any():
            raise Inconclusive(f"the suspect's lists have fewer than {self.k} items; the tests read as many")
        if ((lists < 0) | (lists > self.n_items)).any():
            raise Inconclusive(f"the suspect lists items outside the owner's catalogue of {self.n_items}")
        ordered = lists.sort(dim=1).values
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise Inconclusive("the suspect names an item twice in a list")
        return lists

    def _compare(self, lists: Tensor, others: Tensor) -> None:
        if len(lists):
            self._alike += agreement(lists.numpy(), others.numpy(), self.k).tolist()
        if self._alike and (alike := float(np.mean(self._alike))) < ALIKE:
            raise Inconclusive(f"the suspect's answers vary: two to one question share {alike:.0%} of their items")


def in_hand(recommender: Recommender, *, k: int = K, budget: int = BUDGET, tokens: Tokens | None = None) -> Suspect:
    """Suspect a recommender that we hold; with the ``tokens`` of items 1..n_items, its weights too where it has any."""
    inside = None
    if tokens is not None and isinstance(recommender, StateRecommender):
        inside = Inside(item_table(recommender), tokens)
    return Suspect(RankingService(recommender, k), recommender.n_items, k=k, budget=budget, inside=inside)


def item_table(model: StateRecommender) -> FloatArray:
    """The vectors of the items 1..n_items of a model, ``[n_items, d]``."""
    return model.head.weight[1 : model.n_items + 1].detach().cpu().double().numpy()


def suspected(
    what: str,
    n_items: int,
    catalogue: str,
    *,
    k: int = K,
    budget: int = BUDGET,
    key: str | None = None,
    patience: float = 0.0,
) -> Suspect:
    """Suspect an artifact, a theft or an endpoint.

    Args:
        what: folder of an artifact or of a theft (:func:`gro.theft.stolen_copy`), or the URL that histories are posted
            to, as :command:`gro serve` has it.
        n_items: size of the owner's catalogue.
        catalogue: SHA-256 of the owner's file of item tokens.
        k: items of a list that are read.
        budget: most calls.
        key: what the endpoint takes as its API key.
        patience: seconds to wait in all where the endpoint limits how often it answers.

    Raises:
        ArtifactError: there is no artifact in the folder.
        Inconclusive: the artifact is of another catalogue.
        ConfigError: the URL is not one that may be asked.
    """
    if "://" in what:
        return Suspect(Endpoint(what, key, k, patience), n_items, k=k, budget=budget)
    artifact = artifacts.load(Path(what))
    if artifact.manifest.files[ITEMS] != catalogue:
        raise Inconclusive(f"{what}: is of another catalogue than the owner's model")
    suspect = in_hand(answering(artifact), k=k, budget=budget)
    if not artifact.others:
        suspect.inside = Inside(item_table(artifact.model), artifact.item_tokens[1:])
    return suspect


def answering(artifact: Artifact, device: torch.device = CPU) -> Recommender:
    """What answers for an artifact: a thief's clones together, anything else behind its defence."""
    if "clones" in artifact.manifest.settings:
        return stolen_copy(artifact.folder)
    return served(artifact, lists_of(artifact), 0, device)
