"""``gro guard keys``: API keys in a key file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from gro.cli.guard.settings import CreateKeyCommand, KeysFile, ListKeysCommand, RevokeKeyCommand, RotateKeyCommand
from gro.cli.output import show
from gro.cli.settings import Output
from gro.service.access.keys import Key, KeySettings, KeyStore
from gro.service.core import Role

COLUMNS: Final = ("id", "account", "roles", "label", "created", "expires", "")
DAY, HOUR = 86_400.0, 3_600.0


def create(settings: Mapping[str, Any], output: Output) -> int:
    """Make a key."""
    command = CreateKeyCommand.make(settings)
    roles = map(Role, command.roles)
    made = _store(command).create(command.account, roles, command.days * DAY, time.time(), command.label)
    return _handed_over(*made, output)


def listed(settings: Mapping[str, Any], output: Output) -> int:
    """List keys."""
    keys, now = _store(ListKeysCommand.make(settings)).list(), time.time()
    report = {"keys": [_told(key, now) for key in keys]}
    return show(output, report, f"{len(keys)} key(s)", COLUMNS, [tuple(row.values()) for row in report["keys"]])


def rotate(settings: Mapping[str, Any], output: Output) -> int:
    """Make a key in the place of another."""
    command = RotateKeyCommand.make(settings)
    made = _store(command).rotate(command.id, command.overlap_hours * HOUR, command.days * DAY, time.time())
    return _handed_over(*made, output)


def revoke(settings: Mapping[str, Any], output: Output) -> int:
    """End a key."""
    command, now = RevokeKeyCommand.make(settings), time.time()
    row = _told(_store(command).revoke(command.id, now), now)
    return show(output, row, "ended in every service that reads this file", COLUMNS, [tuple(row.values())])


def _store(command: KeysFile) -> KeyStore:
    return KeyStore(KeySettings(path=command.keys))


def _handed_over(key: Key, presented: str, output: Output) -> int:
    row = _told(key, time.time())
    title = f"{presented}\nhand this to its owner: it is not kept and cannot be shown again"
    return show(output, {"key": presented, **row}, title, COLUMNS, [tuple(row.values())])


def _told(key: Key, now: float) -> dict[str, str]:
    roles = " ".join(sorted(key.roles))
    ended = key.ended(now).replace("_", " ") or "good"
    return {
        "id": key.id,
        "account": key.account,
        "roles": roles,
        "label": key.label,
        "created": _date(key.created),
        "expires": _date(key.expires),
        "standing": ended,
    }


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")
