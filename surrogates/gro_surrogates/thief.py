"""A thief: asks a target, learns from its answers, and keeps the surrogate that agrees best with held-out answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gro.errors import ConfigError
from gro.models import StateRecommender, build
from gro.training import ANSWERS_FILE, Log, Progress, Quiet, Trainer, read_state, write_state
from gro_surrogates.distillation import LOSSES, held_out_agreement, learn_epoch
from gro_surrogates.queries import PICKERS, Answers, Target, ask
from gro_surrogates.settings import ThiefSettings

__all__ = ["Theft", "Thief", "ThiefSettings"]


@dataclass(frozen=True)
class Theft:
    """A finished theft: the stolen copy, the calls it cost and how the training went."""

    surrogate: StateRecommender
    calls: int
    log: Log


@dataclass(frozen=True)
class Thief:
    """Steals a target with a budget of calls; an immutable object that is called.

    Attributes:
        settings: how it asks and learns.
        device: where the copy is trained.
        folder: where its recorded answers and its training are kept, to go on from; ``None`` keeps nothing.
        progress: receives steps and epochs.
        victim: tells this target from any other, so that what is kept of one is refused for another.

    Example:
        ``theft = Thief(ThiefSettings())(service, n_items=1682, calls=50_000, seed=0)``
    """

    settings: ThiefSettings
    device: torch.device = torch.device("cpu")
    folder: Path | None = None
    progress: Progress = Quiet()
    victim: str = ""

    def __call__(self, target: Target, n_items: int, calls: int, seed: int) -> Theft:
        """Ask and learn; with a ``folder``, what was recorded is kept there and never asked twice.

        Raises:
            ConfigError: the budget does not pay for two histories.
            ArtifactError: the folder holds another theft, or cannot be written.
        """
        return self.learn(self._recorded(target, n_items, calls, seed), n_items, seed)

    def _recorded(self, target: Target, n_items: int, calls: int, seed: int) -> Answers:
        if self.folder is None:
            return self.ask(target, n_items, calls, seed)
        path = self.folder / ANSWERS_FILE
        theft = self._described(calls, seed)
        if path.exists():
            return Answers(**read_state(path, theft)[1])
        answers = self.ask(target, n_items, calls, seed)
        write_state(path, vars(answers), {"settings": theft})
        return answers

    def ask(self, target: Target, n_items: int, calls: int, seed: int) -> Answers:
        """Spend the budget and return what was recorded."""
        length = self.settings.sequence_length or self.settings.max_length
        if calls <= length:
            raise ConfigError(f"{calls} calls do not pay for two histories of {length} calls; give more than {length}")
        generator = torch.Generator().manual_seed(seed)
        pick = PICKERS[self.settings.queries]
        return ask(
            target, pick, n_items, calls, length, generator=generator, report=lambda f: self.progress.step(-1, f)
        )

    def learn(self, answers: Answers, n_items: int, seed: int) -> Theft:
        """Train a surrogate on recorded answers."""
        settings = self.settings
        answers = replace(answers, lists=answers.lists[..., : settings.truncate])
        surrogate = build(settings, n_items, seed=seed).to(self.device)
        optimizer = torch.optim.AdamW(
            surrogate.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        shuffled = torch.randperm(answers.n_sequences, generator=torch.Generator().manual_seed(seed))
        n_held_out = max(1, round(settings.held_out * answers.n_sequences))
        held_out, kept = answers.rows(shuffled[:n_held_out]), answers.rows(shuffled[n_held_out:])

        def validate(log: Log) -> tuple[float, dict[str, float]]:
            score = held_out_agreement(surrogate, held_out)
            return score, {"held_out_agreement@10": score}

        trainer = Trainer(
            modules={"surrogate": surrogate},
            optimizers=[optimizer],
            epochs=settings.epochs,
            patience=settings.patience,
            seed=seed,
            folder=self.folder,
            settings=self._described(answers.calls, seed),
            progress=self.progress,
        )
        log = trainer.run(
            lambda log, epoch_seed: learn_epoch(
                surrogate,
                optimizer,
                kept,
                LOSSES[settings.loss],
                batch_size=settings.batch_size,
                positions=settings.positions,
                clip=settings.clip,
            ),
            validate,
        )
        return Theft(surrogate, answers.calls, log)

    def _described(self, calls: int, seed: int) -> str:
        return f"{self.settings.model_dump_json()} {calls} calls, seed {seed}, {self.victim}"
