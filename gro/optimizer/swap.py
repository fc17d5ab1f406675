"""GRO's swap loss in closed form (Zhang et al., WSDM 2024, arXiv 2310.16335, section 4.2)."""

from __future__ import annotations

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
