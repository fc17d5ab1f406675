"""Losses that teach a student or a thief to reproduce ranked lists.

Lists are in order, best first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

UNLIKELY = -1e30
"""A score of no weight, finite so that its gradient is zero."""


def ranking_loss(
    listed: Tensor, negatives: Tensor, *, order_margin: float = 0.5, negative_margin: float = 0.5
) -> Tensor:
    """Pairwise hinge loss of Yue et al. (RecSys 2021) as used by GRO (Zhang et al., WSDM 2024, eq. 4), as means.

    Args:
        listed: scores of the list's items ``[..., k]``.
        negatives: scores of as many items drawn outside the list ``[..., k]``.
        order_margin: wanted lead of each item over the next one in the list.
        negative_margin: wanted lead of each listed item over its negative.
    """
    order = F.relu(listed[..., 1:] - listed[..., :-1] + order_margin)
    outside = F.relu(negatives - listed + negative_margin)
    return (order.mean() if order.numel() else order.sum()) + outside.mean()


def listwise_loss(scores: Tensor, columns: Tensor) -> Tensor:
    """Negative log likelihood of top-k lists over the catalogue (ListMLE, Xia et al., ICML 2008), mean per rank.

    Arguments as in :func:`plackett_luce`.
    """
    return plackett_luce(scores, columns).mean()


def plackett_luce(scores: Tensor, columns: Tensor) -> Tensor:
    """Negative log likelihood of every place of a list, given those above it: ``[..., k]``.

    Args:
        scores: scores of all items ``[..., n]``.
        columns: columns of the list's items, best first ``[..., k]``.
    """
    listed: Tensor
    unlisted: Tensor
    listed, unlisted = _Parted.apply(scores, columns)  # type: ignore[no-untyped-call]
    not_yet_drawn = listed.flip(-1).logcumsumexp(-1).flip(-1)
    return torch.logaddexp(unlisted, not_yet_drawn) - listed


class _Parted(Function):
    """Scores of the listed items ``[..., k]`` and the logsumexp of all others ``[..., 1]``.

    One exponential serves both directions: the gradient of the second is the softmax that the first pass has made.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, scores: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        others = scores.scatter(-1, columns, UNLIKELY)
        highest = others.amax(-1, keepdim=True)
        weights = others.sub_(highest).exp_()
        total = weights.sum(-1, keepdim=True)
        ctx.save_for_backward(columns, weights, total)
        return scores.gather(-1, columns), highest + total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        of_listed, of_unlisted = grad_outputs
        columns, weights, total = ctx.saved_tensors
        return (weights * (of_unlisted / total)).scatter_(-1, columns, of_listed), None


def sample_negatives(items: Tensor, n_items: int) -> Tensor:
    """Draw, for each list of ids ``[..., k]``, ``k`` uniform ids outside that list.

    A few rounds of redrawing leave a collision with probability below ``(k / n_items) ** 4``; where the list covers
    more than half of the catalogue the negatives may repeat listed items.
    """
    negatives = torch.randint_like(items, 1, n_items + 1)
    ordered = items.sort(dim=-1).values.contiguous()
    for _ in range(3):
        at = torch.searchsorted(ordered, negatives).clamp(max=items.shape[-1] - 1)
        taken = ordered.gather(-1, at) == negatives
        negatives = torch.where(taken, torch.randint_like(items, 1, n_items + 1), negatives)
    return negatives
