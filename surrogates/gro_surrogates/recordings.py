"""What a thief keeps of its calls: answers in parts of bounded size, bought once and shared by all that ask alike."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch

from gro.errors import ArtifactError
from gro.training import read_state, write_state
from gro_surrogates.answers import Answers, Faults, UnansweredError, join

logger = logging.getLogger(__name__)

PART = 1_000_000
"""Calls of a part; one part is in memory at a time, at ``2 k`` to ``4 k`` bytes a call."""


ABOUT = "recording.json"


@dataclass(eq=False)
class Recording:
    """Everything one questioning brought, part by part.

    Attributes:
        parts: answers in memory, or what reads them from the disk.
        calls: calls that were made, answered or not.
        faults: what was wrong with the answers.
    """

    parts: Sequence[Callable[[], Answers]]
    calls: int
    faults: Faults
    _latest: tuple[int, Answers] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, parts: Sequence[Answers], faults: Faults) -> Recording:
        """Keep answers in memory."""
        return cls([partial(_same, part) for part in parts], sum(part.calls for part in parts), faults)

    def __len__(self) -> int:
        """Number of parts."""
        return len(self.parts)

    def __getitem__(self, index: int) -> Answers:
        """Return a part; the latest one stays in memory."""
        if self._latest is None or self._latest[0] != index:
            self._latest = (index, self.parts[index]())
        return self._latest[1]

    def __iter__(self) -> Iterator[Answers]:
        """Return the parts in turn."""
        return (self[index] for index in range(len(self)))

    def changed(self, change: Callable[[Answers], Answers]) -> Recording:
        """Return a recording whose parts are changed whenever they are read."""

        def read(place: int) -> Answers:
            return change(self.parts[place]())

        return Recording([partial(read, place) for place in range(len(self))], self.calls, self.faults)

    def __add__(self, more: Recording) -> Recording:
        """Put another questioning behind this one; what fits into a part becomes one."""
        faults = self.faults + more.faults
        if self.calls + more.calls <= PART:
            parts = [*self, *more]
            return Recording.of([join(parts, Faults(), parts[0].price)], faults)
        return Recording([*self.parts, *more.parts], self.calls + more.calls, faults)


def _same(part: Answers) -> Answers:
    return part


def gather(groups: Iterable[Answers], faults: Faults, price: int) -> Iterator[Answers]:
    """Join groups of answers as they come into parts of about :data:`PART` calls."""
    waiting: list[Answers] = []
    for group in groups:
        waiting.append(group)
        if sum(each.calls for each in waiting) * price >= PART:
            yield join(waiting, faults, price)
            waiting = []
    if waiting:
        yield join(waiting, faults, price)


def record(
    buy: Callable[[Faults], Iterator[Answers]], price: int, folder: Path | None = None, described: str = ""
) -> Recording:
    """Buy answers, or read those that were bought before.

    Args:
        buy: asks, noting what goes wrong in the faults that it is given; yields groups of answers.
        price: calls for one list.
        folder: where recordings are kept, each part written as it comes; ``None`` keeps them in memory.
        described: what was asked of whom. Only answers to the very same questions are reused.

    Raises:
        GroError: the service answered nothing.
        ArtifactError: what is kept is damaged, or cannot be written.
    """
    faults = Faults()
    if folder is None:
        parts = list(gather(buy(faults), faults, price))
        recording = Recording.of(parts, faults)
        if not any(bool(part.answered.any()) for part in parts):
            raise UnansweredError(recording.calls, faults)
        return recording
    kept = folder / hashlib.sha256(described.encode()).hexdigest()[:16]
    if kept.exists():
        recording = _read(kept, described)
        logger.info("%s: %s calls were bought before and are reused", kept, f"{recording.calls:,}")
        return recording
    unfinished = kept.with_name(f".{kept.name}.{os.getpid()}.partial")
    try:
        _write(unfinished, gather(buy(faults), faults, price), faults, described)
        unfinished.rename(kept)
    except OSError as error:
        if kept.exists():
            return _read(kept, described)
        raise ArtifactError(f"{kept}: recorded answers cannot be kept: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    recording = _read(kept, described)
    logger.info("%s: %s calls bought, for every thief that asks alike", kept, f"{recording.calls:,}")
    return recording


def _write(folder: Path, parts: Iterable[Answers], faults: Faults, described: str) -> None:
    number = calls = price = 0
    answered = False
    for part in parts:
        tensors = {"histories": part.histories, "lists": part.lists, "first": part.first}
        tensors["taken_back"] = torch.tensor(part.taken_back)
        write_state(folder / _file(number), tensors, {"settings": described})
        number, calls, price = number + 1, calls + part.calls, part.price
        answered = answered or bool(part.answered.any())
    if not answered:
        raise UnansweredError(calls, faults)
    about = {"parts": number, "calls": calls, "price": price, "faults": asdict(faults)}
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")


def _read(folder: Path, described: str) -> Recording:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        files = [folder / _file(number) for number in range(about["parts"])]
        calls, price, faults = int(about["calls"]), int(about["price"]), Faults(**about["faults"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}: damaged recorded answers ({error}); delete it to buy them again") from None

    def read(file: Path) -> Answers:
        tensors = read_state(file, described)[1]
        kept = tensors["histories"], tensors["lists"], tensors["first"]
        return Answers(*kept, price=price, taken_back=int(tensors["taken_back"]))

    return Recording([partial(read, file) for file in files], calls, faults)


def _file(number: int) -> str:
    return f"{number:06}.safetensors"
