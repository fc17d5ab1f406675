"""What a thief minimises: losses of a surrogate's scores ``[N, n_items]`` against recorded lists ``[N, k]``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.nn import functional as F

from gro.losses import listwise_loss, plackett_luce, ranking_loss, sample_negatives
from gro.models import PADDING

DistillationLoss = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of scores ``[N, n_items]`` against lists of item ids ``[N, k]``, right-padded, none of them empty."""


TRIMMED = 0.2
"""Share of the lists of a batch that the robust thief leaves out."""


def by_length(loss: DistillationLoss) -> DistillationLoss:
    """Let a loss for lists of one length take lists that fell short: the mean over lists, each at its own length."""

    @wraps(loss)
    def of_any_length(scores: Tensor, lists: Tensor) -> Tensor:
        length = (lists != PADDING).sum(dim=1)
        if bool((length == lists.shape[1]).all()):
            return loss(scores, lists)
        parts = [(rows, int(n)) for n in length.unique() if len(rows := (length == n).nonzero()[:, 0])]
        total = [len(rows) * loss(scores[rows], lists[rows, :n]) for rows, n in parts]
        return torch.stack(total).sum() / len(lists)

    return of_any_length


@by_length
def ranking(scores: Tensor, lists: Tensor) -> Tensor:
    """The paper's ranking loss with negatives drawn outside the list; see :func:`gro.losses.ranking_loss`."""
    negatives = sample_negatives(lists, scores.shape[1])
    return ranking_loss(scores.gather(1, lists - 1), scores.gather(1, negatives - 1))


@by_length
def listwise(scores: Tensor, lists: Tensor) -> Tensor:
    """Plackett-Luce likelihood of the list; see :func:`gro.losses.listwise_loss`."""
    return listwise_loss(scores, lists - 1)


@by_length
def trimmed(scores: Tensor, lists: Tensor) -> Tensor:
    """Plackett-Luce without the fifth of a batch's lists that fit worst: a defence may have poisoned those."""
    per_list = plackett_luce(scores, lists - 1).mean(dim=1)
    kept = max(1, round((1 - TRIMMED) * len(per_list)))
    return per_list.topk(kept, largest=False).values.mean()


@by_length
def set_only(scores: Tensor, lists: Tensor) -> Tensor:
    """Cross entropy to the uniform distribution over the list, whose order a defence may have bent."""
    return -scores.log_softmax(dim=1).gather(1, lists - 1).mean()


@by_length
def discounted(scores: Tensor, lists: Tensor) -> Tensor:
    """Cross entropy to a distribution over the list that falls with the place like DCG, as ``1 / log2(place + 1)``."""
    weights = 1 / torch.arange(2.0, lists.shape[1] + 2, device=scores.device).log2()
    return -(scores.log_softmax(dim=1).gather(1, lists - 1) * (weights / weights.sum())).sum(dim=1).mean()


@by_length
def bpr(scores: Tensor, lists: Tensor) -> Tensor:
    """Pairs of listed and unlisted items, and of neighbours in the list (Rendle et al., UAI 2009): ``-log sigmoid``."""
    listed = scores.gather(1, lists - 1)
    unlisted = scores.gather(1, sample_negatives(lists, scores.shape[1]) - 1)
    order = F.softplus(listed[:, 1:] - listed[:, :-1])
    return F.softplus(unlisted - listed).mean() + (order.mean() if order.numel() else order.sum())


LOSSES: dict[str, DistillationLoss] = {
    "listwise": listwise,
    "ranking": ranking,
    "trimmed": trimmed,
    "set": set_only,
    "discounted": discounted,
    "bpr": bpr,
}
