"""Thieves at the door: one account or several that share the questions, until the last of them is flagged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gro.audit.drill.door import Door
from gro.data import Sequences
from gro.evaluation import theft_report
from gro.models import PADDING, Recommender
from gro.service.monitor.detector import Judgement
from gro.theft import floors_of
from gro_surrogates.answers import UnansweredError
from gro_surrogates.knowledge import held_histories
from gro_surrogates.recordings import Recording
from gro_surrogates.settings import QuerySettings, ThiefSettings
from gro_surrogates.strategies import DATA_FREE, DATA_LIMITED, Strategy
from gro_surrogates.suites import Suite, SuiteThief
from gro_surrogates.thief import Thief

Sharing = Literal["call", "history"]


class CaughtError(Exception):
    """No account is left to ask with."""


@dataclass(frozen=True)
class Alarm:
    """An account of a thief was flagged.

    Attributes:
        calls: of the thief until then, with all accounts.
        own: calls of the account.
        judgement: of the monitor.
    """

    calls: int
    own: int
    judgement: Judgement


class Gang:
    """The accounts of a thief, as the target that the thief asks: histories in, lists out.

    Each call is one request, of the account whose turn it is: the next one with each call, or with each history. An
    account that is flagged is not used again, and another takes its place. When none is left, every call fails.

    Attributes:
        calls: that were made.
        alarms: one for each account that was flagged.
        trouble: what went wrong with the service, which thieves bear.
    """

    def __init__(
        self, door: Door, accounts: Sequence[str], sharing: Sharing, k: int, meanwhile: Callable[[], object]
    ) -> None:
        """Ask for lists of ``k`` items; ``meanwhile`` is called before each call."""
        self.calls = 0
        self.alarms: list[Alarm] = []
        self.trouble: Exception | None = None
        self._door, self._accounts, self._k, self._meanwhile = door, accounts, k, meanwhile
        self._sharing = sharing
        self._own = dict.fromkeys(accounts, 0)
        self._flagged: set[str] = set()
        self._last = torch.empty(0, 0, dtype=torch.int64)
        self._begun = 0

    @property
    def caught(self) -> bool:
        """Whether every account was flagged."""
        return len(self._flagged) == len(self._accounts)

    def __call__(self, histories: Tensor) -> Tensor:
        """Answer right-padded histories ``[B, T]`` with lists ``[B, k]``: all padding where nothing came.

        Raises:
            CaughtError: every account was flagged before.
        """
        if self.caught:
            raise CaughtError
        if not torch.equal(histories[:, :-1], self._last):
            self._begun += len(self._last)
        self._last = histories
        lists = torch.zeros(len(histories), self._k, dtype=torch.int64)
        for row, history in enumerate(histories):
            if not self.caught:
                turn = self.calls if self._sharing == "call" else self._begun + row
                listed = self._ask(self._at(turn), history[history != PADDING].tolist())
                lists[row, : len(listed)] = torch.tensor(listed, dtype=torch.int64)
        return lists

    def _at(self, turn: int) -> str:
        order = (self._accounts[(turn + later) % len(self._accounts)] for later in range(len(self._accounts)))
        return next(account for account in order if account not in self._flagged)

    def _ask(self, account: str, history: list[int]) -> list[int]:
        try:
            self._meanwhile()
            listed = self._door.ask(account, history)
        except Exception as error:
            self.trouble = error
            raise
        self.calls += 1
        self._own[account] += 1
        judged = self._door.alarm(account)
        if judged is not None:
            self._flagged.add(account)
            self.alarms.append(Alarm(self.calls, self._own[account], judged))
        return listed


class Few:
    """A strategy that grows few histories at a time."""

    def __init__(self, strategy: Strategy, together: int) -> None:
        self.together = min(strategy.together, together)
        self._strategy = strategy

    def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
        """As the strategy does."""
        return self._strategy.start(size, n_items, generator)

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """As the strategy does."""
        return self._strategy.pick(histories, lists, n_items, generator)


@dataclass(frozen=True)
class Play:
    """A thief that was played once: what was said of it, and what it has."""

    gang: Gang
    recording: Recording


@dataclass(frozen=True)
class School:
    """What the thieves of a drill have in common.

    Attributes:
        sequences: the interactions; thieves that hold some hold those of training.
        max_length: items of a history that the target reads.
        calls: budget of a thief.
        together: most histories that are grown at a time.
        device: where copies are trained.
    """

    sequences: Sequences
    max_length: int
    calls: int
    together: int
    device: torch.device

    def play(self, thief: SuiteThief, gang: Gang, seed: int) -> Play:
        """Let a thief ask until it is caught or its budget is spent.

        Raises:
            GroError: the service failed.
        """
        try:
            recording = self._thief(thief, seed).ask(gang, self.sequences.n_items, self.calls, seed)
        except UnansweredError as error:
            raise gang.trouble or error from None
        if gang.trouble is not None:
            raise gang.trouble
        return Play(gang, recording)

    def copy(self, thief: SuiteThief, play: Play, target: Recommender, seed: int) -> dict[str, Any]:
        """Train the thief's copy on what it has, and measure it as :func:`gro.attack` does."""
        learning, sequences = self._thief(thief, seed), self.sequences
        stolen = learning.learn(_enough(play.recording), sequences.n_items, seed).surrogate
        floors = floors_of(learning, sequences, seed)
        interactions = np.bincount(sequences.train.items, minlength=sequences.n_items + 1)[1:]
        report = theft_report(target, stolen, floors, sequences.test, interactions)
        kept = ("surrogate", "floor", "floor_is", "agreement@10", "access_advantage", "interval")
        return {"calls": play.gang.calls, **{key: report[key] for key in kept}}

    def _thief(self, thief: SuiteThief, seed: int) -> Thief:
        settings = ThiefSettings.make({"max_length": self.max_length, **thief.settings.model_dump(exclude_unset=True)})
        length = settings.sequence_length or settings.max_length
        held = held_histories(self.sequences.train, settings.known, length, seed) if settings.known else None
        return Thief(settings, self.device, held=held, strategy=Few(_strategy(settings, held), self.together))


def distinct(suite: Suite) -> Iterator[SuiteThief]:
    """The thieves of a suite, the first of those who ask alike."""
    seen: set[QuerySettings] = set()
    for thief in suite.thieves:
        asks = thief.settings.part(QuerySettings)
        if asks not in seen:
            seen.add(asks)
            yield thief


def _strategy(settings: ThiefSettings, held: Tensor | None) -> Strategy:
    if held is not None and settings.queries in DATA_LIMITED:
        return DATA_LIMITED[settings.queries](held)
    return DATA_FREE[settings.queries](settings.rank_exponent)


def _enough(recording: Recording) -> Recording:
    """A copy's checkpoint is chosen by histories held back; who has one history alone chooses by that."""
    lessons = recording.changed(lambda part: replace(part, faults=recording.faults).learnable())
    first = lessons[0]
    if len(lessons) > 1 or first.n_sequences > 1:
        return lessons
    return Recording.of([first.rows(torch.tensor([0, 0]))], recording.faults)
