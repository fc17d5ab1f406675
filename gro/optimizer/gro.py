"""Gradient-based Ranking Optimization: the target and its student trained in turn (Zhang et al., WSDM 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from gro.config import ProtectionSettings
from gro.losses import ranking_loss, sample_negatives
from gro.models import TrainableRecommender
from gro.models.base import lengths
from gro.optimizer.plain import adamw
from gro.optimizer.swap import swap_hinge, swap_targets

SERVED_TOGETHER = 16
"""Windows whose lists are made at a time, to bound memory."""


@dataclass(frozen=True)
class GRO:
    """Protected steps: ``L_target + lambda * L_swap`` for the target, ``L_student`` for the student.

    Attributes:
        target: the recommender to protect.
        student: the surrogate that stands for the thief.
        settings: exposed k, margins, prefixes per window, learning rate and gradient norm.
    """

    target: TrainableRecommender
    student: TrainableRecommender
    settings: ProtectionSettings

    @cached_property
    def target_optimizer(self) -> Optimizer:
        """AdamW of the target's parameters."""
        return adamw(self.target, self.settings)

    @cached_property
    def student_optimizer(self) -> Optimizer:
        """AdamW of the student's parameters."""
        return adamw(self.student, self.settings)

    def step(self, windows: Tensor, swap_weight: float, context: Tensor | None = None) -> None:
        """Train both models on windows of real histories ``[B, T]``, ``T >= 2`` (eq. 10 of the paper).

        The windows' first ``context [B]`` items are not predicted again.

        The student learns first and leaves only the columns to swap in, so that one model's graph is alive at a time.
        """
        ends = self._sample_ends(windows)
        columns = self._served(windows, ends)
        decoys = self._teach(windows, ends, columns)
        loss, scores = self.target.loss_and_scores(windows, ends, context)
        swap = swap_hinge(scores.flatten(0, 1), columns, decoys, self.settings.swap_margin)
        self._descend(self.target_optimizer, loss + swap_weight * swap)

    def warm_up(self, windows: Tensor) -> None:
        """Train the student alone on the lists that the target serves for windows ``[B, T]``, ``T >= 2``."""
        ends = self._sample_ends(windows)
        self._teach(windows, ends, self._served(windows, ends))

    @torch.no_grad()
    def _served(self, windows: Tensor, ends: Tensor) -> Tensor:
        """0-based columns of the lists that a thief would get after the prefixes: ``[P, k]``, ``P = B * m``."""
        training = self.target.training
        self.target.eval()
        parts = zip(windows[:, :-1].split(SERVED_TOGETHER), ends.split(SERVED_TOGETHER), strict=True)
        lists = [self.target.prefix_scores(*part).topk(self.settings.k, dim=-1).indices for part in parts]
        self.target.train(training)
        return torch.cat(lists).flatten(0, 1)

    def _teach(self, windows: Tensor, ends: Tensor, columns: Tensor) -> Tensor:
        """Let the student learn the lists; return the columns ``[P, k]`` that would have hurt it most."""
        scores = self.student.prefix_scores(windows[:, :-1], ends).flatten(0, 1)
        listed = scores.gather(1, columns)
        negatives = scores.gather(1, sample_negatives(columns + 1, scores.shape[1]) - 1)
        margins = self.settings.order_margin, self.settings.negative_margin
        loss = ranking_loss(listed, negatives, order_margin=margins[0], negative_margin=margins[1])
        (list_gradient,) = torch.autograd.grad(loss, listed, retain_graph=True)
        self._descend(self.student_optimizer, loss)
        return swap_targets(scores.detach(), columns, list_gradient)

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
