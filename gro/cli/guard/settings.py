"""Settings of ``gro guard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gro.config import PositiveFloat, PositiveInt, Settings
from gro.service.analysis.settings import Paths

Share = Annotated[float, Field(gt=0, lt=1)]
RoleName = Literal["rank", "operate", "audit"]
Held = Literal["watch", "throttle", "challenge", "decoy", "suspend"]


class InitCommand(Settings):
    """Settings of ``gro guard init``."""

    folder: Path
    """Folder for guard.toml, secret and keys.json; files that are there stay as they are."""


class CheckCommand(Settings):
    """Settings of ``gro guard check``."""

    guard: Path
    """Settings of a guard, a TOML file."""


class CalibrateCommand(Settings):
    """Settings of ``gro guard calibrate``."""

    log: Paths
    """Query log in which nobody is a thief: a file, or several in order of time; they may be compressed with gzip."""
    out: Path
    """File of the calibration."""
    false_alarms: Share = 0.01
    """Share of clean accounts that may ever be flagged."""
    confidence: Share = 0.9
    """Confidence that it is no more."""


class VerifyCommand(Settings):
    """Settings of ``gro guard verify``."""

    log: Path
    """Newest file of the audit log."""
    key_file: Path
    """File with the secret of the chain."""
    checkpoint: str | None = None
    """Entry that the log must hold, as an earlier call printed it."""


class KeysFile(Settings):
    """Which keys."""

    keys: Path
    """Key file, such as ``gro guard init`` makes."""


class NewKey(KeysFile):
    """A key that is made."""

    days: PositiveFloat = 90.0
    """Days that the new key lasts."""


class CreateKeyCommand(NewKey):
    """Settings of ``gro guard keys create``."""

    account: str
    """Whose key it is: what limits, monitoring and responses are kept by."""
    roles: tuple[RoleName, ...] = ("rank",)
    """What it may do: rank asks for lists, operate sees and holds accounts, audit reads events and metrics."""
    label: str = ""
    """What the owner calls it."""


class ListKeysCommand(KeysFile):
    """Settings of ``gro guard keys list``."""


class RotateKeyCommand(NewKey):
    """Settings of ``gro guard keys rotate``."""

    id: str
    """Id of the old key: what stands between its two underscores."""
    overlap_hours: Annotated[float, Field(ge=0)] = 24.0
    """Hours for which the old key still works."""


class RevokeKeyCommand(KeysFile):
    """Settings of ``gro guard keys revoke``."""

    id: str
    """Id of the key: what stands between its two underscores."""


class RunningGuard(Settings):
    """Which guard, and who asks."""

    url: str = "http://127.0.0.1:8000/guard"
    """The guard's own path on the service; http only on this machine."""
    key_file: Path | None = None
    """File of mode 0600 with a key of the role operate; unset is the environment variable GRO_GUARD_KEY."""
    tls_authority: Path | None = None
    """Certificate in PEM by which the service's is checked; unset is the system's."""


class AccountsCommand(RunningGuard):
    """Settings of ``gro guard accounts``."""

    account: str | None = None
    """The one account to show."""


class HoldCommand(RunningGuard):
    """Settings of ``gro guard hold``."""

    account: str
    state: Held
    why: str
    """For the log."""
    hours: PositiveFloat | None = None
    """How long; unset is until it is released."""
    factor: Share | None = None
    """Share of its budgets that a throttled account has."""


class ReleaseCommand(RunningGuard):
    """Settings of ``gro guard release``."""

    account: str
    why: str
    """For the log."""


class BenchCommand(Settings):
    """Settings of ``gro guard bench``."""

    seconds: PositiveFloat = 20.0
    """Seconds of load on each side, at the highest that it holds."""
    accounts: PositiveInt = 1_000_000
    """Accounts whose memory is weighed."""
    minutes: PositiveFloat = 10.0
    """Minutes of the soak, after a fifth as many to warm up."""
    out: Path | None = None
    """File for all figures, in JSON."""
