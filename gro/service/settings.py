"""Settings of the guard: one TOML file, a table for each part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gro.config import PositiveInt, Settings, read_tables
from gro.service.access.keys import KeySettings
from gro.service.access.network import NetworkSettings
from gro.service.access.sessions import SessionSettings
from gro.service.access.tokens import TokenSettings
from gro.service.audit import AuditSettings
from gro.service.limits import LimitSettings
from gro.service.monitor.monitor import ACCOUNTS, ANSWERS
from gro.service.privacy import PrivacySettings
from gro.service.wire import WireSettings


class MonitorSettings(Settings):
    """How accounts are watched."""

    calibration: Path
    """File that ``gro guard calibrate`` wrote."""
    accounts: PositiveInt = ACCOUNTS
    """Most accounts that are remembered, at some 780 bytes each where names have 15 characters."""
    answers: PositiveInt = ANSWERS
    """Latest answers that are remembered, at 416 bytes each."""


class ResponseSettings(Settings):
    """What is done to accounts that stand out."""

    playbook: str = "watch-only"
    """A shipped playbook by name, or the path of a playbook file."""
    states: Path | None = None
    """File that keeps the accounts' states over a restart; of this process alone."""


class EventSettings(Settings):
    """Where events go."""

    to: Literal["stdout", "stderr"] | Path = "stderr"
    """Standard output, standard error, or a file."""
    service: Annotated[str, Field(min_length=1)] = "gro-guard"
    """``service.name`` of every event."""


class QuerySettings(Settings):
    """Where calls are written, to calibrate on and to analyse later."""

    path: Path
    """File of the query log; see :mod:`gro.service.querylog`."""


class GuardSettings(Settings):
    """All of the guard; a part that is not given is as its defaults say, and who is not known is not let in."""

    open: tuple[str, ...] = ("/health", "/ready")
    """Paths that anybody may see; every other path asks for a credential."""
    console: Annotated[str, Field(pattern="^(/[A-Za-z0-9_-]+)?$")] = "/guard"
    """Path under which sessions are opened and operators find accounts, events, metrics and the dashboard; empty:
    nowhere."""
    keys: KeySettings | None = None
    tokens: TokenSettings | None = None
    sessions: SessionSettings | None = None
    network: NetworkSettings = NetworkSettings()
    limits: LimitSettings = LimitSettings()
    wire: WireSettings = WireSettings()
    monitor: MonitorSettings | None = None
    responses: ResponseSettings = ResponseSettings()
    privacy: PrivacySettings = PrivacySettings()
    events: EventSettings = EventSettings()
    queries: QuerySettings | None = None
    audit: AuditSettings | None = None


def read_guard(path: Path) -> GuardSettings:
    """Read the settings of a guard.

    Raises:
        ConfigError: the file is missing or malformed, or a key is unknown, missing or out of range.
    """
    return read_tables(GuardSettings, path)
