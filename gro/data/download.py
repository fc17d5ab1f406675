"""Downloads one zipped ``.inter`` file, whole or not at all."""

from __future__ import annotations

import logging
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path

from gro.errors import DataError

logger = logging.getLogger(__name__)

TIMEOUT = 30
MAX_BYTES = 64 << 30
MAX_RATIO = 200
"""DEFLATE shrinks interaction logs about tenfold; far more is a bomb."""


def download(url: str, target: Path) -> None:
    """Download the zip at ``url`` and put its ``.inter`` file at ``target``, under a temporary name until it is whole.

    No name from inside the archive is used as a path.

    Raises:
        DataError: no internet, not an https address, or an archive without exactly one suitable ``.inter`` file.
    """
    remedy = f"put the file at DIR/{target.parent.name}/{target.name} yourself and pass data_path = DIR"
    try:
        cache = target.parent.parent
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=cache) as folder:
            archive, whole = Path(folder, "archive.zip"), Path(folder, target.name)
            _fetch(url, archive)
            _extract(archive, whole, target.stem)
            target.parent.mkdir(exist_ok=True)
            whole.replace(target)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{url} is not a sound zip archive ({error}); {remedy}") from None
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise DataError(f"cannot download {url} ({reason}); {remedy}") from None


def _fetch(url: str, archive: Path) -> None:
    if not url.startswith("https://"):
        raise DataError(f"{url} is not an https address")
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, archive.open("wb") as file:  # noqa: S310
        if not response.geturl().startswith("https://"):
            raise DataError(f"{url} redirects to {response.geturl()}, which is not an https address")
        size = int(response.headers.get("Content-Length") or 0)
        logger.info("downloading %s (%.1f MB)", url, size / 1e6)
        shutil.copyfileobj(response, file)
    if size and archive.stat().st_size != size:
        raise OSError(f"{archive.stat().st_size} of {size} bytes arrived")


def _extract(archive: Path, whole: Path, name: str) -> None:
    with zipfile.ZipFile(archive) as bundle:
        member = _choose(bundle, name)
        if member.file_size > min(MAX_BYTES, MAX_RATIO * max(member.compress_size, 1)):
            raise DataError(f"{member.filename} would unpack to {member.file_size} bytes, too much for its archive")
        with bundle.open(member) as packed, whole.open("wb") as file:
            shutil.copyfileobj(packed, file)


def _choose(bundle: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    files = [member for member in bundle.infolist() if member.filename.endswith(".inter")]
    same = [member for member in files if Path(member.filename).stem.lower() == name.lower()]
    for candidates in (same, files):
        if len(candidates) == 1:
            return candidates[0]
    names = ", ".join(member.filename for member in files) or "none"
    raise DataError(f"the archive of '{name}' must hold one .inter file; it holds {names}")
