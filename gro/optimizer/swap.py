"""GRO's swap loss in closed form (Zhang et al., WSDM 2024, arXiv 2310.16335, section 4.2), and one over valid lists."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def swap_loss(
    target_scores: Tensor, student_scores: Tensor, items: Tensor, list_gradient: Tensor, margin: float = 0.0
) -> Tensor:
    """Push the target to swap each listed item for the one that would raise the student's loss most.

    The paper writes a list as a swap matrix ``A [k, n]`` and moves the 1 of each row to the largest entry of
    ``dL_s/dA``. That gradient has rank one, ``g s^T``: row ``i`` moves to ``argmax s`` where ``g_i > 0``, to
    ``argmin s`` where ``g_i < 0`` and stays where ``g_i = 0``. No matrix is built: ``O(n + k)`` per list.

    Args:
        target_scores: ``[B, n]``; the loss is differentiable in them alone.
        student_scores: ``[B, n]``.
        items: listed items as 0-based columns ``[B, k]``.
        list_gradient: derivative of the student's loss by its scores of the listed items ``[B, k]``.
        margin: wanted lead of the swapped-in item.

    Returns:
        The scalar ``mean max(0, t[a_i] - t[a'_i] + margin)``.
    """
    return swap_hinge(target_scores, items, swap_targets(student_scores, items, list_gradient), margin)


def swap_hinge(target_scores: Tensor, items: Tensor, decoys: Tensor, margin: float) -> Tensor:
    """Mean hinge by which listed columns ``items [B, k]`` outscore the columns ``decoys [B, k]`` swapped in."""
    return F.relu(target_scores.gather(1, items) - target_scores.gather(1, decoys) + margin).mean()


def swap_targets(student_scores: Tensor, items: Tensor, list_gradient: Tensor) -> Tensor:
    """Columns ``[B, k]`` that the swap matrix moves ``items [B, k]`` to; arguments as in :func:`swap_loss`."""
    highest = student_scores.argmax(dim=1, keepdim=True)
    lowest = student_scores.argmin(dim=1, keepdim=True)
    return items.where(list_gradient == 0, highest.where(list_gradient > 0, lowest))


def order_loss(target_scores: Tensor, items: Tensor, wanted: Tensor) -> Tensor:
    """Mean distance of listed items to the scores of the places that they are to move to.

    It is zero where ``wanted`` is the order of the scores and nowhere else, and wants the list's scores as they are, at
    other items: the same items stay listed. It moves every misplaced item at once, where a hinge between neighbours
    cancels in the middle of a rising run.

    Args:
        target_scores: ``[B, n]``; the loss is differentiable in them, the scores of the places being constants.
        items: listed items as 0-based columns ``[B, k]``.
        wanted: the same columns in the wanted order, best first ``[B, k]``.

    Returns:
        The scalar ``mean |t[a'_i] - t_(i)|``, ``t_(i)`` being the i-th largest of the list's scores.
    """
    places = target_scores.gather(1, items).detach().sort(dim=1, descending=True).values
    return (target_scores.gather(1, wanted) - places).abs().mean()


def worst_order(student_scores: Tensor, items: Tensor, list_gradient: Tensor, frozen: int = 0) -> Tensor:
    """The order of ``items [B, k]`` that raises the student's loss most: ``[B, k]``; arguments as in :func:`swap_loss`.

    Of all orders in which the first ``frozen`` places keep their items, it maximises ``sum_i g_i s_{a'_i}``: by the
    rearrangement inequality the place with the largest ``g`` gets the item with the largest ``s``, ``O(k log k)``.
    Items on places of equal ``g`` keep their order, so a list without a gradient stays as it is.
    """
    fixed, moved = items[:, :frozen], items[:, frozen:]
    slopes, places = list_gradient[:, frozen:].sort(dim=1, descending=True, stable=True)
    best = student_scores.gather(1, moved).argsort(dim=1, descending=True, stable=True)
    level = torch.zeros_like(best)
    level[:, 1:] = (slopes[:, 1:] != slopes[:, :-1]).cumsum(dim=1)
    in_order = (level * moved.shape[1] + best).sort(dim=1).values - level * moved.shape[1]
    return torch.cat([fixed, moved.scatter(1, places, moved.gather(1, in_order))], dim=1)
