"""Gradient-based Ranking Optimization: the target and its student trained in turn (Zhang et al., WSDM 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from gro.config import ProtectionSettings
from gro.losses import ranking_loss, sample_negatives
from gro.models import TrainableRecommender
from gro.models.base import lengths
from gro.optimizer.swap import swap_loss


@dataclass(frozen=True)
class GRO:
    """Protected steps: ``L_target + lambda * L_swap`` for the target, ``L_student`` for the student.

    Attributes:
        target: the recommender to protect.
        student: the surrogate that stands for the thief.
        target_optimizer: optimizer of the target's parameters.
        student_optimizer: optimizer of the student's parameters.
        settings: exposed k, margins, prefixes per window and gradient norm.
    """

    target: TrainableRecommender
    student: TrainableRecommender
    target_optimizer: Optimizer
    student_optimizer: Optimizer
    settings: ProtectionSettings

    def step(self, windows: Tensor, swap_weight: float) -> None:
        """Train both models on windows of real histories ``[B, T]``, ``T >= 2`` (eq. 10 of the paper)."""
        ends = self._sample_ends(windows)
        target_loss, target_scores = self.target.loss_and_scores(windows, ends)
        target_scores = target_scores.flatten(0, 1)
        columns = target_scores.detach().topk(self.settings.k, dim=1).indices
        student_scores, student_loss, list_gradient = self._student(windows, ends, columns)
        swap = swap_loss(target_scores, student_scores, columns, list_gradient, self.settings.swap_margin)
        self._descend(self.target_optimizer, target_loss + swap_weight * swap)
        self._descend(self.student_optimizer, student_loss)

    def warm_up(self, windows: Tensor) -> None:
        """Train the student alone on the lists that the target returns for windows ``[B, T]``, ``T >= 2``."""
        ends = self._sample_ends(windows)
        with torch.no_grad():
            scores = self.target.prefix_scores(windows[:, :-1], ends).flatten(0, 1)
        columns = scores.topk(self.settings.k, dim=1).indices
        self._descend(self.student_optimizer, self._student(windows, ends, columns)[1])

    def _student(self, windows: Tensor, ends: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The student's scores ``[P, n]``, its loss and the loss' derivative by its scores of the list ``[P, k]``."""
        scores = self.student.prefix_scores(windows[:, :-1], ends).flatten(0, 1)
        listed = scores.gather(1, columns)
        negatives = scores.gather(1, sample_negatives(columns + 1, scores.shape[1]) - 1)
        margins = self.settings.order_margin, self.settings.negative_margin
        loss = ranking_loss(listed, negatives, order_margin=margins[0], negative_margin=margins[1])
        (list_gradient,) = torch.autograd.grad(loss, listed, retain_graph=True)
        return scores.detach(), loss, list_gradient

    def _sample_ends(self, windows: Tensor) -> Tensor:
        one_pass = self.target.one_pass and self.student.one_pass
        return sample_ends(windows, self.settings.positions if one_pass else 1)

    def _descend(self, optimizer: Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.settings.clip)
        optimizer.step()


def sample_ends(windows: Tensor, count: int) -> Tensor:
    """Draw the last index of ``count`` prefixes of each window ``[B, T]`` that a known item follows: ``[B, count]``."""
    uniform = torch.rand(len(windows), count, device=windows.device)
    return (uniform * (lengths(windows) - 1)[:, None]).long()
