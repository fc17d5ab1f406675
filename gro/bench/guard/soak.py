"""The guard under steady load for a while: whether it grows, and whether it ends in order when it is told to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from gro.bench.guard.client import Told, drive, percentiles, post
from gro.bench.guard.process import descriptors, pool, resident, threads
from gro.bench.guard.server import PATIENCE, served
from gro.bench.guard.world import Asker, Catalogue, scene
from gro.errors import GroError

ACCOUNTS: Final = 1_000
REMEMBERED: Final = 3
"""One account in so many is remembered by the monitor at a time; the others are forgotten for newer ones."""
ANSWERS: Final = 1 << 13
PER_MINUTE: Final = 60
"""Calls of an account that are not refused."""
CONNECTIONS: Final = 64
THIEVES: Final = 4
"""One connection in so many has a thief, who asks at every second turn."""
BAD: Final = 0.02
"""Share of the other requests that are no questions, or come with no key that is known."""
TOGETHER: Final = 4
"""People who ask in turn on a connection."""
SITTING: Final = 12
"""Requests of each before others come."""
DELAY: Final = 0.05
"""Seconds that the service takes to answer."""
WARM_UP: Final = 0.2
"""Time before the soak, as a share of it."""
BATCHES: Final = 10
"""Parts of the soak whose means are compared: within a part, memory is much the same from one look to the next."""


def soak(folder: Path, seconds: float, rate: float, accounts: int = ACCOUNTS) -> dict[str, Any]:
    """Keep a guarded service busy, look at its process, and tell it to end while it is busy.

    Args:
        folder: to make, for the guard's files.
        seconds: of the soak.
        rate: requests per second.
        accounts: that ask, more than the monitor remembers.

    Returns:
        What was asked and answered with which status; ``memory`` in MB (10^6 bytes), means of the first and the last
        tenth, and its ``slope`` in MB an hour with a 95 % ``interval`` from the means of ten parts; least and most
        ``descriptors`` and ``threads``; and of the ``end``: the process's exit code (a negative one is the signal's),
        seconds, requests that the service took and those of them that it answered, requests answered after the signal,
        and requests that it never read.

    Raises:
        GroError: the service ended by itself.
    """
    settings, keys = scene(
        folder, accounts, calls_per_minute=PER_MINUTE, watched=max(1, accounts // REMEMBERED), answers=ANSWERS
    )
    with served("guard", settings, timed=False, delay=DELAY) as service, pool() as clients:
        asking = clients.submit(_ask, service.port, keys, rate, (1 + WARM_UP) * seconds + PATIENCE)
        time.sleep(WARM_UP * seconds)
        looks = _looks(service.process.pid, seconds)
        signalled = time.monotonic()
        service.process.terminate()
        service.process.join(PATIENCE)
        ended = time.monotonic()
        told = asking.result()
        try:
            taken, answered = service.told.recv()
        except EOFError:
            raise GroError(f"the service ended with exit code {service.process.exitcode}, unasked") from None
    return {
        "seconds": seconds,
        "rate": rate,
        "sent": told.sent,
        "statuses": dict(told.statuses),
        "latency": percentiles(told.latencies),
        **_grown(looks),
        "end": {
            "exit_code": service.process.exitcode,
            "seconds": ended - signalled,
            "taken": taken,
            "answered": answered,
            "received": told.answered,
            "after": sum(at > signalled for at in told.latest),
            "unread": told.sent - taken,
        },
    }


def _ask(port: int, keys: Sequence[str], rate: float, seconds: float) -> Told:
    """Ask until the service ends."""
    catalogue = Catalogue()
    lanes = [_lane(catalogue, keys[number::CONNECTIONS], number) for number in range(min(CONNECTIONS, len(keys)))]
    return asyncio.run(drive(port, lanes, seconds, rate))


def _lane(catalogue: Catalogue, keys: Sequence[str], number: int) -> Iterator[bytes]:
    """Requests of people who come and go and, on some connections, of a thief; here and there one that is bad."""
    random = Random(number)  # noqa: S311 -- play
    askers = [Asker(catalogue, key, random) for key in keys]
    thief = Asker(catalogue, keys[0], random, thief=True)
    bad = post(b'{"histories": [[0', keys[0]), post(b'{"histories": [[1]]}', "gro_nobody")
    while True:
        for start in range(0, len(askers), TOGETHER):
            for asker in askers[start : start + TOGETHER] * SITTING:
                yield random.choice(bad) if random.random() < BAD else asker.ask()
                if number % THIEVES == 0:
                    yield thief.ask()


def _looks(pid: int | None, seconds: float) -> npt.NDArray[np.float64]:
    """Look at a process now and then: seconds, MB, descriptors and threads ``[looks, 4]``."""
    begun, every, looks = time.monotonic(), min(2.0, seconds / (10 * BATCHES)), []
    while (at := time.monotonic() - begun) < seconds:
        try:
            looks.append((at, resident(pid) / 1e6, descriptors(pid), threads(pid)))
        except OSError:
            break
        time.sleep(every)
    return np.array(looks, np.float64)


def _grown(looks: npt.NDArray[np.float64]) -> dict[str, Any]:
    means = np.array([part.mean(axis=0) for part in np.array_split(looks[:, :2], BATCHES)])
    fit = stats.linregress(means[:, 0], means[:, 1])
    off = float(stats.t.ppf(0.975, BATCHES - 2)) * fit.stderr
    return {
        "memory": {
            "first": float(means[0, 1]),
            "last": float(means[-1, 1]),
            "slope": 3600 * float(fit.slope),
            "interval": [3600 * float(fit.slope - off), 3600 * float(fit.slope + off)],
            "looks": looks[:, :2].tolist(),
        },
        "descriptors": [int(looks[:, 2].min()), int(looks[:, 2].max())],
        "threads": [int(looks[:, 3].min()), int(looks[:, 3].max())],
    }
