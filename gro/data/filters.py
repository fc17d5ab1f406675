"""RecBole's filters: repeated pairs, values, then users and items by their number of interactions.

Same meaning and same order as ``recbole.data.dataset.Dataset._data_filtering``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gro.config import DataSettings
from gro.data.atomic import Interactions, line_number
from gro.errors import DataError, nearest

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Interval:
    """One interval of numbers, open or closed at either end."""

    low: float
    high: float
    closed_low: bool
    closed_high: bool

    def holds(self, values: npt.NDArray[Any]) -> Mask:
        """Tell for every value whether it lies inside; NaN never does."""
        above = values >= self.low if self.closed_low else values > self.low
        return np.asarray(above & (values <= self.high if self.closed_high else values < self.high))


def parse_intervals(text: str, key: str) -> list[Interval]:
    """Parse RecBole's interval grammar, e.g. ``"[5,inf)"`` or ``"(0,1];[3,4)"`` (a union).

    Args:
        text: the intervals.
        key: the setting they come from, for the error.

    Raises:
        DataError: ``text`` is malformed.
    """
    return [_parse_interval(part.strip(), text, key) for part in text.split(";")]


def _parse_interval(part: str, text: str, key: str) -> Interval:
    try:
        if part[0] not in "[(" or part[-1] not in "])":
            raise ValueError
        low, high = (float(end) for end in part[1:-1].split(","))
        if not low <= high:
            raise ValueError
    except (ValueError, IndexError):
        raise DataError(f"{key} is {text!r}: '{part}' is not an interval such as '[5,inf)' or '(0,1];[3,4)'") from None
    return Interval(low, high, part[0] == "[", part[-1] == "]")


def within(values: npt.NDArray[Any], intervals: list[Interval]) -> Mask:
    """Tell for every value whether it lies in at least one of the intervals."""
    return np.asarray(np.logical_or.reduce([interval.holds(values) for interval in intervals]))


def apply_filters(rows: Interactions, settings: DataSettings) -> Interactions:
    """Apply the settings' filters in RecBole's order.

    Raises:
        DataError: identical rows without ``rm_dup_inter``, a malformed interval, an interval on a column that the file
            lacks, or nothing left.
    """
    rows = _drop_repeated(rows, settings)
    for name, text in settings.val_interval.items():
        rows = rows.take(within(_column(rows, name), parse_intervals(text, f"val_interval.{name}")))
    rows = _by_number(rows, settings)
    if not len(rows):
        raise DataError(f"{rows.path}: no user is left after filtering; widen {_used(settings)}")
    return rows


def _drop_repeated(rows: Interactions, settings: DataSettings) -> Interactions:
    keep = settings.rm_dup_inter
    if keep is None:
        _refuse_identical(rows)
    if keep is None or keep == "keep":
        return rows
    # RecBole sorts with the unstable default, and so numbers tied rows' items in that order.
    rows = rows.take(np.argsort(rows.times, kind="quicksort" if settings.time_order == "recbole" else "stable"))
    return rows.take(~_pairs(rows).duplicated(keep=keep).to_numpy())


def _pairs(rows: Interactions) -> pd.Series[int]:
    return pd.Series(rows.users.astype(np.int64) * len(rows.item_tokens) + rows.items)


def _refuse_identical(rows: Interactions) -> None:
    pairs = _pairs(rows)
    if not pairs.duplicated().any():
        return
    frame = pd.DataFrame({"pair": pairs, "time": rows.times})
    if not (again := frame.duplicated().to_numpy()).any():
        return
    second = int(again.argmax())
    first = int((frame == frame.iloc[second]).all(axis=1).to_numpy().argmax())
    lines = f"{rows.path}:{line_number(rows.path, second)}: same user, item and time as line"
    raise DataError(f'{lines} {line_number(rows.path, first)}; set rm_dup_inter = "first" (or "last", "keep")')


def _column(rows: Interactions, name: str) -> npt.NDArray[np.float64]:
    if name not in rows.floats:
        has = f"val_interval needs a float column, and {rows.path} has {', '.join(rows.floats)}"
        raise DataError(f"val_interval.{name}: {has}.{nearest(name, rows.floats)}")
    return rows.floats[name]


def _by_number(rows: Interactions, settings: DataSettings) -> Interactions:
    """Drop users and items outside their intervals, both at once, until none is (k-core)."""
    users, items = (
        parse_intervals(text, key) if (text := getattr(settings, key)) is not None else None
        for key in ("user_inter_num_interval", "item_inter_num_interval")
    )
    while True:
        keep = _common(rows.users, users) & _common(rows.items, items)
        if keep.all():
            return rows
        rows = rows.take(keep)


def _common(ids: npt.NDArray[np.int32], intervals: list[Interval] | None) -> Mask:
    if intervals is None or not len(ids):
        return np.ones(len(ids), dtype=np.bool_)
    return np.asarray(within(np.bincount(ids), intervals)[ids])


def _used(settings: DataSettings) -> str:
    keys = ("val_interval", "user_inter_num_interval", "item_inter_num_interval")
    return ", ".join(f"{key} = {value!r}" for key in keys if (value := getattr(settings, key)))
