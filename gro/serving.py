"""A recommender behind its door: histories in, lists out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gro.errors import DataError, GroError
from gro.models import PADDING, CausalRecommender, Recommender, padded, unpadded
from gro.models.base import device_of, lengths
from gro.ranking import evaluating, top_k


class Remembering:
    """A recommender that computes only what is new.

    Where the histories of a call are those of the call before, each longer by one item, only the new items are
    computed: growing a history item by item costs about one pass over it.
    """

    def __init__(self, model: Recommender) -> None:
        self.model = model
        self.n_items = model.n_items
        self.max_length = model.max_length
        self._last: Tensor | None = None
        self._memory: list[Tensor] | None = None

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` to ``[B, n_items]``."""
        last, self._last = self._last, histories.clone()
        fits = histories.shape[1] <= self.model.max_length
        if isinstance(self.model, CausalRecommender) and fits and goes_on(histories, last):
            return self._extend(self.model, histories)
        self._memory = None
        return self.model.scores(histories)

    def _extend(self, model: CausalRecommender, histories: Tensor) -> Tensor:
        known = histories.shape[1] - 1
        if self._memory is None:
            self._memory, known = model.memory(len(histories)), 0
        states = [model.extend(self._memory, at, histories[:, at]) for at in range(known, histories.shape[1])]
        return model.item_scores(states[-1])


def goes_on(histories: Tensor, last: Tensor | None) -> bool:
    """Whether right-padded histories ``[B, T]`` are the ``last`` ones ``[B, T - 1]``, each longer by one item."""
    return last is not None and bool((histories[:, -1] != PADDING).all()) and torch.equal(histories[:, :-1], last)


class RankingService:
    """The callable ``histories -> lists`` that a caller, and so a thief, sees.

    Attributes:
        model: the recommender behind the door.
        k: exposed list length.
        calls: histories answered so far.
    """

    def __init__(self, model: Recommender, k: int) -> None:
        """Serve ``model``; lists have ``k`` items.

        Raises:
            GroError: ``k`` is not in 1..n_items.
        """
        if not 1 <= k <= model.n_items:
            raise GroError(f"k is {k}; a list has between 1 and {model.n_items} items, the size of the catalogue")
        self.model = model
        self.k = k
        self.calls = 0
        self._device = device_of(model)
        self._remembering = Remembering(model)

    def __call__(self, histories: Tensor) -> Tensor:
        """Answer right-padded histories ``[B, T]`` of item ids with lists ``[B, k]`` of item ids, best first.

        Raises:
            DataError: a history is empty, has a gap or names an item outside 1..n_items.
            GroError: the model's scores are not finite.
        """
        check_histories(histories, self.model.n_items)
        self.calls += len(histories)
        with evaluating(self.model):
            return top_k(self._remembering.scores(histories.to(self._device)), self.k)


def lists_of_ids(service: RankingService, histories: Sequence[Sequence[int]]) -> list[list[int]]:
    """Answer histories of any length, item ids with the oldest first, with lists of item ids without padding.

    A history that is longer than the model reads is cut to its end; raises as the service does.
    """
    return unpadded(service(padded(history[-service.model.max_length :] for history in histories)))


def check_histories(histories: Tensor, n_items: int) -> None:
    """Refuse histories ``[B, T]`` that are not right-padded rows of item ids 1..n_items.

    Raises:
        DataError: names the first bad row and what is wrong with it.
    """
    if histories.ndim != 2 or histories.dtype != torch.int64:
        raise DataError(f"histories are {histories.dtype} {list(histories.shape)}; they must be int64 [batch, length]")
    outside = ((histories < 0) | (histories > n_items)).nonzero()
    if len(outside):
        row, column = outside[0].tolist()
        raise DataError(f"history {row}: item id {int(histories[row, column])} is not in 1..{n_items}")
    length = lengths(histories)
    columns = torch.arange(histories.shape[1], device=histories.device)
    gaps = (((histories == PADDING) & (columns < length[:, None])).any(dim=1) | (length == 0)).nonzero()
    if len(gaps):
        raise DataError(f"history {int(gaps[0])}: padding (0) may only follow at least one item")
