"""The monitor: every account's calls as they come, in bounded memory, judged against clean accounts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from gro.service.monitor.accounts import ACCOUNT, Answers, Record, features, observe, restart
from gro.service.monitor.background import Background
from gro.service.monitor.detector import Detector, Judgement, due
from gro.service.monitor.hashing import Items

ACCOUNTS: Final = 1_000_000
"""Accounts that are remembered, unless others are wanted."""
ANSWERS: Final = 1 << 18
"""Answers that are remembered, unless others are wanted."""
BLOCK: Final = 1024
"""Accounts for which memory is taken at a time."""


class Accounts:
    """The records of accounts; beyond ``most``, the account that was silent longest is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._blocks: list[npt.NDArray[np.void]] = []

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def touch(self, name: str) -> Record:
        """Return the record of an account, a new one where it is not known."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = self._free()
            self._blocks[number // BLOCK][number % BLOCK] = np.zeros((), ACCOUNT)
        else:
            self._numbers.move_to_end(name)
        return self._record(number)

    def find(self, name: str) -> Record | None:
        """The record of an account that is known."""
        number = self._numbers.get(name)
        return None if number is None else self._record(number)

    def _record(self, number: int) -> Record:
        block: Record = self._blocks[number // BLOCK][number % BLOCK]
        return block

    def _free(self) -> int:
        if len(self._numbers) >= self._most:
            return self._numbers.popitem(last=False)[1]
        number = len(self._numbers)
        if number == len(self._blocks) * BLOCK:
            self._blocks.append(np.zeros(BLOCK, ACCOUNT))
        return number


class Watch:
    """Takes in the calls of accounts.

    Attributes:
        accounts: what is remembered of each.
    """

    def __init__(self, background: Background, longest: int, accounts: int = ACCOUNTS, answers: int = ANSWERS) -> None:
        """Watch accounts.

        Args:
            background: which items people go on to.
            longest: calls after which the counts of an account begin anew.
            accounts: most accounts that are remembered, at some 780 bytes each where names have 15 characters.
            answers: latest answers that are remembered, at 416 bytes each.
        """
        self.accounts = Accounts(accounts)
        self._background, self._longest, self._answers = background, longest, Answers(answers)

    def observe(self, account: str, history: Items, listed: Items, now: float) -> Record:
        """Take in a call of an account and return its record; arguments as :meth:`Monitor.observe`'s."""
        record = self.accounts.touch(account)
        if record["calls"] >= self._longest:
            restart(record)
        observe(record, hash(account), history, listed, now, self._answers, self._background)
        return record


class Monitor:
    """Watches accounts and judges them.

    Attributes:
        accounts: what is remembered of each.
    """

    def __init__(
        self, background: Background, detector: Detector, *, accounts: int = ACCOUNTS, answers: int = ANSWERS
    ) -> None:
        """Watch with what was calibrated.

        Args:
            background: which items people go on to.
            detector: what clean accounts are like.
            accounts: as :class:`Watch`'s.
            answers: as :class:`Watch`'s.
        """
        self._watch = Watch(background, detector.longest, accounts, answers)
        self._detector = detector
        self.accounts = self._watch.accounts

    def observe(self, account: str, history: Items, listed: Items, now: float) -> Judgement:
        """Take in a call of an account and judge the account.

        Args:
            account: its name.
            history: item ids ``[L]``, oldest first.
            listed: item ids ``[k]`` that were answered, best first.
            now: Unix seconds.
        """
        record = self._watch.observe(account, history, listed, now)
        calls = int(record["calls"])
        if not due(calls):
            return Judgement(float(record["score"]), self._detector.threshold)
        judged = self._detector.judge(*features(record), calls)
        record["score"] = judged.score
        return judged

    def forget(self, account: str) -> None:
        """Judge an account from now on by what it does from now on."""
        record = self.accounts.find(account)
        if record is not None:
            restart(record)
            record["score"] = 0
