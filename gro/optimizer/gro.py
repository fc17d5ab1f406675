"""Gradient-based Ranking Optimization: the target and its student trained in turn (Zhang et al., WSDM 2024).

The settings' defaults are the paper's method. Its variants, each on its own or together: swaps that are valid lists,
the lists that thieves ask for, harm that is measured after learning, and several students.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from gro.config import ProtectionSettings, StudentLoss
from gro.losses import ranking_loss, sample_negatives
from gro.models import TrainableRecommender
from gro.models.base import lengths
from gro.optimizer.plain import adamw
from gro.optimizer.students import Lesson, Student, listwise_lesson, moves, set_lesson
from gro.optimizer.swap import order_loss, swap_hinge, swap_targets, worst_order

SERVED_TOGETHER = 16
"""Windows whose lists are made at a time, to bound memory."""


@dataclass(frozen=True)
class GRO:
    """Protected steps: ``L_target + lambda * L_swap`` for the target, ``L_student`` for every student.

    Attributes:
        target: the recommender to protect.
        student: the surrogate that stands for the thief.
        settings: exposed k, margins, prefixes per window, learning rate and gradient norm; the students' losses.
        others: further students, which learn the same lists; the swap loss is the mean over all.
    """

    target: TrainableRecommender
    student: TrainableRecommender
    settings: ProtectionSettings
    others: Sequence[TrainableRecommender] = ()

    @cached_property
    def target_optimizer(self) -> Optimizer:
        """AdamW of the target's parameters."""
        return adamw(self.target, self.settings)

    @cached_property
    def student_optimizer(self) -> Optimizer:
        """AdamW of the student's parameters."""
        return adamw(self.student, self.settings)

    @cached_property
    def students(self) -> list[Student]:
        """All students, with their losses as in the settings."""
        optimizers = [self.student_optimizer, *(adamw(each, self.settings) for each in self.others)]
        parts = zip((self.student, *self.others), optimizers, self.settings.taught, strict=True)
        return [Student(model, optimizer, loss) for model, optimizer, (_, loss) in parts]

    def step(
        self, windows: Tensor, swap_weight: float, context: Tensor | None = None, asked: Tensor | None = None
    ) -> None:
        """Train all models on windows of real histories ``[B, T]``, ``T >= 2`` (eq. 10 of the paper).

        The windows' first ``context [B]`` items are not predicted again. The lists that are learnt and attacked are
        those of the histories ``asked [B', T']``, ``T' >= 2``; unset, of the windows themselves.

        The students learn first and leave only columns, so that one model's graph is alive at a time.
        """
        histories = windows if asked is None else asked
        ends = self._sample_ends(histories)
        columns = self._served(histories, ends)
        wanted = [self._teach(student, histories, ends, columns) for student in self.students]
        if asked is None:
            loss, scores = self.target.loss_and_scores(windows, ends, context)
        else:
            loss, scores = self.target.loss(windows, context), self.target.prefix_scores(asked[:, :-1], ends)
        swap = torch.stack([self._swap_loss(scores.flatten(0, 1), columns, each) for each in wanted]).mean()
        self._differentiate(self.target_optimizer, loss + swap_weight * swap)
        self.target_optimizer.step()

    def warm_up(self, windows: Tensor) -> None:
        """Train the students alone on the lists that the target serves for windows ``[B, T]``, ``T >= 2``."""
        ends = self._sample_ends(windows)
        columns = self._served(windows, ends)
        for student in self.students:
            self._teach(student, windows, ends, columns)

    @torch.no_grad()
    def _served(self, windows: Tensor, ends: Tensor) -> Tensor:
        """0-based columns of the lists that a thief would get after the prefixes: ``[P, k]``, ``P = B * m``."""
        training = self.target.training
        self.target.eval()
        parts = zip(windows[:, :-1].split(SERVED_TOGETHER), ends.split(SERVED_TOGETHER), strict=True)
        lists = [self.target.prefix_scores(*part).topk(self.settings.k, dim=-1).indices for part in parts]
        self.target.train(training)
        return torch.cat(lists).flatten(0, 1)

    def _teach(self, student: Student, windows: Tensor, ends: Tensor, columns: Tensor) -> Tensor:
        """Let a student learn the lists; return the columns ``[P, k]`` that would have hurt it most.

        After a step of size ``eta`` on a list ``a'`` the loss on the true lists, of gradient ``G``, has changed by
        ``-eta <G, sum_i g_i grad s_{a'_i}>``. So what hurts then is what hurts now with ``-<G, grad s>``, how scores
        move as the student learns the true lists, in place of the scores.
        """

        def scores() -> Tensor:
            return student.model.prefix_scores(windows[:, :-1], ends).flatten(0, 1)

        now = scores()
        loss, list_gradient = self._lesson(student.loss, now, columns)
        self._differentiate(student.optimizer, loss)
        after = self.settings.objective == "after"
        swapped = self._swapped(moves(student.model, scores) if after else now.detach(), columns, list_gradient)
        student.optimizer.step()
        return swapped

    def _lesson(self, loss: StudentLoss, scores: Tensor, columns: Tensor) -> Lesson:
        if loss != "ranking":
            return (listwise_lesson if loss == "listwise" else set_lesson)(scores, columns)
        listed = scores.gather(1, columns)
        negatives = scores.gather(1, sample_negatives(columns + 1, scores.shape[1]) - 1)
        margins = self.settings.order_margin, self.settings.negative_margin
        value = ranking_loss(listed, negatives, order_margin=margins[0], negative_margin=margins[1])
        return value, torch.autograd.grad(value, listed, retain_graph=True)[0]

    def _swapped(self, student_scores: Tensor, columns: Tensor, list_gradient: Tensor) -> Tensor:
        if self.settings.swap_to == "extremes":
            return swap_targets(student_scores, columns, list_gradient)
        return worst_order(student_scores, columns, list_gradient, self.settings.frozen)

    def _swap_loss(self, target_scores: Tensor, columns: Tensor, swapped: Tensor) -> Tensor:
        if self.settings.swap_to == "extremes":
            return swap_hinge(target_scores, columns, swapped, self.settings.swap_margin)
        return order_loss(target_scores, columns, swapped)

    def _sample_ends(self, windows: Tensor) -> Tensor:
        one_pass = self.target.one_pass and all(student.model.one_pass for student in self.students)
        return sample_ends(windows, self.settings.positions if one_pass else 1)

    def _differentiate(self, optimizer: Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.settings.clip)


def sample_ends(windows: Tensor, count: int) -> Tensor:
    """Draw the last index of ``count`` prefixes of each window ``[B, T]`` that a known item follows: ``[B, count]``."""
    uniform = torch.rand(len(windows), count, device=windows.device)
    return (uniform * (lengths(windows) - 1)[:, None]).long()
