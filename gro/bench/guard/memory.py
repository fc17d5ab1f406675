"""What the guard keeps of a million accounts."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from random import Random
from typing import Any, Final

from gro.bench.guard.process import alone, resident
from gro.bench.guard.world import LENGTH, Asker, Catalogue, scene
from gro.service.access.network import limit_key
from gro.service.core import Principal, Role
from gro.service.events import Request
from gro.service.guard import Caller, Guard
from gro.service.limits import DAY, MINUTE, Limiter, LimitSettings
from gro.service.settings import GuardSettings
from gro.service.windows import CELLS
from gro.service.wire import Question

FULLEST: Final = 20
"""One account in so many is also made to fill every cell of its windows."""


def memory(folder: Path, accounts: int) -> dict[str, Any]:
    """Let accounts ask once each, everyone from a network of their own, and weigh the guard's process.

    They come with tokens, of which a guard keeps nothing; keys would be kept, as the key file is. Their calls are not
    written to a query log, which keeps nothing in memory either.

    Args:
        folder: to make, for the guard's files.
        accounts: how many.

    Returns:
        ``bytes``: growth of the memory in use; ``per_account``: of that; ``total``: all of the process at the end;
        ``limits_when_fullest``: bytes of the limits of an account whose calls fill every cell of its windows, and of
        its network's.
    """
    settings = scene(folder, 0, watched=accounts).settings.model_copy(update={"keys": None, "queries": None})
    grown, total = alone(_asked, settings, accounts)
    fullest = alone(_filled, settings.limits, max(1, accounts // FULLEST))
    return {
        "accounts": accounts,
        "bytes": grown,
        "per_account": grown / accounts,
        "total": total,
        "limits_when_fullest": fullest,
    }


def _asked(settings: GuardSettings, accounts: int) -> tuple[int, int]:
    """Bytes by which the process grows, and all that it then has."""

    async def ask() -> int:
        guard, asker = Guard(settings), Asker(Catalogue(), "", Random(0), past=LENGTH)  # noqa: S311 -- play
        await guard.open()
        before = _resident()
        for caller in _callers(accounts):
            asker.go_on()
            admission = await guard.admit(caller, Question([list(asker.history)], len(asker.listed)))
            await guard.answered(admission, [asker.listed])
        grown = _resident() - before
        await guard.close()
        return grown

    return asyncio.run(ask()), resident()


def _filled(settings: LimitSettings, accounts: int) -> float:
    """Bytes of an account's limits at the fullest."""
    now = 0.0
    limiter = Limiter(settings, lambda: now)
    ages = sorted({*range(0, DAY, DAY // CELLS), *range(0, MINUTE, MINUTE // CELLS)}, reverse=True)

    async def charge() -> int:
        nonlocal now
        before = _resident()
        for age in ages:
            now = float(DAY - age)
            for caller in _callers(accounts):
                await limiter.charge(caller.principal, caller.network, 1, 1)
        return _resident() - before

    return asyncio.run(charge()) / accounts


def _callers(accounts: int) -> Iterator[Caller]:
    roles = frozenset({Role.RANK})
    for number in range(accounts):
        address = IPv6Address((0x20010DB8 << 96) + (number << 64) + 1)
        principal = Principal(f"account-{number}", roles, "token:x")
        yield Caller(principal, limit_key(address), Request("POST", "/rank", str(address)))


def _resident() -> int:
    gc.collect()
    return resident()
