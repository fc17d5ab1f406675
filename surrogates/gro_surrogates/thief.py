"""A thief: asks a target, learns from its answers, and keeps the surrogate that agrees best with held-out answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gro.errors import ConfigError
from gro.models import PADDING, StateRecommender, build
from gro.models.base import lengths
from gro.training import ANSWERS_FILE, Log, Progress, Quiet, Trainer, read_state, write_state
from gro_surrogates.answers import Answers, Faults, Target
from gro_surrogates.distillation import held_out_agreement, learn_epoch, learn_held_epoch, next_item_gain
from gro_surrogates.losses import LOSSES
from gro_surrogates.queries import ask
from gro_surrogates.settings import ThiefSettings
from gro_surrogates.strategies import DATA_FREE, DATA_LIMITED, Strategy
from gro_surrogates.tricks import without_decoys

__all__ = ["Theft", "Thief", "ThiefSettings"]

MIN_HELD = 2
"""A real history of no more items has nothing to learn beside the one that chooses the checkpoint."""
HELD_EPOCHS = 100
"""Passes over the real histories, at most; they are few."""


@dataclass(frozen=True)
class Theft:
    """A finished theft: the stolen copy, the calls it cost, what was wrong with the answers, how the training went."""

    surrogate: StateRecommender
    calls: int
    faults: Faults
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
        held: real histories that the thief holds ``[H, L]``; see :func:`gro_surrogates.knowledge.held_histories`.

    Example:
        ``theft = Thief(ThiefSettings())(service, n_items=1682, calls=50_000, seed=0)``
    """

    settings: ThiefSettings
    device: torch.device = torch.device("cpu")
    folder: Path | None = None
    progress: Progress = Quiet()
    victim: str = ""
    held: Tensor | None = None

    def __call__(self, target: Target, n_items: int, calls: int, seed: int) -> Theft:
        """Ask and learn; with a ``folder``, what was recorded is kept there and never asked twice.

        Raises:
            ConfigError: the budget does not pay for two histories.
            GroError: the service answered nothing.
            ArtifactError: the folder holds another theft, or cannot be written.
        """
        return self.learn(self._recorded(target, n_items, calls, seed), n_items, seed)

    def _recorded(self, target: Target, n_items: int, calls: int, seed: int) -> Answers:
        if self.folder is None:
            return self.ask(target, n_items, calls, seed)
        path = self.folder / ANSWERS_FILE
        theft = self._described(calls, seed)
        if path.exists():
            metadata, tensors = read_state(path, theft)
            price = self.settings.repeats + self.settings.neighbours
            return Answers(**tensors, faults=Faults(**json.loads(metadata["faults"])), price=price)
        answers = self.ask(target, n_items, calls, seed)
        tensors = {"histories": answers.histories, "lists": answers.lists, "first": answers.first}
        write_state(path, tensors, {"settings": theft, "faults": json.dumps(asdict(answers.faults))})
        return answers

    def ask(self, target: Target, n_items: int, calls: int, seed: int) -> Answers:
        """Spend the budget and return what was recorded."""
        length = self.settings.sequence_length or self.settings.max_length
        each = length * (self.settings.repeats + self.settings.neighbours)
        if calls <= each:
            raise ConfigError(f"{calls} calls do not pay for two histories of {each} calls; give more than {each}")
        generator = torch.Generator().manual_seed(seed)
        return ask(
            target,
            self._strategy(),
            n_items,
            calls,
            length,
            generator=generator,
            repeats=self.settings.repeats,
            neighbours=self.settings.neighbours,
            report=lambda f: self.progress.step(-1, f),
        )

    def _strategy(self) -> Strategy:
        name = self.settings.queries
        if name in DATA_FREE:
            return DATA_FREE[name](self.settings.rank_exponent)
        if self.held is None:
            raise ConfigError(f"queries = '{name}' replays real histories, and the thief was given none")
        return DATA_LIMITED[name](self.held)

    def learn(self, answers: Answers, n_items: int, seed: int) -> Theft:
        """Train a surrogate on recorded answers."""
        settings = self.settings
        calls, faults = answers.calls, answers.faults
        if settings.decoys:
            answers = without_decoys(answers, n_items, settings.decoys, self.held)
        answers = replace(answers, lists=answers.lists[..., : settings.truncate]).learnable()
        own = self.without_calls(n_items, seed) if settings.pretrain else None
        surrogate = own or build(settings, n_items, seed=seed).to(self.device)
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
            settings=self._described(calls, seed),
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
                held=self._learnable(),
                repair=settings.repair,
            ),
            validate,
        )
        return Theft(surrogate, calls, faults, log)

    def without_calls(self, n_items: int, seed: int) -> StateRecommender | None:
        """Train the same architecture on the held real histories alone; ``None`` where there are none to learn from.

        The last item of each history chooses the checkpoint, the others are learnt.
        """
        held = self._learnable()
        if held is None:
            return None
        settings = self.settings
        model = build(settings, n_items, seed=seed).to(self.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        learnt = held.scatter(1, lengths(held)[:, None] - 1, PADDING)

        def epoch(log: Log, epoch_seed: int) -> Iterator[float]:
            return learn_held_epoch(model, optimizer, learnt, batch_size=settings.batch_size, clip=settings.clip)

        def validate(log: Log) -> tuple[float, dict[str, float]]:
            score = next_item_gain(model, held)
            return score, {"valid_ndcg": score}

        trainer = Trainer(
            modules={"model": model},
            optimizers=[optimizer],
            epochs=HELD_EPOCHS,
            patience=HELD_EPOCHS // 5,
            seed=seed,
        )
        trainer.run(epoch, validate)
        return model

    def _learnable(self) -> Tensor | None:
        held = None if self.held is None else self.held[lengths(self.held) > MIN_HELD]
        return None if held is None or not len(held) else held

    def _described(self, calls: int, seed: int) -> str:
        return f"{self.settings.model_dump_json()} {calls} calls, seed {seed}, {self.victim}"
