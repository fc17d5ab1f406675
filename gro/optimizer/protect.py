"""Protection of a target on its owner's interactions: epochs of GRO under a declared trade-off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.metrics import agreement, ndcg
from gro.models import TrainableRecommender
from gro.models.base import device_of
from gro.optimizer.gro import GRO
from gro.optimizer.plain import training_pass
from gro.ranking import lists, ranks
from gro.training import Log, Progress, Trainer


@dataclass(frozen=True)
class Protection:
    """Trains a target and a student in turn and judges each epoch on the validation items.

    The declared trade-off: of the epochs whose relative loss of validation NDCG@10 is within the utility budget, the
    one with the largest lead of the target over its student, both relative to the plain target; where none is within
    it, the one that lost least. Lambda halves after an epoch that overspent and doubles, up to the weight asked for,
    after one that did not.

    Attributes:
        target: starts as the plain target or untrained; protected in place.
        student: untrained; trained in place.
        sequences: all interactions; the last two items of each user are held out.
        settings: switches of GRO and of the training.
        plain_ndcg: validation NDCG@10 of the plain target.
        folder: where the resumable state is kept.
        progress: receives steps and epochs.
    """

    target: TrainableRecommender
    student: TrainableRecommender
    sequences: Sequences
    settings: ProtectionSettings
    plain_ndcg: float
    folder: Path | None
    progress: Progress

    def run(self) -> Log:
        """Protect the target; it is left with the weights of the best epoch."""
        epochs = self.settings.warm_up_epochs + self.settings.protect_epochs
        trainer = Trainer(
            modules={"target": self.target, "student": self.student},
            optimizers=[self._gro.target_optimizer, self._gro.student_optimizer],
            epochs=epochs,
            patience=0,
            seed=self.settings.seed,
            schedule=self.settings.schedule,
            folder=self.folder,
            settings=f"{self.settings.model_dump_json()} {self.sequences.digest} {self.plain_ndcg}",
            progress=self.progress,
        )
        return trainer.run(self._epoch, self._validate)

    @cached_property
    def _gro(self) -> GRO:
        return GRO(self.target, self.student, self.settings)

    def _epoch(self, log: Log, seed: int) -> Iterator[float]:
        device = device_of(self.target)
        windows = training_pass(self.sequences.train, self.target.max_length, self.settings, seed)
        warming_up = self._warming_up(log)
        swap_weight = self._swap_weight(log)
        self.target.train(not warming_up)
        for done, batch in enumerate(windows, start=1):
            if warming_up:
                self._gro.warm_up(batch.items.to(device))
            else:
                self._gro.step(batch.items.to(device), swap_weight, batch.context.to(device))
            yield done / len(windows)

    def _warming_up(self, log: Log) -> bool:
        return len(log.figures) < self.settings.warm_up_epochs

    def _swap_weight(self, log: Log) -> float:
        """Lambda of the epoch that follows the logged ones."""
        weight = most = self.settings.swap_weight
        for figures in log.figures[self.settings.warm_up_epochs :]:
            overspent = figures["utility_loss"] > self.settings.utility_budget
            weight = weight / 2 if overspent else min(2 * weight, most)
        return weight

    def _validate(self, log: Log) -> tuple[float, dict[str, float]]:
        target, student = (
            float(ndcg(ranks(model, self.sequences.valid), 10).mean()) / self.plain_ndcg
            for model in (self.target, self.student)
        )
        k = min(10, self.target.n_items)
        ours, theirs = (lists(model, self.sequences.valid, k) for model in (self.target, self.student))
        figures = {
            "swap_weight": 0.0 if self._warming_up(log) else self._swap_weight(log),
            "utility_loss": 1 - target,
            "student_loss": 1 - student,
            "agreement@10": float(agreement(ours, theirs, k).mean()),
        }
        return self._score(log, target, student), figures

    def _score(self, log: Log, target: float, student: float) -> float:
        if self._warming_up(log):
            return -2.0
        return target - student if 1 - target <= self.settings.utility_budget else target - 2.0
