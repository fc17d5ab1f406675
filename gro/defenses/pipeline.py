"""A recommender with its defence in front of it: the parts in turn, from the history to the list."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gro.defenses.base import Answer, EmbeddingPart, HistoryPart, ListPart, Part, ScorePart
from gro.defenses.noise import fresh_keys, history_keys
from gro.errors import ConfigError
from gro.models import PADDING, CausalRecommender, Recommender, StateRecommender
from gro.models.base import lengths, most_recent, take
from gro.ranking import MASKED, top_k
from gro.serving import Remembering

STAGES: tuple[type[Part], ...] = (HistoryPart, EmbeddingPart, ScorePart, ListPart)


def exposed(parts: Sequence[Part], k: int, n_items: int) -> int:
    """How many items are served of a list of ``k`` of ``n_items`` items, if the parts fit together.

    Raises:
        ConfigError: a part cannot apply to what those before it leave, or comes too late.
    """
    for earlier, later in itertools.pairwise(parts):
        if _stage(later) < _stage(earlier):
            raise ConfigError(
                f"{later.name()} changes what {earlier.name()} is made of; put it before {earlier.name()}"
            )
    for part in parts:
        k = part.exposed(k, n_items)
    return k


class Defended(nn.Module):
    """A recommender that scores as its defended lists say: what is served keeps its order, the rest is masked.

    Attributes:
        model: the recommender behind the defence.
        parts: the defence.
        k: exposed list length, at most the one that was asked for.
    """

    def __init__(
        self, model: Recommender, parts: Sequence[Part], k: int, *, secret: bytes, per_history: bool, seed: int = 0
    ) -> None:
        """Put ``parts`` in front of ``model``.

        Args:
            model: what answers.
            parts: in the order in which they act.
            k: list length before the defence.
            secret: up to 64 bytes that make the noise of a history, and the names that misinformation gives.
            per_history: whether the same history has the same noise whenever it is asked, so that asking again gains
                nothing; otherwise every call has its own.
            seed: of the noise where every call has its own.

        Raises:
            ConfigError: the parts do not fit together, or not this model.
        """
        super().__init__()
        self.model, self.n_items, self.max_length = model, model.n_items, model.max_length
        self.parts = tuple(parts)
        self.k = exposed(parts, k, model.n_items)
        self._asked, self._secret, self._per_history = k, secret, per_history
        self._generator = torch.Generator().manual_seed(seed)
        tabled = next((part for part in parts if part.reads_table), None)
        if tabled and not isinstance(model, StateRecommender):
            raise ConfigError(f"{tabled.name()} needs a model with an item table, not {type(model).__name__}")
        for part in parts:
            part.require(model)
        self._scored = model if any(isinstance(part, EmbeddingPart) for part in parts) else Remembering(model)
        changed = any(isinstance(part, (HistoryPart, EmbeddingPart)) for part in parts)
        wanted = any(part.reads_states for part in parts) and not changed
        self._kept = model if wanted and isinstance(model, CausalRecommender) else None
        self._listing = [(stream, part.before(model)) for stream, part in self._each(ListPart)]

    def scores(self, histories: Tensor) -> Tensor:
        """Scores ``[B, n_items]`` that rank as the lists do: minus its place for what is served, -inf for the rest."""
        lists = self.lists(histories)
        places = torch.arange(lists.shape[1], device=lists.device).neg().expand_as(lists)
        scores = torch.full((len(lists), self.n_items + 1), MASKED, device=lists.device)
        return scores.scatter(1, lists, places.float())[:, PADDING + 1 :]

    @torch.no_grad()
    def lists(self, histories: Tensor) -> Tensor:
        """The lists that are served for histories ``[B, T]``: item ids ``[B, k]``, right-padded."""
        keys = self._keys(histories).to(histories.device)
        read = most_recent(histories, self.max_length)
        for stream, part in self._each(HistoryPart):
            read = part.histories(read, self.n_items, keys, stream)
        with self._vectors(keys):
            scores, states = self._scores(read)
        for stream, part in self._each(ScorePart):
            scores = part.scores(scores, keys, stream)
        lists = top_k(scores, self._asked)
        for stream, changed in self._listing:
            lists = changed(Answer(self.model, histories, scores, lists, states, keys, stream, self._secret))
        return lists

    def _scores(self, read: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores, and where a part wants them the states of the pass that made them."""
        if self._kept is None:
            return self._scored.scores(read), None
        states = self._kept.states(read)
        return self._kept.item_scores(take(states, lengths(read)[:, None] - 1)[:, 0]), states

    def _keys(self, histories: Tensor) -> Tensor:
        if self._per_history:
            return history_keys(histories, self.max_length, self._secret)
        return fresh_keys(len(histories), self._generator)

    def _each(self, stage: type[Part]) -> Iterator[tuple[int, Any]]:
        return ((stream, part) for stream, part in enumerate(self.parts) if isinstance(part, stage))

    @contextmanager
    def _vectors(self, keys: Tensor) -> Iterator[None]:
        """Let the parts that change vectors act on what the model reads."""
        hooks = []
        for stream, part in self._each(EmbeddingPart):
            table = self.model.item_embedding  # type: ignore[attr-defined]
            hooks.append(table.register_forward_hook(partial(_changed, part, keys, stream)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _changed(
    part: EmbeddingPart, keys: Tensor, stream: int, table: nn.Module, given: object, vectors: Tensor
) -> Tensor:
    return part.embeddings(vectors, table.weight, keys, stream)  # type: ignore[arg-type]


def _stage(part: Part) -> int:
    return next(number for number, stage in enumerate(STAGES) if isinstance(part, stage))
