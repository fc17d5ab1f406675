"""A thief: asks a target, learns from its answers, and keeps the surrogate that agrees best with held-out answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gro.config import Architecture
from gro.errors import ConfigError
from gro.models import PADDING, StateRecommender, build
from gro.models.base import lengths, most_recent
from gro.training import Log, Progress, Quiet, Trainer
from gro_surrogates.answers import Answers, Caller, Faults, Target, UnansweredError
from gro_surrogates.backtracking import Backtracking
from gro_surrogates.distillation import Beside, held_out_agreement, learn_epoch, learn_held_epoch, next_item_gain
from gro_surrogates.fusion import RankFusion
from gro_surrogates.inversion import Shadows, cleaned, learn_inversion
from gro_surrogates.losses import LOSSES
from gro_surrogates.queries import grow
from gro_surrogates.recordings import Recording, record
from gro_surrogates.settings import QuerySettings, ThiefSettings
from gro_surrogates.strategies import DATA_FREE, DATA_LIMITED, Strategy
from gro_surrogates.tricks import Fused, find_decoys, without_decoys

__all__ = ["Theft", "Thief", "ThiefSettings"]

logger = logging.getLogger(__name__)

MIN_HELD = 2
"""A real history of no more items has nothing to learn beside the one that chooses the checkpoint."""
HELD_EPOCHS = 60
"""Passes over the real histories, at most; they are few."""
HELD_DROPOUT, HELD_LEARNING_RATE, HELD_BATCH = 0.4, 2e-3, 32
"""Few real histories ask for another training than many lists do."""
FIRST_ROUND = 8
"""A thief that may stop early spends an eighth of its budget first, then doubles what it has spent."""


@dataclass(frozen=True)
class Theft:
    """A finished theft: the clones, the calls they cost, what was wrong with the answers, how the trainings went."""

    clones: tuple[StateRecommender, ...]
    calls: int
    faults: Faults
    logs: tuple[Log, ...]

    @property
    def surrogate(self) -> StateRecommender | RankFusion:
        """The stolen copy: the clone, or several fused by rank."""
        return self.clones[0] if len(self.clones) == 1 else RankFusion(self.clones)


@dataclass(frozen=True)
class Thief:
    """Steals a target with a budget of calls; an immutable object that is called.

    Attributes:
        settings: how it asks and learns.
        device: where the copy is trained.
        folder: where its training is kept, to go on from; ``None`` keeps nothing. What belongs to the second clone of
            an ensemble and those after it is in folders beside it; see :func:`clone_folder`.
        progress: receives steps and epochs.
        victim: tells this target from any other, so that what is kept of one is refused for another.
        held: real histories that the thief holds ``[H, L]``; see :func:`gro_surrogates.knowledge.held_histories`.
        recordings: where answers are kept for every thief that asks the same; ``None`` keeps them in memory.
        shadows: trains targets of the thief's own, with the victim's defence and without; ``None`` where the victim
            has no defence that training makes.
        strategy: asks instead of the card's "queries"; serves one theft.

    Example:
        ``theft = Thief(ThiefSettings())(service, n_items=1682, calls=50_000, seed=0)``
    """

    settings: ThiefSettings
    device: torch.device = torch.device("cpu")
    folder: Path | None = None
    progress: Progress = Quiet()
    victim: str = ""
    held: Tensor | None = None
    recordings: Path | None = None
    shadows: Shadows | None = None
    strategy: Strategy | None = None

    def __call__(self, target: Target, n_items: int, calls: int, seed: int) -> Theft:
        """Ask and learn; what is kept in ``recordings`` is never asked twice.

        Raises:
            ConfigError: the budget does not pay for two histories, or they are longer than a clone reads.
            GroError: the service answered nothing.
            ArtifactError: the folder holds another theft, or cannot be written.
        """
        settings = ThiefSettings.make(self.settings.model_dump())  # checked again: max_length is known by now
        each = (settings.sequence_length or settings.max_length) * settings.price
        least = each * (FIRST_ROUND if settings.stop_gain else 1)
        if calls <= least:
            rounds = f" in the first of {FIRST_ROUND.bit_length()} rounds" if settings.stop_gain else ""
            raise ConfigError(
                f"{calls} calls do not pay for two histories of {each} calls{rounds}; give more than {least}"
            )
        buy = self._until_it_no_longer_pays if settings.stop_gain else self.ask
        return self.learn(buy(target, n_items, calls, seed), n_items, seed)

    def ask(self, target: Target, n_items: int, calls: int, seed: int) -> Recording:
        """Spend the budget, or read what the same questions brought before, and return what was recorded."""
        settings = self.settings
        length = settings.sequence_length or settings.max_length
        strategy = self._strategy()

        def buy(faults: Faults) -> Iterator[Answers]:
            generator = torch.Generator().manual_seed(seed)
            fused = Fused(Caller(target, n_items, faults), settings.repeats, settings.neighbours, generator)
            tries, report = settings.backtrack, partial(self.progress.step, -1)
            undoing = Backtracking(tries, settings.sign, settings.beginner, n_items, generator) if tries else None
            return grow(fused, strategy, n_items, calls, length, generator, report, undoing)

        asked = settings.part(QuerySettings).model_copy(update={"sequence_length": length})
        own = "" if self.strategy is None else f"{type(self.strategy).__module__}.{type(self.strategy).__qualname__} "
        described = f"{own}{asked.model_dump_json()} {calls} calls, seed {seed}, {self.victim}"
        return record(buy, settings.price, self.recordings, described)

    def _until_it_no_longer_pays(self, target: Target, n_items: int, calls: int, seed: int) -> Recording:
        """Double what is spent until a round brings too little agreement with lists held back, or all is spent."""
        alone = replace(self, settings=self.settings.model_copy(update={"clones": ()}), folder=None)
        spent = calls // FIRST_ROUND
        recording = self.ask(target, n_items, spent, seed)
        before = alone.agreed(recording, n_items, seed)
        rounds = FIRST_ROUND.bit_length()
        for number in range(1, rounds):
            more = spent if number < rounds - 1 else calls - spent
            try:
                recording += self.ask(target, n_items, more, seed + number * 1_000_003)
            except UnansweredError as gone:
                return Recording(recording.parts, recording.calls + gone.calls, recording.faults + gone.faults)
            spent += more
            agreement = alone.agreed(recording, n_items, seed)
            logger.info("%s calls: agreement with lists held back %.3f", f"{spent:,}", agreement)
            if agreement - before < self.settings.stop_gain:
                break
            before = agreement
        return recording

    def agreed(self, recording: Recording, n_items: int, seed: int) -> float:
        """Agr@10 with recorded lists held back of the clone that a recording teaches."""
        return self.learn(recording, n_items, seed).logs[0].best["held_out_agreement@10"]

    def _strategy(self) -> Strategy:
        if self.strategy is not None:
            return self.strategy
        name = self.settings.queries
        if name in DATA_FREE:
            return DATA_FREE[name](self.settings.rank_exponent)
        if self.held is None:
            raise ConfigError(f"queries = '{name}' replays real histories, and the thief was given none")
        return DATA_LIMITED[name](self.held)

    def learn(self, recording: Recording, n_items: int, seed: int) -> Theft:
        """Train a surrogate, or several, on recorded answers."""
        lessons = self._read(recording, n_items, seed)
        learnt = [
            self._clone(model, number, lessons, n_items, seed)
            for number, model in enumerate(self.settings.clones or (self.settings.model,))
        ]
        clones, logs = zip(*learnt, strict=True)
        return Theft(clones, recording.calls, recording.faults, logs)

    def _read(self, recording: Recording, n_items: int, seed: int) -> Recording:
        """The answers as this thief takes them: without decoys, cleaned, cut to what it learns from."""
        settings, first = self.settings, recording[0]
        decoys = find_decoys(recording, n_items, settings.decoys, self.held) if settings.decoys else None
        inversion = None
        if settings.invert and self.shadows is not None:
            known = first.histories if self.held is None else self.held
            inversion = learn_inversion(self.shadows, known, n_items, first.lists.shape[2], seed)

        def change(part: Answers) -> Answers:
            if decoys is not None:
                part = without_decoys(part, decoys)
            if inversion is not None:
                part = cleaned(part, inversion)
            return replace(part, lists=part.lists[..., : settings.truncate]).learnable()

        return recording.changed(change)

    def _clone(
        self, model: Architecture, number: int, lessons: Recording, n_items: int, seed: int
    ) -> tuple[StateRecommender, Log]:
        first = lessons[0]
        read = min(self.settings.max_length, first.histories.shape[1])
        settings = self.settings.model_copy(update={"model": model, "max_length": read})
        own = self._own(settings, n_items, seed + number) if settings.pretrain else None
        shuffled = torch.randperm(first.n_sequences, generator=torch.Generator().manual_seed(seed))
        n_held_out = max(1, round(settings.held_out * first.n_sequences))
        held_out, kept = first.rows(shuffled[:n_held_out]), first.rows(shuffled[n_held_out:])

        surrogate = build(settings, n_items, seed=seed + number).to(self.device)
        if own is not None:
            surrogate.load_state_dict(own.state_dict())
        optimizer = torch.optim.AdamW(
            surrogate.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

        def epoch(log: Log, epoch_seed: int) -> Iterator[float]:
            return self._epoch(surrogate, optimizer, lessons, kept)

        def validate(log: Log) -> tuple[float, dict[str, float]]:
            score = held_out_agreement(surrogate, held_out)
            return score, {"held_out_agreement@10": score}

        trainer = Trainer(
            modules={"surrogate": surrogate},
            optimizers=[optimizer],
            epochs=settings.epochs,
            patience=settings.patience,
            seed=seed + number,
            schedule=settings.schedule,
            rise=settings.rise,
            folder=self.folder and clone_folder(self.folder, number),
            settings=f"{settings.model_dump_json()} {lessons.calls} calls, seed {seed}, {self.victim}",
            progress=self.progress,
        )
        return surrogate, trainer.run(epoch, validate)

    def _epoch(
        self, surrogate: StateRecommender, optimizer: torch.optim.Optimizer, lessons: Recording, kept: Answers
    ) -> Iterator[float]:
        """Train on every part of the lessons once, of the first only on what is ``kept`` of it.

        A step takes as many lists from short histories as from long ones.
        """
        settings, held, beside = self.settings, self._learnable(), None
        batch_size = settings.batch_size * max(1, settings.max_length // kept.histories.shape[1])
        if held is not None and (settings.repair or settings.popularity):
            beside = Beside(
                surrogate,
                most_recent(held, surrogate.max_length),
                settings.batch_size,
                settings.repair,
                settings.popularity,
            )
        for place in range(len(lessons)):
            for fraction in learn_epoch(
                surrogate,
                optimizer,
                lessons[place] if place else kept,
                LOSSES[settings.loss],
                batch_size=batch_size,
                positions=settings.positions,
                clip=settings.clip,
                beside=beside,
            ):
                yield (place + fraction) / len(lessons)

    def without_calls(self, n_items: int, seed: int) -> StateRecommender | RankFusion | None:
        """Train the thief's clones on the real histories alone: what it has without a call; ``None`` without any."""
        models = self.settings.clones or (self.settings.model,)
        settings = [self.settings.model_copy(update={"model": model}) for model in models]
        own = [self._own(each, n_items, seed + number) for number, each in enumerate(settings)]
        clones = [model for model in own if model is not None]
        if not clones:
            return None
        return clones[0] if len(clones) == 1 else RankFusion(clones)

    def _own(self, settings: ThiefSettings, n_items: int, seed: int) -> StateRecommender | None:
        """Train on real histories: the last item of each chooses the checkpoint, the others are learnt."""
        held = self._learnable()
        if held is None:
            return None
        held = most_recent(held, settings.max_length)
        settings = settings.model_copy(update={"dropout": HELD_DROPOUT})
        surrogate = build(settings, n_items, seed=seed).to(self.device)
        optimizer = torch.optim.AdamW(surrogate.parameters(), lr=HELD_LEARNING_RATE, weight_decay=settings.weight_decay)
        learnt = held.scatter(1, lengths(held)[:, None] - 1, PADDING)

        def epoch(log: Log, epoch_seed: int) -> Iterator[float]:
            return learn_held_epoch(surrogate, optimizer, learnt, batch_size=HELD_BATCH, clip=settings.clip)

        def validate(log: Log) -> tuple[float, dict[str, float]]:
            score = next_item_gain(surrogate, held)
            return score, {"valid_ndcg": score}

        trainer = Trainer(
            modules={"model": surrogate},
            optimizers=[optimizer],
            epochs=HELD_EPOCHS,
            patience=HELD_EPOCHS // 4,
            seed=seed,
        )
        trainer.run(epoch, validate)
        return surrogate

    def _learnable(self) -> Tensor | None:
        held = None if self.held is None else self.held[lengths(self.held) > MIN_HELD]
        return None if held is None or not len(held) else held


def clone_folder(folder: Path, number: int) -> Path:
    """Folder of the clone ``number`` (from 0) of a theft in ``folder``: OUT, OUT.clone-2, OUT.clone-3, ..."""
    return folder.with_name(f"{folder.name}.clone-{number + 1}") if number else folder
