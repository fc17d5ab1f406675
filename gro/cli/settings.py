"""Settings that only the command line has, and how files and flags become the settings of a verb."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from gro.config import Architecture, DeviceSettings, PositiveInt, Settings, read_toml
from gro.errors import ConfigError, nearest

Values = Mapping[str, Any]


class Output(Settings):
    """What a command prints."""

    json_: Annotated[bool, Field(alias="json")] = False
    """Print one JSON object on stdout and nothing else there."""
    quiet: bool = False
    """Show no progress."""


class ConfigFile(Settings):
    """A file of settings."""

    config: Path | None = None
    """TOML file of settings; flags win over it."""


class RecBoleFile(Settings):
    """A RecBole configuration."""

    recbole_config: Path | None = None
    """RecBole configuration file (YAML); flags and --config win over it."""


class DataPath(Settings):
    """Where datasets are looked for."""

    data_path: Path | None = None
    """Folder that holds NAME/NAME.inter."""


class DemoCommand(DeviceSettings):
    """Settings of ``gro demo``."""

    dataset: str = "ml-100k"
    model: Architecture = "SASRec"
    thief: str = "autoregressive"
    """Card of the thief, by name or as a file."""
    calls: PositiveInt = 50_000
    """Budget of each theft."""
    k: PositiveInt = 100
    """Exposed k: the length of the lists that both services return."""
    seed: Annotated[int, Field(ge=0)] = 0
    data_path: Path | None = None
    """Folder that holds NAME/NAME.inter."""
    out: Path = Path("runs/demo")
    """Folder of the runs; a second call goes on where the first one stopped."""


def merge(
    given: Values, files: Values, classes: Sequence[type[Settings]], positional: str | None = None
) -> dict[str, Any]:
    """Return explicit settings by field name: RecBole's file, then the TOML file, then the flags ``given``.

    Args:
        given: what the command line says.
        files: the files to read, as ``config`` and ``recbole_config``.
        classes: settings classes of the command; together they list the known keys.
        positional: the setting that needs no flag.

    Raises:
        ConfigError: a key is unknown or ill-typed (names the key, its source and the nearest valid one), or a required
            one is missing.
    """
    merged: dict[str, Any] = {}
    for source, values in (*_tables(files), ("command line", given)):
        _check(values, classes, source)
        merged |= values
    missing = [name for cls in classes for name in _required(cls) if name not in merged]
    if missing:
        wanted = " and ".join(name.upper() if name == positional else flag(name) for name in missing)
        raise ConfigError(f"{wanted} must be given, on the command line or in a --config file")
    return merged


def flag(name: str) -> str:
    """Return the flag of a field."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _tables(files: Values) -> Iterator[tuple[str, dict[str, Any]]]:
    if path := files.get("recbole_config"):
        read = import_module("gro._recbole").read_config(path)
        yield str(path), {**read.data, **read.training}
    if path := files.get("config"):
        yield str(path), {"from_" if key == "from" else key: value for key, value in read_toml(path).items()}


def _check(values: Values, classes: Sequence[type[Settings]], source: str) -> None:
    known = {name for cls in classes for name in cls.model_fields}
    for key in values:
        if key not in known:
            hint = nearest(key, (name.rstrip("_") for name in known))
            raise ConfigError(f"{source}: unknown key '{key}'.{hint}")
    for cls in classes:
        standing_in = dict.fromkeys(_required(cls), "-")
        cls.make({**standing_in, **{key: value for key, value in values.items() if key in cls.model_fields}}, source)


def _required(cls: type[Settings]) -> list[str]:
    return [name for name, field in cls.model_fields.items() if field.is_required()]
