"""Events as documents of the Elastic Common Schema (ECS 9.4), one JSON object a line.

What ECS has no field for is under ``gro``: a proper name, as ECS recommends for custom fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gro.service.events import Event, Request, Severity, lines_lost
from gro.service.lines import WAITING, Lines, encode
from gro.service.privacy import Privacy

VERSION: Final = "9.4.0"
LEVELS: Final = {
    Severity.INFO: "info",
    Severity.LOW: "info",
    Severity.MEDIUM: "warn",
    Severity.HIGH: "error",
    Severity.CRITICAL: "critical",
}
"""``log.level`` of each severity."""


class Events:
    """Writes events, and says of people no more than is set."""

    def __init__(
        self,
        target: Path | int,
        *,
        clock: Callable[[], float],
        privacy: Privacy,
        service: Mapping[str, str],
        lost: Callable[[int], None] = lambda count: None,
        most: int = WAITING,
    ) -> None:
        """Write to a file, or to a descriptor: 1 is standard output, 2 standard error.

        Args:
            target: see :class:`gro.service.lines.Lines`.
            clock: Unix seconds.
            privacy: what is written of people.
            service: ``name``, ``version`` and what else ECS has of a ``service``.
            lost: is told at once how many events were lost; a ``lines-lost`` event follows when one can be written.
            most: bytes that may wait to be written.

        Raises:
            ConfigError: the file cannot be opened.
        """
        self._clock, self._privacy, self._service = clock, privacy, dict(service)
        self._lines = Lines(target, report=self._report, lost=lost, most=most)

    def emit(self, event: Event) -> dict[str, Any]:
        """Queue an event to be written, without ever waiting, and return its document, as the audit log takes it."""
        document = self.document(event)
        self._lines.write(encode(document))
        return document

    def document(self, event: Event) -> dict[str, Any]:
        """Return the document of an event that happens now."""
        document = {
            "@timestamp": datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="microseconds"),
            "message": event.message,
            "log": {"level": LEVELS[event.severity]},
            "ecs": {"version": VERSION},
            "service": self._service,
            "event": {"module": "gro", "dataset": "gro.guard"},
        }
        for name, value in {**_said(event), **self._people(event), **event.fields}.items():
            if value is not None:
                _put(document, name, value)
        return document

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until every event was tried to be written; whether that was so within ``timeout`` seconds."""
        return self._lines.flush(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, for ``timeout`` seconds at most."""
        self._lines.close(timeout)

    def _people(self, event: Event) -> dict[str, Any]:
        """Fields that may tell of a person, as far as they may."""
        name, who = "hash" if self._privacy.pseudonyms else "id", event.principal
        account = who.account if who else event.account
        found = {
            f"user.{name}": account and self._privacy.account(account),
            f"user.target.{name}": event.target and self._privacy.account(event.target),
        }
        if who:
            found["gro.credential"] = self._privacy.account(who.credential)
        if event.request and (address := self._privacy.address(event.request.address)):
            found |= {"source.address": address, "source.ip": address.partition("/")[0]}
        return found

    def _report(self, lost: int) -> bytes:
        return encode(self.document(lines_lost("events", lost)))


def _said(event: Event) -> dict[str, Any]:
    """Fields that tell of nobody."""
    return {
        "event.kind": event.kind,
        "event.category": event.category,
        "event.type": event.type,
        "event.action": event.action,
        "event.severity": int(event.severity),
        "event.outcome": event.outcome,
        "event.reason": event.reason,
        "rule.name": event.rule,
        "user.roles": sorted(event.principal.roles) if event.principal else None,
        "event.code": event.refused.code if event.refused else None,
        "http.response.status_code": event.refused.status if event.refused else None,
        **(_asked(event.request) if event.request else {}),
    }


def _asked(request: Request) -> dict[str, Any]:
    return {"http.request.method": request.method, "url.path": request.path, "trace.id": request.trace}


def _put(document: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        document = document.setdefault(part, {})
    document[last] = value
