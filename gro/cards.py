"""Cards: the TOML files of ``datasets/``, ``surrogates/`` and ``experiments/``, in a wheel or in a checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from gro.config import read_toml
from gro.errors import ConfigError, nearest

Kind = Literal["datasets", "surrogates", "surrogates/suites", "experiments"]


def folder(kind: Kind) -> Path:
    """Return the folder of the cards of one kind: ``gro/_cards/<kind>`` if shipped, else the checkout's ``<kind>``."""
    package = Path(__file__).resolve().parent
    shipped = package / "_cards"
    return (shipped if shipped.is_dir() else package.parent) / kind


def names(kind: Kind) -> list[str]:
    """Return the sorted names of the cards of one kind."""
    return sorted(path.stem for path in folder(kind).glob("*.toml"))


def located(folder: Path, what: str, plural: str, name: str) -> Path:
    """Return the path of a TOML file that ends in ``.toml`` or is one of those in ``folder``, by its name.

    Args:
        folder: of the shipped files.
        what: one is called, such as ``policy``.
        plural: of that, as it begins a sentence.
        name: of one of them, or a path.

    Raises:
        ConfigError: there is none of that name.
    """
    if name.endswith(".toml"):
        return Path(name)
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        listed = ", ".join(known)
        raise ConfigError(f"no {what} '{name}'.{nearest(name, known)} {plural}: {listed}, or the path of a .toml file")
    return folder / f"{name}.toml"


def read(kind: Kind, name: str) -> tuple[dict[str, Any], Path]:
    """Return the table of the card ``name`` and its path, to be validated by the room that owns the kind.

    Raises:
        ConfigError: there is no such card, or it is not TOML.
    """
    known = names(kind)
    if name not in known:
        cards = ", ".join(known) or "none"
        raise ConfigError(f"no card '{name}' in {folder(kind)}.{nearest(name, known)} Cards: {cards}")
    path = folder(kind) / f"{name}.toml"
    return read_toml(path), path
