"""The guarded service as its callers see it: a real HTTP server on the loopback, and a key for each account."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn

from gro.errors import GroError
from gro.service.access.keys import KeySettings, KeyStore, start_key_file
from gro.service.audit import AuditSettings
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.limits import LimitSettings
from gro.service.monitor.detector import Judgement
from gro.service.playbook import State
from gro.service.privacy import PrivacySettings
from gro.service.reference import RANK, About, create_app
from gro.service.settings import EventSettings, GuardSettings, MonitorSettings, ResponseSettings
from gro.service.wire import WireSettings
from gro.serving import RankingService, lists_of_ids

WIDE: Final = "[limits]\ncalls_per_day = 1_000_000_000\n"
"""Limits that hide nothing from the monitor."""
VALID: Final = 7 * 86_400.0
"""Seconds for which keys are good."""
SECONDS: Final = 60.0
"""Longest wait for an answer."""
REFUSED: Final = (403, 429)


class Door:
    """Asks the service as its accounts do, and sees what the guard thinks of them."""

    def __init__(self, port: int, keys: Mapping[str, str], guard: Guard) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        self._keys, self._guard = keys, guard

    def ask(self, account: str, history: Sequence[int]) -> list[int]:
        """Ask for one list, and return it; empty where the guard refuses.

        Raises:
            GroError: the service fails.
        """
        body = json.dumps({"histories": [history]})
        headers = {"Authorization": f"Bearer {self._keys[account]}", "Content-Type": "application/json"}
        try:
            self._connection.request("POST", RANK, body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise GroError(f"the service does not answer: {error!r}") from None
        if response.status in REFUSED:
            return []
        if response.status != http.client.OK:
            raise GroError(f"the service answered {response.status}: {content[:200].decode(errors='replace')}")
        listed: list[int] = json.loads(content)["lists"][0]
        return listed

    def alarm(self, account: str) -> Judgement | None:
        """What the monitor says of an account whose alarm stands."""
        judged = None if self._guard.watchman is None else self._guard.watchman.judgement(account)
        return judged if judged is not None and judged.alarm else None

    def state(self, account: str) -> State:
        """What is done to an account."""
        return self._guard.responses.response(account).state

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def opened(
    service: RankingService, about: About, accounts: Iterable[str], folder: Path, calibration: Path, playbook: str
) -> Iterator[Door]:
    """Serve behind a guard with everything in force, on a free port of the loopback, until the context ends.

    Args:
        service: what answers.
        about: what it is.
        accounts: that get a key.
        folder: for keys, secrets and logs; the caller's to delete.
        calibration: of the monitor.
        playbook: by name or path.

    Raises:
        GroError: the playbook or the calibration cannot be read, or the server does not start.
    """
    settings = _settings(folder, about, calibration, playbook)
    made = KeyStore(KeySettings(path=folder / "keys.json")).create_all(accounts, (Role.RANK,), VALID, time.time())
    keys = {key.account: presented for key, presented in made}
    guard = Guard(settings)
    with (
        _running(create_app(partial(lists_of_ids, service), about, guard)) as port,
        closing(Door(port, keys, guard)) as door,
    ):
        yield door


def _settings(folder: Path, about: About, calibration: Path, playbook: str) -> GuardSettings:
    secret, policy = folder / "secret", folder / "policy.toml"
    secret.touch(0o600)
    secret.write_text(secrets.token_hex())
    policy.write_text(WIDE)
    start_key_file(folder / "keys.json")
    return GuardSettings(
        keys=KeySettings(path=folder / "keys.json"),
        limits=LimitSettings(policy=str(policy)),
        wire=WireSettings(n_items=about.n_items, most_k=about.k),
        monitor=MonitorSettings(calibration=calibration),
        responses=ResponseSettings(playbook=playbook),
        privacy=PrivacySettings(key_file=secret),
        events=EventSettings(to=folder / "events.jsonl"),
        audit=AuditSettings(path=folder / "audit.jsonl", key_file=secret),
    )


@contextmanager
def _running(application: Any) -> Iterator[int]:
    """Run a server in a thread of its own and yield its port."""
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # named, so that asyncio does not delay answers
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(application, log_config=None, access_log=False, proxy_headers=False, lifespan="on")
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="gro-drill")
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            if not server.started:
                raise GroError("the guarded service did not start")
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
