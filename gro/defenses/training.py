"""How the target of a defence is trained: as it is, or by one of the training-time defences."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gro.config import ProtectionSettings, Settings
from gro.data import Sequences
from gro.metrics import ndcg, utility
from gro.models import StateRecommender, TrainableRecommender, build
from gro.models.base import device_of
from gro.optimizer.adversarial import AdversarialSettings, fit_adversarial
from gro.optimizer.ensemble import EnsembleSettings, KeyedEnsemble, build_ensemble, fit_ensemble
from gro.optimizer.nasty import NastySettings, fit_nasty
from gro.optimizer.per_sample import hookable
from gro.optimizer.private import PrivateSettings, fit_private
from gro.optimizer.protect import Protection
from gro.optimizer.staged import TRAINED, Staged, StagedSettings, build_staged, fit_staged, state_of
from gro.ranking import ranks
from gro.serving import RankingService
from gro.training import Log, Progress
from gro_surrogates.queries import ask
from gro_surrogates.strategies import DATA_FREE


class PaperTraining(Settings):
    """GRO, as the settings of ``gro protect`` describe it."""

    kind: Literal["gro"] = "gro"


TRAININGS: tuple[type[Settings], ...] = (
    PaperTraining,
    AdversarialSettings,
    PrivateSettings,
    NastySettings,
    EnsembleSettings,
    StagedSettings,
)


@dataclass(frozen=True)
class Trained:
    """A target and what is to be said of its training."""

    target: StateRecommender | KeyedEnsemble | Staged
    report: dict[str, Any] = field(default_factory=dict)
    states: tuple[Path, ...] = ()
    """Resumable states that can go when the target is saved."""

    @property
    def members(self) -> list[StateRecommender]:
        """The models that the target is made of; one, unless it is an ensemble."""
        return [self.target] if isinstance(self.target, StateRecommender) else self.target.models()


@dataclass(frozen=True)
class Training:
    """Trains the target of a defence.

    Attributes:
        plain: the undefended target, on the device to train on; left as it is.
        sequences: all interactions; the last two items of each user are held out.
        settings: how targets are trained, and the switches of GRO.
        secret: what the owner alone knows; chooses the members of an ensemble.
        folder: where the resumable state is kept.
        progress: receives steps and epochs.
    """

    plain: StateRecommender
    sequences: Sequences
    settings: ProtectionSettings
    secret: bytes
    folder: Path | None
    progress: Progress

    def __call__(self, training: Settings | None) -> Trained:  # noqa: PLR0911  one for each training
        """Train as ``training`` says; ``None`` keeps the plain target.

        Raises:
            GroError: the architecture or the data do not allow it.
        """
        match training:
            case None:
                return Trained(self.plain)
            case PaperTraining():
                return self._protected()
            case PrivateSettings():
                target = self._untrained()
                log, spent = fit_private(target, self.sequences, self.settings, training, **self._kept)
                return Trained(target, {"privacy": spent, **_ended(log)})
            case AdversarialSettings():
                target = deepcopy(self.plain)
                log = fit_adversarial(target, self.sequences, self.settings, training, **self._kept)
                return Trained(target, _ended(log))
            case NastySettings():
                target = deepcopy(self.plain)
                log = fit_nasty(target, self.sequences, self.settings, training, **self._kept)
                return Trained(target, _ended(log))
            case EnsembleSettings():
                seed, n_items = self.settings.seed, self.sequences.n_items
                ensemble = build_ensemble(self.settings, n_items, training, self.secret, seed=seed)
                ensemble = ensemble.to(device_of(self.plain))
                log = fit_ensemble(ensemble, self.sequences, self.settings, training, **self._kept)
                return Trained(ensemble, _ended(log))
            case StagedSettings():
                staged = fit_staged(self.plain, self.sequences, self.settings, training, **self._kept)
                return Trained(staged, states=tuple(state_of(name, self.folder) for name in TRAINED if self.folder))
        raise TypeError(f"no training for {training!r}")

    def _protected(self) -> Trained:
        settings = self.settings
        target = self._untrained() if settings.from_scratch else deepcopy(self.plain)
        student, *others = (
            self._untrained(model=name, seed=settings.seed + i) for i, (name, _) in enumerate(settings.taught, start=1)
        )
        plain_ndcg = float(ndcg(ranks(self.plain, self.sequences.valid), 10).mean()) or 1.0
        protection = Protection(
            target, student, self.sequences, settings, plain_ndcg, others=others, thieves=thieves, **self._kept
        )
        log = protection.run()
        best, _ = protection.best_student()
        return Trained(target, {"student": utility(ranks(best, self.sequences.test)), **_ended(log)})

    def _untrained(self, **changes: Any) -> StateRecommender:
        settings = self.settings.model_copy(update=changes)
        return build(settings, self.sequences.n_items, seed=settings.seed).to(device_of(self.plain))

    @property
    def _kept(self) -> dict[str, Any]:
        return {"folder": self.folder, "progress": self.progress}


def thieves(target: TrainableRecommender, count: int, k: int, seed: int) -> Tensor:
    """Histories of a mix of data-free thieves; see :class:`gro.optimizer.queries.Thieves`."""
    generator = torch.Generator().manual_seed(seed)
    service, length = RankingService(target, k), target.max_length
    answers = ask(service, DATA_FREE["mix"](1.0), target.n_items, count * length, length, generator=generator)
    return answers.histories[torch.randperm(len(answers.histories), generator=generator)]


def untrained(
    training: Settings | None, settings: ProtectionSettings, n_items: int, secret: bytes
) -> StateRecommender | KeyedEnsemble | Staged:
    """What a training starts from, or a model that is like it.

    Raises:
        ConfigError: the architecture cannot be trained so.
        MissingExtraError: the training needs a package that is not installed.
    """
    if isinstance(training, EnsembleSettings):
        return build_ensemble(settings, n_items, training, secret, seed=settings.seed)
    if isinstance(training, StagedSettings):
        return build_staged(settings, n_items, training)
    model = build(settings, n_items, seed=settings.seed)
    return hookable(model) if isinstance(training, PrivateSettings) else model


def most_epochs(training: Settings | None, settings: ProtectionSettings) -> list[int]:
    """Most epochs of each pass of training, in turn; none where the plain target is kept."""
    match training:
        case None:
            return []
        case PaperTraining():
            return [settings.warm_up_epochs + settings.protect_epochs]
        case EnsembleSettings():
            return [settings.epochs]
        case StagedSettings():
            return [settings.epochs] * len(TRAINED)
    return [int(training.epochs)]  # type: ignore[attr-defined]


def _ended(log: Log) -> dict[str, Any]:
    return {"epoch": log.best_epoch, "valid": log.best}
