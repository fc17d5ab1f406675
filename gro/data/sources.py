"""From a dataset's name to its file: a folder of the user's, RecBole's bundled set, the cache, a download."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gro.config import DataSettings
from gro.data.cards import DatasetCard, dataset_card, dataset_cards
from gro.data.download import download
from gro.errors import DataError, nearest

logger = logging.getLogger(__name__)

CHOSEN = ("data_path", "GRO_DATA_PATH")
"""The origins that the user names."""


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset's file on this machine."""

    name: str
    path: Path
    origin: str
    """Where it was found: "data_path", "GRO_DATA_PATH", "recbole", "cache" or "download"."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal; raises DataError where it cannot be read."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{self.path}: {(error.strerror or 'cannot be read').lower()}") from None


@dataclass(frozen=True, slots=True)
class Available:
    """A dataset that has a card, is on this machine, or both."""

    name: str
    card: DatasetCard | None
    source: Source | None


def find(settings: DataSettings) -> Source:
    """Return the dataset's file: ``data_path``, GRO_DATA_PATH, bundled in recbole, cached, else downloaded.

    Nothing is downloaded when ``data_path`` is given. The checksum is logged, and warned of where it is not the card's.

    Raises:
        DataError: the dataset is unknown, not in ``data_path``, or cannot be downloaded or read; or a folder that the
            user names is missing.
    """
    name = settings.dataset
    if not name or Path(name).name != name or name.startswith("."):
        raise DataError(f"dataset is {name!r}: it must be a name, with its folder given by data_path")
    for origin, folder in _folders(settings.data_path):
        if origin in CHOSEN and not folder.is_dir():
            raise DataError(f"{origin} is {str(folder)!r}: there is no such folder")
    source = _local(name, settings.data_path) or _fetch(name, settings.data_path)
    _report(source)
    return source


def available(data_path: Path | None = None) -> list[Available]:
    """Return every dataset that has a card or is on this machine, by name; reads no data."""
    cards = dataset_cards()
    found = {path.parent.name for _, folder in _folders(data_path) for path in folder.glob("*/*.inter")}
    names = sorted(cards.keys() | found)
    rows = [Available(name, cards.get(name), _local(name, data_path)) for name in names]
    return [row for row in rows if row.card or row.source]


def cache_folder() -> Path:
    """Return the folder of downloaded datasets: ``GRO_CACHE/datasets``, else below the user's XDG cache."""
    if chosen := os.environ.get("GRO_CACHE"):
        return Path(chosen) / "datasets"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gro" / "datasets"


def addresses() -> dict[str, str]:
    """Return RecBole's download address of every dataset name; empty where recbole is not installed."""
    package = _recbole_folder()
    if package is None:
        return {}
    lines = (package / "properties" / "dataset" / "url.yaml").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(": ") for line in lines if not line.startswith("#"))
    return {name.strip(): url.strip() for name, _, url in pairs if url}


def _folders(data_path: Path | None) -> Iterator[tuple[str, Path]]:
    if data_path is not None:
        yield "data_path", data_path
    if named := os.environ.get("GRO_DATA_PATH"):
        yield "GRO_DATA_PATH", Path(named)
    if package := _recbole_folder():
        yield "recbole", package / "dataset_example"
    yield "cache", cache_folder()


def _local(name: str, data_path: Path | None) -> Source | None:
    for origin, folder in _folders(data_path):
        if (path := folder / name / f"{name}.inter").is_file():
            return Source(name, path, origin)
    return None


def _recbole_folder() -> Path | None:
    """Find the installed package without importing it."""
    spec = importlib.util.find_spec("recbole")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _fetch(name: str, data_path: Path | None) -> Source:
    urls = addresses()
    if name not in urls:
        hint = nearest(name, urls.keys() | {row.name for row in available(data_path)})
        raise DataError(f"no dataset '{name}'{_looked(name, data_path)} nor among RecBole's.{hint}{_without_recbole()}")
    if data_path is not None:
        raise DataError(f"no dataset '{name}'{_looked(name, data_path)}; leave data_path out to download it")
    target = cache_folder() / name / f"{name}.inter"
    download(urls[name], target)
    return Source(name, target, "download")


def _looked(name: str, data_path: Path | None) -> str:
    folders = [folder for origin, folder in _folders(data_path) if origin in CHOSEN]
    return "".join(f" at {folder / name / name}.inter" for folder in folders[:1])


def _without_recbole() -> str:
    return (
        ""
        if _recbole_folder()
        else " recbole, which brings ml-100k and the download addresses, is not installed; see gro doctor."
    )


def _report(source: Source) -> None:
    card, checksum = dataset_card(source.name), source.sha256
    logger.info("%s: %s (%s), sha256 %s", source.name, source.path, source.origin, checksum)
    if card and card.sha256 != checksum:
        logger.warning(
            "%s: sha256 of %s is %s, not the card's %s: the card's counts may not hold",
            *(source.name, source.path, checksum, card.sha256),
        )
