"""Gradient redirection for lists: the order whose lesson points away from the true one.

Prediction poisoning (Orekondy et al., ICLR 2020) and gradient redirection (Mazeika et al., ICML 2022) choose, among the
answers that are useful enough, the one whose gradient in a student's parameters points where the owner wants. A list's
lesson is here the position-discounted cross entropy ``L = sum_i w_i CE(a_i)``, ``w_i = 1 / log2(i + 1)``, of a student
whose state is ``h`` and whose item table is ``W``. Its gradient in the scores is ``c - sum_i w_i e_{a_i}``; ``c``, of
the softmax, is the same for every order; what a list pulls at is the rest, the gradient of minus the weighted scores
of its items. In the table it is that times ``h``, in the state ``W^T`` times it. So with ``K = |h|^2 I + W W^T`` over
the list's items, the inner product of the lesson of an order with what the true order pulls at is, up to a constant,
``sum_i w_i (K w)_{a_i}``: an assignment of costs ``K w`` to weights ``w``. The target stands for the student.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gro.defenses.base import Answer
from gro.defenses.lists import TailPart
from gro.errors import ConfigError
from gro.models import PADDING, StateRecommender
from gro.models.base import lengths, most_recent, take


class Redirection(TailPart):
    """Reorder the ranks below ``keep`` so that the student's gradient points away from what the true list pulls at."""

    reads_states = reads_table = True

    kind: Literal["redirection"] = "redirection"
    displacement: Annotated[int, Field(gt=0)] | None = None
    """Most ranks that an item may move; unset does not bound it."""

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`.

        Raises:
            ConfigError: the model has no state and item table.
        """
        if not isinstance(answer.model, StateRecommender):
            raise ConfigError(f"redirection needs a model with an item table, not {type(answer.model).__name__}")
        lists, listed = answer.lists, answer.lists != PADDING
        weights = 1 / torch.arange(2, lists.shape[1] + 2, device=lists.device).log2()
        state = _last_states(answer.model, answer.histories, answer.states)
        cost = kernel_costs(state, answer.model.head.weight, lists, weights).masked_fill(~listed, torch.inf)
        cost[:, : self.keep] = torch.arange(-self.keep, 0, device=lists.device) - cost[listed].abs().max()
        if self.displacement is None:
            return lists.gather(1, cost.argsort(dim=1, stable=True))
        return lists.gather(1, self._assigned(cost, weights, lengths(lists)))

    def _assigned(self, cost: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
        """The cheapest order in which no item moves further than allowed: ``[B, k]`` places in the list."""
        order = np.tile(np.arange(cost.shape[1]), (len(cost), 1))
        for row, size in enumerate(sizes.tolist()):
            tail = np.arange(self.keep, size)
            pairs = np.multiply.outer(weights[tail].cpu().numpy(), cost[row, tail].cpu().numpy())
            pairs[np.abs(tail[:, None] - tail) > self.displacement] = np.inf
            order[row, tail] = self.keep + linear_sum_assignment(pairs)[1]
        return torch.from_numpy(order).to(cost.device)


def kernel_costs(state: Tensor, table: Tensor, lists: Tensor, weights: Tensor) -> Tensor:
    """``K w`` of every listed item, see the module: ``[B, k]``.

    Args:
        state: ``[B, d]``.
        table: a row for each item id ``[rows, d]``.
        lists: item ids ``[B, k]``, right-padded.
        weights: of the places ``[k]``.
    """
    own = weights * (lists != PADDING)
    vectors = table[lists]
    taught = (own[:, None] @ vectors)[:, 0]
    return state.square().sum(dim=1, keepdim=True) * own + (vectors @ taught[..., None])[..., 0]


def _last_states(model: StateRecommender, histories: Tensor, states: Tensor | None) -> Tensor:
    read = most_recent(histories, model.max_length)
    ends = lengths(read)[:, None] - 1
    return (model.prefix_states(read, ends) if states is None else take(states, ends))[:, 0]
