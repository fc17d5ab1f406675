"""A small world for the guard to stand in: a catalogue, people and thieves who ask about it, and the guard's files."""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from gro.bench.guard.client import post
from gro.service.access.keys import KeySettings, KeyStore, start_key_file
from gro.service.audit import AuditSettings
from gro.service.core import Role
from gro.service.limits import Budgets, LimitSettings
from gro.service.monitor.calibration import Calibration, calibrate
from gro.service.monitor.files import write
from gro.service.monitor.monitor import ACCOUNTS, ANSWERS
from gro.service.privacy import PrivacySettings
from gro.service.querylog import Call
from gro.service.settings import EventSettings, GuardSettings, MonitorSettings, QuerySettings, ResponseSettings
from gro.service.wire import WireSettings

N_ITEMS, GROUPS, K, LENGTH = 2_000, 10, 100, 50
FOLK, CALLS = 260, 40
"""People of the log that the monitor is calibrated on, and calls of each."""
PLENTY = 1_000_000_000
"""A limit that counts and does not refuse."""


class Catalogue:
    """Items in groups, and a canned list for each: items of the last item's group, in an order of its own."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        groups = [np.arange(group or GROUPS, N_ITEMS + 1, GROUPS) for group in range(GROUPS)]
        lists = [rng.permutation(groups[item % GROUPS])[:K].tolist() for item in range(N_ITEMS + 1)]
        self.lists: list[list[int]] = lists
        """By the last item of the history."""


class Asker:
    """An account whose history grows by an item a call: a person's, or a thief's who begins anew when it is full.

    Args:
        catalogue: whose lists it is answered with.
        key: of the account.
        random: by what it decides.
        past: items of the history that it comes with.
        thief: goes on with any item of a list, where a person looks at the first places most and at times elsewhere.
    """

    def __init__(self, catalogue: Catalogue, key: str, random: Random, past: int = 1, thief: bool = False) -> None:
        self._catalogue, self._key, self._random, self._thief = catalogue, key, random, thief
        self._fickle = 0.15 + 0.25 * random.betavariate(2, 2)
        self.history = deque([self._anything()], LENGTH)
        for _ in range(past - 1):
            self.go_on()

    @property
    def listed(self) -> list[int]:
        """What the history is answered with."""
        return self._catalogue.lists[self.history[-1]]

    def ask(self) -> bytes:
        """Add the next item, and ask with what there is then."""
        self.go_on()
        return post(json.dumps({"histories": [list(self.history)]}).encode("ascii"), self._key)

    def go_on(self) -> None:
        """Add the next item."""
        if self._thief and len(self.history) == LENGTH:
            self.history = deque([self._anything()], LENGTH)
        else:
            self.history.append(self._next())

    def _next(self) -> int:
        if self._thief:
            return self._random.choice(self.listed)
        if self._random.random() < self._fickle:
            return self._anything()
        return self.listed[min(int(self._random.expovariate(1 / 6)), K - 1)]

    def _anything(self) -> int:
        return self._random.randint(1, N_ITEMS)


class Scene(NamedTuple):
    """A guard's settings, and keys of accounts that it knows."""

    settings: GuardSettings
    keys: tuple[str, ...]


def scene(
    folder: Path,
    accounts: int,
    *,
    calls_per_minute: int = PLENTY,
    watched: int = ACCOUNTS,
    answers: int = ANSWERS,
) -> Scene:
    """Make the files of a guard as ``gro guard init`` sets it up, with a monitor and the default playbook.

    Args:
        folder: to make and fill.
        accounts: that have a key.
        calls_per_minute: that an account may make; other limits count and do not refuse.
        watched: accounts that the monitor remembers.
        answers: that it remembers.
    """
    folder.mkdir()
    secret, policy, keys = folder / "secret", folder / "policy.toml", KeySettings(path=folder / "keys.json")
    secret.touch(0o600)
    secret.write_text(secrets.token_hex(32), encoding="ascii")
    policy.write_text(
        f"[limits]\ncalls_per_day = {PLENTY}\ncalls_per_minute = {calls_per_minute}\nlist_entries_per_day = {PLENTY}\n",
        encoding="ascii",
    )
    write(folder / "calibration.safetensors", _calibration())
    start_key_file(keys.path)
    names = [f"account-{number}" for number in range(accounts)]
    made = KeyStore(keys).create_all(names, (Role.RANK,), 7 * 86_400, time.time())
    settings = GuardSettings(
        keys=keys,
        limits=LimitSettings(policy=str(policy), per_network=Budgets(calls_per_day=PLENTY)),
        wire=WireSettings(n_items=N_ITEMS, most_k=K),
        monitor=MonitorSettings(calibration=folder / "calibration.safetensors", accounts=watched, answers=answers),
        responses=ResponseSettings(playbook="default", states=folder / "states.jsonl"),
        privacy=PrivacySettings(key_file=secret),
        events=EventSettings(to=folder / "events.jsonl"),
        queries=QuerySettings(path=folder / "queries.jsonl"),
        audit=AuditSettings(path=folder / "audit.jsonl", key_file=secret),
    )
    return Scene(settings, tuple(presented for _, presented in made))


@cache
def _calibration() -> Calibration:
    return calibrate(list(_log()))


def _log() -> Iterator[Call]:
    """Calls of people."""
    catalogue = Catalogue()
    for number in range(FOLK):
        random = Random(number)  # noqa: S311 -- play
        asker = Asker(catalogue, "", random, past=random.randint(1, LENGTH))
        for minute in range(CALLS):
            yield Call(60.0 * minute, f"person-{number}", np.array(asker.history), np.array(asker.listed))
            asker.go_on()
