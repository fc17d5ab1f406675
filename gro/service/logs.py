"""Everything that the guard writes: events, the audit log and the query log."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from gro.service import events
from gro.service.audit import AuditLog, AuditUnavailable
from gro.service.ecs import Events
from gro.service.events import Event
from gro.service.keyfile import read_key
from gro.service.privacy import Privacy
from gro.service.querylog import Call, QueryLogWriter
from gro.service.settings import GuardSettings
from gro.service.telemetry import Telemetry

DESCRIPTORS: Final = {"stdout": 1, "stderr": 2}
RECENT: Final = 1_000
"""Latest events that are remembered for who asks the running service."""


class Logs:
    """Writes what happens; only the audit log is ever waited for.

    Attributes:
        recent: documents of the latest events, as they were written, the oldest first.
    """

    def __init__(
        self, settings: GuardSettings, secret: bytes | None, clock: Callable[[], float], telemetry: Telemetry
    ) -> None:
        """Open the logs.

        Args:
            settings: which there are, and what they say of people.
            secret: of pseudonyms and hashes.
            clock: Unix seconds.
            telemetry: counts what could not be written.

        Raises:
            ConfigError: a file cannot be opened, or what is written of people takes a secret.
            DataError: the audit log was altered.
        """
        self._telemetry = telemetry
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        privacy, to = Privacy(settings.privacy, secret), settings.events.to
        self._events = Events(
            to if isinstance(to, Path) else DESCRIPTORS[to],
            clock=clock,
            privacy=privacy,
            service={"name": settings.events.service, "type": "gro", "version": version("gro")},
            lost=lambda lines: telemetry.lost("events", lines),
        )
        self._queries = None
        if settings.queries is not None:
            self._queries = QueryLogWriter(
                settings.queries.path,
                privacy=privacy,
                report=self._lost,
                lost=lambda lines: telemetry.lost("queries", lines),
            )
        self._audit = None
        if settings.audit is not None:
            key = read_key(settings.audit.key_file)
            self._audit = AuditLog(settings.audit, key, clock=clock, failed=self._failed)
        self._auditor = ThreadPoolExecutor(1, thread_name_prefix="gro-audit")
        self._noted: list[dict[str, Any]] = []
        self.trouble: str | None = None
        """Why the audit log could not take the latest entry."""

    def say(self, event: Event) -> dict[str, Any]:
        """Write an event."""
        document = self._events.emit(event)
        self.recent.append(document)
        return document

    def note(self, event: Event) -> None:
        """Write an event which the audit log is to keep as well: :meth:`kept` waits for that."""
        document = self.say(event)
        if self._audit is not None:
            self._noted.append(document)

    def call(self, call: Call) -> None:
        """Write a call to the query log, where there is one."""
        if self._queries is not None:
            self._queries.write(call)

    async def kept(self) -> None:
        """Wait until the audit log has what was noted.

        Raises:
            AuditUnavailable: it could not take it, and the settings say to deny.
        """
        if self._audit is not None and self._noted:
            noted, self._noted = self._noted, []
            await asyncio.get_running_loop().run_in_executor(self._auditor, self._keep, self._audit, noted)

    def flush(self) -> bool:
        """Wait until every event was tried to be written; whether that was so within five seconds."""
        return self._events.flush()

    async def close(self) -> None:
        """Write what waits and close everything."""
        try:
            await self.kept()
        finally:
            self._auditor.shutdown()
            if self._queries is not None:
                self._queries.close()
            self._events.close()
            if self._audit is not None:
                self._audit.close()

    def _keep(self, audit: AuditLog, noted: list[dict[str, Any]]) -> None:
        """Try every entry, so that those which cannot be written are counted."""
        self.trouble, refused = None, None
        for document in noted:
            try:
                audit.append(document)
            except AuditUnavailable as error:
                refused = error
        if refused is not None:
            raise refused

    def _lost(self, lines: int) -> None:
        self.say(events.lines_lost("queries", lines))

    def _failed(self, error: Exception) -> None:
        self.trouble = f"the audit log cannot be written: {error}"
        self._telemetry.audit_failed()
        self.say(events.audit_failed(type(error).__name__))
