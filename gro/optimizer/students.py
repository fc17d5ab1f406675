"""Students of GRO: what each learns from lists, and how its scores move as it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from gro.config import StudentLoss
from gro.losses import plackett_luce
from gro.models import TrainableRecommender
from gro.ranking import evaluating

RADIUS = 0.003
"""How far, as a norm over all parameters, a student is moved to see how its scores move."""

Lesson = tuple[Tensor, Tensor]
"""A student's mean loss on lists, and its derivative by the scores that stand on the lists' places ``[P, k]``.

The swap matrix enters a loss through those scores alone: what a loss says of the whole catalogue, such as the logarithm
of the sum of all exponentials, is the same for every list.
"""


@dataclass(frozen=True)
class Student:
    """A surrogate that stands for the thief."""

    model: TrainableRecommender
    optimizer: Optimizer
    loss: StudentLoss


def listwise_lesson(scores: Tensor, columns: Tensor) -> Lesson:
    """Of the likelihood of lists ``columns [P, k]`` in scores ``[P, n]``; see :func:`gro.losses.listwise_loss`.

    With ``R_l`` the sum of exponentials of all items but those above place ``l``, the loss of a list is
    ``mean_l log R_l - z_l``. ``R_l`` falls with each ``z_i`` above it: ``g_i = -(1 + sum_{l > i} exp z_i / R_l) / k``.
    """
    places = plackett_luce(scores, columns)
    listed = scores.detach().gather(1, columns)
    rest = places.detach() + listed
    below = (-rest).flip(1).logcumsumexp(1).flip(1)[:, 1:]
    gradient = torch.ones_like(listed)
    gradient[:, :-1] += (listed[:, :-1] + below).exp()
    return places.mean(), -gradient / places.numel()


def set_lesson(scores: Tensor, columns: Tensor) -> Lesson:
    """Of the cross entropy to the uniform distribution over each list ``columns [P, k]``, whatever its order."""
    loss = -scores.log_softmax(dim=1).gather(1, columns).mean()
    return loss, scores.new_full(columns.shape, -1 / columns.numel())


def moves(model: TrainableRecommender, scores: Callable[[], Tensor]) -> Tensor:
    """How the ``scores`` of a model that has just been differentiated move as it descends: ``[P, n]``, in any unit.

    The central difference over a step of :data:`RADIUS` along the gradient that the parameters hold, without dropout.
    The model is left as it was.
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    start = [p.detach().clone() for p in parameters]
    gradients = [p.grad.clone() for p in parameters if p.grad is not None]
    norm = torch.stack([each.norm() for each in gradients]).norm().clamp(min=torch.finfo().tiny)
    found = []
    with evaluating(model):
        for step in (-RADIUS, RADIUS):
            for p, at, gradient in zip(parameters, start, gradients, strict=True):
                p.copy_(at + (step / norm) * gradient)
            found.append(scores())
        for p, at in zip(parameters, start, strict=True):
            p.copy_(at)
    return found[0] - found[1]
