"""What every recommender of the library can do, and what the four architectures share.

A history is a row of item ids 1..n_items in time order, padded with 0 on the right. Scores have one column per item:
column ``j`` belongs to item ``j + 1``.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

PADDING = 0


@runtime_checkable
class Recommender(Protocol):
    """Anything that scores the whole catalogue for a history: it can be ranked, evaluated and robbed."""

    n_items: int
    max_length: int

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` ids to ``[B, n_items]``."""
        ...


class TrainableRecommender(nn.Module, ABC):
    """A recommender with the two differentiable views that training and protection need.

    Subclass it to bring a model of your own: implement :meth:`prefix_scores` (or only :meth:`scores` of a subclass of
    :class:`gro.models.ScoredRecommender`).
    """

    one_pass: bool
    """Whether one forward pass of a history yields the scores after every prefix of it."""

    def __init__(self, n_items: int, max_length: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.max_length = max_length

    @abstractmethod
    def prefix_scores(self, histories: Tensor, ends: Tensor) -> Tensor:
        """Score the next item after prefixes of histories.

        Args:
            histories: item ids ``[B, T]``.
            ends: 0-based index of each prefix' last item ``[B, m]``.

        Returns:
            ``[B, m, n_items]``; row ``[b, j]`` sees only ``histories[b, : ends[b, j] + 1]``.
        """

    @abstractmethod
    def loss(self, windows: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean loss of the model's own training objective.

        Args:
            windows: consecutive items ``[B, T]``, right-padded.
            context: number of leading items of each window that are not predicted ``[B]``, at least 1; unset is 1.
        """

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each whole history: ``[B, T]`` to ``[B, n_items]``.

        Only the ``max_length`` most recent items are read.
        """
        recent = most_recent(histories, self.max_length)
        return self.prefix_scores(recent, lengths(recent)[:, None] - 1)[:, 0]

    def loss_and_scores(self, windows: Tensor, ends: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return :meth:`loss` of windows and :meth:`prefix_scores` at ``ends``, sharing work where possible."""
        return self.loss(windows, context), self.prefix_scores(windows, ends)


class StateRecommender(TrainableRecommender):
    """A recommender whose scores are the dot products of a state and a tied item table (plus a bias, if any)."""

    item_embedding: nn.Embedding
    head: nn.Linear

    def __init__(self, n_items: int, max_length: int, hidden_size: int, *, extra_items: int = 0) -> None:
        super().__init__(n_items, max_length)
        rows = n_items + 1 + extra_items
        self.item_embedding = nn.Embedding(rows, hidden_size, padding_idx=PADDING)
        self.head = nn.Linear(hidden_size, rows, bias=False)
        self.head.weight = self.item_embedding.weight

    @abstractmethod
    def prefix_states(self, histories: Tensor, ends: Tensor) -> Tensor:
        """State after each prefix, ``[B, m, d]``; arguments as in :meth:`prefix_scores`."""

    def item_bias(self) -> Tensor | None:
        """Additive score per item ``[n_items]``."""
        return None

    def item_scores(self, states: Tensor) -> Tensor:
        """Scores of all items for states ``[..., d]``: ``[..., n_items]``."""
        return F.linear(states, self.head.weight[1 : self.n_items + 1], self.item_bias())

    def prefix_scores(self, histories: Tensor, ends: Tensor) -> Tensor:
        """See :meth:`TrainableRecommender.prefix_scores`."""
        return self.item_scores(self.prefix_states(histories, ends))

    def cross_entropy(self, states: Tensor, items: Tensor) -> Tensor:
        """Mean cross entropy over the full catalogue of states ``[N, d]`` against items ``[N]`` (ids from 1).

        Logits are made chunk by chunk: memory does not grow with ``N * n_items``.
        """
        return F.linear_cross_entropy(
            states,
            self.head.weight[1 : self.n_items + 1],
            items - 1,
            linear_bias=self.item_bias(),
            options=torch.nn.LinearCrossEntropyOptions(),
        )


class CausalRecommender(StateRecommender):
    """A left-to-right model: one pass gives the state after every prefix, and a state can be extended item by item."""

    one_pass = True

    @abstractmethod
    def states(self, histories: Tensor) -> Tensor:
        """State after every prefix of each history: ``[B, T]`` to ``[B, T, d]``."""

    @abstractmethod
    def memory(self, batch: int) -> list[Tensor]:
        """Room for what :meth:`extend` keeps of ``batch`` histories of up to ``max_length`` items."""

    @abstractmethod
    def extend(self, memory: list[Tensor], position: int, items: Tensor) -> Tensor:
        """Append ``items [B]`` at 0-based ``position``, update ``memory`` in place, return the new state ``[B, d]``."""

    def prefix_states(self, histories: Tensor, ends: Tensor) -> Tensor:
        """See :meth:`StateRecommender.prefix_states`."""
        return take(self.states(histories), ends)

    def loss(self, windows: Tensor, context: Tensor | None = None) -> Tensor:
        """Next-item cross entropy at every position after the context; see :meth:`TrainableRecommender.loss`."""
        return self._next_item_loss(self.states(windows[:, :-1]), windows, context)

    def loss_and_scores(self, windows: Tensor, ends: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See :meth:`TrainableRecommender.loss_and_scores`: one pass serves both; ``ends`` are below ``T - 1``."""
        states = self.states(windows[:, :-1])
        return self._next_item_loss(states, windows, context), self.item_scores(take(states, ends))

    def _next_item_loss(self, states: Tensor, windows: Tensor, context: Tensor | None) -> Tensor:
        predicted = to_predict(windows, context)[:, 1:]
        return self.cross_entropy(states[predicted], windows[:, 1:][predicted])


def device_of(model: Recommender) -> torch.device:
    """Device of a model's first parameter or buffer; the CPU where it has none."""
    if not isinstance(model, nn.Module):
        return torch.device("cpu")
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def lengths(histories: Tensor) -> Tensor:
    """Number of items of each right-padded history: ``[B, T]`` to ``[B]``."""
    return (histories != PADDING).sum(dim=1)


def to_predict(windows: Tensor, context: Tensor | None) -> Tensor:
    """Which items of windows ``[B, T]`` are neither padding nor among the ``context [B]`` leading ones: ``[B, T]``."""
    real = windows != PADDING
    if context is None:
        return real
    return real & (torch.arange(windows.shape[1], device=windows.device) >= context[:, None])


def padded(rows: Iterable[Sequence[int] | Tensor]) -> Tensor:
    """Put rows of item ids of any length under each other: ``[B, T]``, right-padded."""
    return pad_sequence([torch.as_tensor(row) for row in rows], batch_first=True, padding_value=PADDING)


def unpadded(rows: Tensor) -> list[list[int]]:
    """Return the item ids in each of ``rows [B, T]``."""
    return [[item for item in row if item != PADDING] for row in rows.tolist()]


def most_recent(histories: Tensor, width: int) -> Tensor:
    """Keep the last ``width`` items of each right-padded history: ``[B, T]`` to ``[B, min(T, width)]``."""
    if histories.shape[1] <= width:
        return histories
    first = (lengths(histories) - width).clamp(min=0)[:, None]
    return histories.gather(1, first + torch.arange(width, device=histories.device))


def take(states: Tensor, positions: Tensor) -> Tensor:
    """Pick states ``[B, T, d]`` at positions ``[B, m]``: ``[B, m, d]``."""
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))


def expand_prefixes(histories: Tensor, ends: Tensor) -> Tensor:
    """Write each prefix as a row of its own: ``[B, T]`` and ``[B, m]`` to ``[B * m, T]``, right-padded."""
    width = int(ends.max()) + 1
    positions = torch.arange(width, device=histories.device)
    return torch.where(positions <= ends[..., None], histories[:, None, :width], PADDING).flatten(0, 1)
