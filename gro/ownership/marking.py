"""Putting a mark into a model's behaviour, within a budget of utility: to be what it was, but for the mark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from gro.config import ModelSettings
from gro.data import Sequences
from gro.data.windows import batches
from gro.errors import GroError
from gro.metrics import FloatArray, ndcg
from gro.models import StateRecommender, build
from gro.models.base import device_of
from gro.optimizer.gro import sample_ends
from gro.ownership.settings import MarkSettings
from gro.ownership.suspect import K, Suspect, in_hand
from gro.ranking import ranks
from gro.training import Log, Progress, Quiet, Trainer

RANDOM = 16
"""Random histories in a step: what thieves ask is no real history."""
RANDOM_LENGTH = 24
POSITIONS = 16
"""Prefixes of a history that one step looks at."""
OVERSPENT = -2.0
"""Score of an epoch that is beyond the budget, less what it cost."""


class Mark(ABC):
    """A keyed test (:class:`gro.ownership.calibration.Keyed`) whose answer is trained into a model."""

    name: str

    @property
    @abstractmethod
    def calls(self) -> int:
        """Most calls that it makes of a suspect."""

    @abstractmethod
    def examine(self, suspect: Suspect, draws: int) -> tuple[float, FloatArray]:
        """Ask a suspect: the statistic, the larger the clearer the mark, and what other secrets read."""

    @abstractmethod
    def another(self, key: bytes) -> Self:
        """The mark that another key would have given."""

    @abstractmethod
    def secret(self) -> bytes:
        """What is committed to and kept."""

    def moved(self, table: Tensor) -> Tensor:
        """Which rows of the item table ``[rows, d]`` are trained, 1 or 0 each ``[rows, 1]``; nothing else is."""
        return torch.ones_like(table[:, :1])

    def promoted(self, states: Tensor) -> Tensor | float:
        """What is to be added to the plain model's scores after its states ``[..., d]``: ``[..., n_items]``."""
        return 0.0

    def recited(self, model: StateRecommender) -> Tensor | float:
        """Loss of what the model is to know by heart."""
        return 0.0


def marked(
    plain: StateRecommender,
    architecture: ModelSettings,
    sequences: Sequences,
    mark: Mark,
    settings: MarkSettings,
    progress: Progress | None = None,
    *,
    original: StateRecommender | None = None,
) -> tuple[StateRecommender, Log]:
    """Return a copy of a model with a mark in it, on the device of the model, and how its training went.

    Args:
        plain: trained.
        architecture: of the plain model.
        sequences: its interactions; the last two items of each user are held out.
        mark: what is put into it.
        settings: of the training.
        progress: receives steps and epochs.
        original: what the utility is compared with, where the plain model has other marks already.

    Raises:
        GroError: no epoch was within the budget, or the original ranks no validation item among its 10 best.
    """
    exact = architecture.model_copy(update={"dropout": 0.0, "attention_dropout": 0.0})
    model = build(exact, plain.n_items).to(device_of(plain))
    model.load_state_dict(plain.state_dict())
    model.requires_grad_(False).head.weight.requires_grad_(True)
    before = _ndcg(original or plain, sequences)
    if not before:
        raise GroError(f"{sequences.name}: the model ranks no validation item among its 10 best; train it first")
    return model, Marking(model, plain, sequences, mark, settings, before).run(progress or Quiet())


@dataclass(frozen=True)
class Marking:
    """Trains a mark into the item table of a model; its other weights stay what they were.

    After real histories and after random ones the model learns to score as the plain one does, but for what is
    promoted; beside it, what it is to know by heart. Of the epochs whose relative loss of validation NDCG@10 is within
    the budget the one is kept that shows the mark best. The mark weighs half as much after an epoch that overspent, and
    twice as much again, up to what was asked for, after one that did not.

    Attributes:
        model: begins as the plain model, without dropout; trained in place.
        plain: what it was.
        sequences: all interactions; the last two items of each user are held out.
        mark: what is put into it.
        settings: of the training.
        before: validation NDCG@10 that the loss is relative to.
    """

    model: StateRecommender
    plain: StateRecommender
    sequences: Sequences
    mark: Mark
    settings: MarkSettings
    before: float

    def run(self, progress: Progress) -> Log:
        """Mark the model; it is left with the weights of the best epoch.

        Raises:
            GroError: no epoch was within the budget.
        """
        log = Trainer(
            modules={"model": self.model},
            optimizers=[self._optimizer],
            epochs=self.settings.epochs,
            patience=0,
            seed=self.settings.seed,
            schedule="linear",
            progress=progress,
        ).run(self._epoch, self._validate)
        budget = self.settings.utility_budget
        if (least := min(figures["utility_loss"] for figures in log.figures)) > budget:
            raise GroError(
                f"{self.mark.name}: costs at least {least:.2%} of validation NDCG@10, and the budget is {budget:.2%}: "
                "take more epochs or a larger budget"
            )
        return log

    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([self.model.head.weight], lr=self.settings.learning_rate)

    @cached_property
    def _teacher(self) -> StateRecommender:
        return deepcopy(self.plain).eval().requires_grad_(False)

    def _epoch(self, log: Log, seed: int) -> Iterator[float]:
        weight, device, table = self._weight(log), device_of(self.model), self.model.head.weight
        moved = self.mark.moved(table)
        windows = batches(self.sequences.train, self.model.max_length, self.settings.batch_size, seed)
        for done, batch in enumerate(windows, start=1):
            asked = (batch.items.to(device), _random_histories(self.model).to(device))
            losses = [self._imitation(each, weight) for each in asked]
            loss = torch.stack(losses).sum() + weight * self.mark.recited(self.model)
            (gradient,) = torch.autograd.grad(loss, table)
            table.grad = gradient * moved
            self._optimizer.step()
            yield done / len(windows)

    def _imitation(self, histories: Tensor, weight: float) -> Tensor:
        """Mean KL divergence from what is wanted, after sampled prefixes of histories ``[B, T]``, ``T >= 2``."""
        ends = sample_ends(histories, POSITIONS if self.model.one_pass else 1)
        with torch.no_grad():
            states = self._teacher.prefix_states(histories[:, :-1], ends)
            wanted = self._teacher.item_scores(states) + weight * self.mark.promoted(states)
        found = self.model.prefix_scores(histories[:, :-1], ends).log_softmax(dim=-1)
        return F.kl_div(found, wanted.log_softmax(dim=-1), reduction="none", log_target=True).sum(dim=-1).mean()

    def _weight(self, log: Log) -> float:
        """How much of the mark the epoch that follows the logged ones teaches, at most 1."""
        weight = 1.0
        for figures in log.figures:
            overspent = figures["utility_loss"] > self.settings.utility_budget
            weight = weight / 2 if overspent else min(2 * weight, 1.0)
        return weight

    def _validate(self, log: Log) -> tuple[float, dict[str, float]]:
        lost = 1 - _ndcg(self.model, self.sequences) / self.before
        score = max(shown(self.mark, self.model), 0.0) if lost <= self.settings.utility_budget else OVERSPENT
        return score - lost, {"weight": self._weight(log), "utility_loss": lost}


def shown(mark: Mark, model: StateRecommender) -> float:
    """The statistic of a mark in a model that we hold."""
    return mark.examine(in_hand(model, k=min(K, model.n_items)), draws=0)[0]


def _random_histories(model: StateRecommender) -> Tensor:
    return torch.randint(1, model.n_items + 1, (RANDOM, 1 + min(RANDOM_LENGTH, model.max_length)))


def _ndcg(model: StateRecommender, sequences: Sequences) -> float:
    return float(ndcg(ranks(model, sequences.valid), 10).mean())
