"""What a thief records: the lists that came back, cleaned of what a broken service may have put into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from gro.errors import GroError
from gro.models import PADDING
from gro.models.base import lengths

Target = Callable[[Tensor], Tensor]
"""The service as a thief sees it: right-padded histories ``[B, T]`` in, lists of item ids ``[B, k]`` out."""

GIVE_UP = 20
"""Failures in a row, each of a whole batch of calls, after which a service is taken to be gone."""


@dataclass
class Faults:
    """What was wrong with the answers: numbers of calls, and the first error that the service raised."""

    failed: int = 0
    """Calls that raised an error or returned no table of ids with a row for each history."""
    short: int = 0
    """Lists shorter than the longest one received."""
    repeated: int = 0
    """Lists that named an item twice; its first place counts."""
    outside: int = 0
    """Lists that named an id outside the catalogue; it was left out."""
    error: str = ""

    @property
    def any(self) -> bool:
        """Whether anything was wrong."""
        return bool(self.failed or self.short or self.repeated or self.outside)

    def __add__(self, more: Faults) -> Faults:
        """Return the faults of two questionings; the error is the first one's."""
        counts = {f.name: getattr(self, f.name) + getattr(more, f.name) for f in fields(self) if f.type == "int"}
        return Faults(**counts, error=self.error or more.error)

    def __str__(self) -> str:
        """Say what was wrong in one line."""
        counts = [f"{getattr(self, f.name):,} {f.name}" for f in fields(self) if f.type == "int"]
        return ", ".join(counts) + (f" (first error: {self.error})" if self.error else "")


@dataclass(frozen=True)
class Answers:
    """What a thief recorded: after the items of each history, the list that came back.

    Attributes:
        histories: item ids ``[S, T]``, right-padded.
        lists: item ids ``[S, T, k]``, right-padded, in 2 bytes each where the catalogue allows it; row ``[s, t]``
            answers ``histories[s, : t + 1]`` and is all padding where nothing was asked or nothing came back.
        first: 0-based position ``[S]`` of the item after which the first call was made.
        faults: what was wrong with the answers.
        price: calls that were made for one list.
        taken_back: lists that were bought beside these and not kept.
    """

    histories: Tensor
    lists: Tensor
    first: Tensor
    faults: Faults = field(default_factory=Faults)
    price: int = 1
    taken_back: int = 0

    @property
    def calls(self) -> int:
        """Number of calls made, answered or not."""
        return self.price * (int((lengths(self.histories) - self.first).sum()) + self.taken_back)

    @property
    def answered(self) -> Tensor:
        """Which prefixes a list was received for ``[S, T]``."""
        return self.lists[..., 0] != PADDING

    @property
    def n_sequences(self) -> int:
        """Number of histories that were grown."""
        return len(self.histories)

    def rows(self, index: Tensor) -> Answers:
        """The answers of some histories."""
        return replace(self, histories=self.histories[index], lists=self.lists[index], first=self.first[index])

    def learnable(self) -> Answers:
        """The histories that at least one list was received for."""
        return self.rows(self.answered.any(dim=1).nonzero()[:, 0])


class Caller:
    """A target that never raises what the service raises: it keeps what can be learnt from and counts the rest.

    Attributes:
        n_items: size of the catalogue.
        faults: what was wrong so far.
    """

    def __init__(self, target: Target, n_items: int, faults: Faults | None = None) -> None:
        self.faults = Faults() if faults is None else faults
        self.n_items = n_items
        self._target = target
        self._failures = 0

    @property
    def gone(self) -> bool:
        """Whether the service failed so many times in a row that asking on is pointless."""
        return self._failures >= GIVE_UP

    def __call__(self, histories: Tensor) -> Tensor:
        """Ask, and return lists ``[B, k]`` of distinct ids 1..n_items, right-padded; all padding where that failed."""
        dtype = item_dtype(self.n_items)
        try:
            ids = torch.as_tensor(self._target(histories)).cpu()
            if ids.ndim != 2 or len(ids) != len(histories) or ids.is_floating_point() or not ids.shape[1]:
                raise ValueError(f"{len(histories)} histories were answered by {ids.dtype} {list(ids.shape)}")
        except Exception as error:  # noqa: BLE001  a service may fail in any way; the thief goes on
            self._failures += 1
            self.faults.failed += len(histories)
            self.faults.error = self.faults.error or f"{type(error).__name__}: {' '.join(str(error).split())}"
            return torch.zeros(len(histories), 1, dtype=dtype)
        self._failures = 0
        return _tidy(ids, self.n_items, self.faults).to(dtype)


class UnansweredError(GroError):
    """A service answered nothing."""

    def __init__(self, calls: int, faults: Faults) -> None:
        super().__init__(f"the service answered none of {calls:,} calls; the first error was {faults.error}")
        self.calls = calls
        self.faults = faults


def item_dtype(n_items: int) -> torch.dtype:
    """The smallest integers that hold every id of a catalogue."""
    return torch.int16 if n_items <= torch.iinfo(torch.int16).max else torch.int32


def join(groups: Sequence[Answers], faults: Faults, price: int = 1) -> Answers:
    """Put answers one below the other, padded to the longest history and list; counts the lists that fell short."""
    length = max(group.histories.shape[1] for group in groups)
    k = max(group.lists.shape[2] for group in groups)
    histories = torch.cat([F.pad(g.histories, (0, length - g.histories.shape[1])) for g in groups])
    lists = torch.cat([F.pad(g.lists, (0, k - g.lists.shape[2], 0, length - g.lists.shape[1])) for g in groups])
    faults.short += int(((lists[..., 0] != PADDING) & (lists[..., -1] == PADDING)).sum())
    taken_back = sum(group.taken_back for group in groups)
    return Answers(histories, lists, torch.cat([g.first for g in groups]), faults, price, taken_back)


def compact(lists: Tensor, dropped: Tensor) -> Tensor:
    """Leave out what is ``dropped [B, k]`` of lists ``[B, k]`` and move the rest together, right-padded."""
    return lists.masked_fill(dropped, PADDING).gather(1, dropped.long().argsort(dim=1, stable=True))


def _tidy(ids: Tensor, n_items: int, faults: Faults) -> Tensor:
    """Keep the first mention of every id 1..n_items, moved together: ``[B, k]``, right-padded."""
    outside = (ids < 0) | (ids > n_items)
    ordered = ids.sort(dim=1, stable=True)
    same = ordered.values[:, 1:] == ordered.values[:, :-1]
    repeated = torch.zeros_like(outside).scatter(1, ordered.indices[:, 1:], same) & ~outside & (ids != PADDING)
    faults.outside += int(outside.any(dim=1).sum())
    faults.repeated += int(repeated.any(dim=1).sum())
    dropped = outside | repeated | (ids == PADDING)
    if not dropped.any():
        return ids
    return compact(ids, dropped)
