"""Fast reader of RecBole's atomic ``.inter`` files.

The first line names the columns as ``name:type``, the others hold one interaction each. Tokens stay strings ("01" is
not "1") and every ``float`` column is read; sequence columns and further token columns are skipped. Line numbers are
looked for only once something is known to be wrong.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pandas as pd

from gro.config import DataSettings
from gro.errors import DataError, nearest

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Tokens = npt.NDArray[np.str_]

TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True, slots=True, eq=False)
class Interactions:
    """Rows of an ``.inter`` file, column by column."""

    path: Path
    users: Ints
    """Row -> position in ``user_tokens``."""
    items: Ints
    """Row -> position in ``item_tokens``."""
    times: Floats
    floats: dict[str, Floats]
    """Every float column by name, the time included."""
    user_tokens: Tokens
    item_tokens: Tokens

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.users)

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Interactions:
        """Return the rows of a mask, or of an index in its order."""
        floats = {name: column[rows] for name, column in self.floats.items()}
        return replace(self, users=self.users[rows], items=self.items[rows], times=self.times[rows], floats=floats)


def read_inter(path: Path, settings: DataSettings) -> Interactions:
    """Read the interactions of one atomic file, in the file's order.

    Raises:
        DataError: the file is missing, empty or malformed; names the file and the line.
    """
    separator = settings.field_separator.encode()
    if len(separator) != 1:
        raise DataError(f"field_separator is {settings.field_separator!r}: it must be one ASCII character")
    head, body = _split(path, _text(path))
    types = _header(path, head, settings)
    _refuse_ragged(path, body, separator, len(types))
    return _columns(path, _parse(path, body, types, settings), settings)


def line_number(path: Path, row: int) -> int:
    """Return the line (the header is 1) that holds data row ``row``, counted from 0 without empty lines."""
    with path.open("rb") as file:
        filled = (number for number, line in enumerate(file, 1) if line.strip(b"\r\n"))
        return next(islice(filled, row + 1, None))


def _text(path: Path) -> bytes:
    """Return the file's UTF-8 bytes with plain line ends, without byte order mark."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    try:
        if not data.isascii():
            data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8") from None
    data = data.removeprefix(b"\xef\xbb\xbf")
    return data.replace(b"\r\n", b"\n") if b"\r" in data else data


def _split(path: Path, data: bytes) -> tuple[str, bytes]:
    if not data.strip():
        raise DataError(f"{path}: the file is empty; line 1 must be a header such as user_id:token")
    for character, name in ((b"\r", "carriage return"), (b"\0", "NUL")):
        if (position := data.find(character)) >= 0:
            line = data.count(b"\n", 0, position) + 1
            raise DataError(f"{path}:{line}: stray {name} character inside the line")
    head, _, body = data.partition(b"\n")
    if not body.strip():
        raise DataError(f"{path}: there is a header but no interaction below it")
    return head.decode(), body if body.endswith(b"\n") else body + b"\n"


def _header(path: Path, head: str, settings: DataSettings) -> dict[str, str]:
    """Return the type of every column by name, in the file's order."""
    pairs = [column.split(":") for column in head.split(settings.field_separator)]
    for pair in pairs:
        if len(pair) != 2 or not pair[0] or pair[1] not in TYPES:
            what = f"column {':'.join(pair)!r} is not name:type with a type of {', '.join(TYPES)}"
            raise DataError(f"{path}:1: {what} (field_separator is {settings.field_separator!r})")
    types = {pair[0]: pair[1] for pair in pairs}
    if len(types) < len(pairs):
        raise DataError(f"{path}:1: a column name occurs twice in {', '.join(name for name, _ in pairs)}")
    for key, kind in (("user_id_field", "token"), ("item_id_field", "token"), ("time_field", "float")):
        _check_field(path, types, key, getattr(settings, key), kind)
    return types


def _check_field(path: Path, types: dict[str, str], key: str, name: str, kind: str) -> None:
    if name not in types:
        has = ", ".join(types)
        raise DataError(f"{path}:1: no column '{name}' ({key}); the file has {has}.{nearest(name, types)}")
    if types[name] != kind:
        raise DataError(f"{path}:1: column '{name}' ({key}) is {types[name]}; it must be {kind}")


def _refuse_ragged(path: Path, body: bytes, separator: bytes, width: int) -> None:
    """Count the cells of every line at once."""
    characters = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero(characters == ord("\n"))
    cells = np.diff(np.searchsorted(np.flatnonzero(characters == ord(separator)), ends), prepend=0) + 1
    ragged = (cells != width) & (np.diff(ends, prepend=-1) > 1)
    if ragged.any():
        line = int(ragged.argmax())
        raise DataError(f"{path}:{line + 2}: {cells[line]} cells where the header has {width} columns")


def _parse(path: Path, body: bytes, types: dict[str, str], settings: DataSettings) -> pd.DataFrame:
    floats = [name for name, kind in types.items() if kind == "float"]
    ids = [settings.user_id_field, settings.item_id_field]

    def read(wanted: dict[str, str]) -> pd.DataFrame:
        return pd.read_csv(
            io.BytesIO(body),
            sep=settings.field_separator,
            header=None,
            names=list(types),
            usecols=list(wanted),
            dtype=wanted,
            na_values={name: [""] for name in floats},
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
            low_memory=False,
        )

    try:
        return read(dict.fromkeys(ids, "object") | dict.fromkeys(floats, "float64"))
    except ValueError as error:
        _name_ill_typed(path, read(dict.fromkeys(floats, "str")), str(error).splitlines()[0])


def _name_ill_typed(path: Path, cells: pd.DataFrame, reason: str) -> NoReturn:
    """Raise the error for the first cell, from the top, that is not a number."""
    ill = pd.DataFrame({name: pd.to_numeric(cells[name], "coerce").isna() & cells[name].notna() for name in cells})
    if not ill.to_numpy().any():
        raise DataError(f"{path}: {reason}")
    row = int(ill.any(axis=1).argmax())
    name = ill.columns[int(ill.iloc[row].argmax())]
    raise DataError(f"{path}:{line_number(path, row)}: column '{name}' is {cells[name].iloc[row]!r}, not a number")


def _columns(path: Path, frame: pd.DataFrame, settings: DataSettings) -> Interactions:
    users, user_tokens = _codes(path, frame, settings.user_id_field)
    items, item_tokens = _codes(path, frame, settings.item_id_field)
    floats = {str(name): frame[name].to_numpy() for name in frame if frame[name].dtype == np.float64}
    times = floats[settings.time_field]
    if not (good := np.isfinite(times) & (times >= 0)).all():
        row = int(good.argmin())
        what = "empty or NaN" if np.isnan(times[row]) else f"{times[row]:g}"
        where = f"{path}:{line_number(path, row)}"
        raise DataError(f"{where}: column '{settings.time_field}' is {what}; a time must be finite and not negative")
    return Interactions(path, users, items, times, floats, user_tokens, item_tokens)


def _codes(path: Path, frame: pd.DataFrame, name: str) -> tuple[Ints, Tokens]:
    codes, found = pd.factorize(frame[name].to_numpy())
    tokens = found.astype(np.str_)
    if (empty := np.flatnonzero(tokens == "")).size:
        row = int((codes == empty[0]).argmax())
        raise DataError(f"{path}:{line_number(path, row)}: column '{name}' is empty; every row needs a token")
    return codes.astype(np.int32), tokens
