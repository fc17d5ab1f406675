"""Protection of a target on its owner's interactions: epochs of GRO under a declared trade-off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.data.windows import Windows
from gro.errors import ConfigError
from gro.metrics import agreement, ndcg
from gro.models import TrainableRecommender
from gro.models.base import device_of
from gro.optimizer.gro import GRO
from gro.optimizer.plain import training_pass
from gro.optimizer.queries import MOST, Thieves, attacked
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
        others: further students, as ``student``; of all of them the one that ranks best is judged.
        thieves: grow histories against the target before every epoch, where the settings want them.
    """

    target: TrainableRecommender
    student: TrainableRecommender
    sequences: Sequences
    settings: ProtectionSettings
    plain_ndcg: float
    folder: Path | None
    progress: Progress
    others: Sequence[TrainableRecommender] = ()
    thieves: Thieves | None = None

    def run(self) -> Log:
        """Protect the target; it is left with the weights of the best epoch.

        Raises:
            ConfigError: the settings want thieves or students that are not there.
        """
        self._require_all()
        students = self._gro.students
        epochs = self.settings.warm_up_epochs + self.settings.protect_epochs
        trainer = Trainer(
            modules={"target": self.target, **{_name(i): each.model for i, each in enumerate(students)}},
            optimizers=[self._gro.target_optimizer, *(each.optimizer for each in students)],
            epochs=epochs,
            patience=0,
            seed=self.settings.seed,
            schedule=self.settings.schedule,
            folder=self.folder,
            settings=f"{self.settings.model_dump_json()} {self.sequences.digest} {self.plain_ndcg}",
            progress=self.progress,
        )
        return trainer.run(self._epoch, self._validate)

    def best_student(self) -> tuple[TrainableRecommender, float]:
        """The student that ranks validation items best, and its NDCG@10."""
        students = (self.student, *self.others)
        found = [float(ndcg(ranks(each, self.sequences.valid), 10).mean()) for each in students]
        return students[found.index(max(found))], max(found)

    @cached_property
    def _gro(self) -> GRO:
        return GRO(self.target, self.student, self.settings, self.others)

    def _require_all(self) -> None:
        wanted, given = len(self.settings.taught), 1 + len(self.others)
        if wanted != given:
            raise ConfigError(f"the settings name {wanted} students; {given} are given")
        if self.settings.queries != "real" and self.thieves is None:
            raise ConfigError(f"queries are {self.settings.queries!r}, which needs thieves; none are given")

    def _epoch(self, log: Log, seed: int) -> Iterator[float]:
        device = device_of(self.target)
        windows = training_pass(self.sequences.train, self.target.max_length, self.settings, seed)
        warming_up = self._warming_up(log)
        swap_weight = self._swap_weight(log)
        self.target.train(not warming_up)
        for done, (batch, asked) in enumerate(zip(windows, self._asked(windows, seed), strict=True), start=1):
            items, instead = batch.items.to(device), asked if asked is None else asked.to(device)
            if warming_up:
                self._gro.warm_up(items if instead is None else instead)
            else:
                self._gro.step(items, swap_weight, batch.context.to(device), instead)
            yield done / len(windows)

    def _asked(self, windows: list[Windows], seed: int) -> Iterable[Tensor | None]:
        """The histories that are attacked with each batch; none where they are the windows themselves."""
        if self.settings.queries == "real" or self.thieves is None:
            return [None] * len(windows)
        count = min(MOST, sum(len(items) for items, _ in windows))
        histories = self.thieves(self.target, count, self.settings.k, seed)
        return attacked(windows, histories, real=self.settings.queries == "both")

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
        target = float(ndcg(ranks(self.target, self.sequences.valid), 10).mean()) / self.plain_ndcg
        best, student = self.best_student()
        student /= self.plain_ndcg
        k = min(10, self.target.n_items)
        ours, theirs = (lists(model, self.sequences.valid, k) for model in (self.target, best))
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


def _name(student: int) -> str:
    return f"student-{student}" if student else "student"
