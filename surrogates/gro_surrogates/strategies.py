"""How a thief asks: where its histories start and how they go on.

A strategy serves one theft and may remember what it saw. To bring your own, such as an agent that a language model
drives, write a class with ``start``, ``pick`` and ``together`` and give an instance to
:class:`gro_surrogates.thief.Thief` as ``strategy``; :class:`Agent` shows one that needs no language model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from gro.models import PADDING, padded
from gro.models.base import lengths


class Strategy(Protocol):
    """Chooses what to send."""

    together: int
    """Histories grown together at most."""

    def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
        """Begin up to ``size`` histories: ids ``[B, p]`` without padding, ``B <= size``; the first call follows."""
        ...

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Choose the next item ``[B]`` of histories ``[B, t]`` from the lists ``[B, k]`` that just answered them.

        Lists are right-padded; one that did not come is all padding.
        """
        ...


class Random:
    """Uniformly random histories."""

    together = 512

    def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
        """Start with any item of the catalogue."""
        return _anything(size, n_items, generator)[:, None]

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Go on with any item of the catalogue."""
        return _anything(len(lists), n_items, generator)


class Autoregressive(Random):
    """Goes on with an item drawn uniformly from the list just received (Yue et al., RecSys 2021)."""

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Draw a place of the list."""
        listed = (lists != PADDING).sum(dim=1)
        place = torch.randint(lists.shape[1], (len(lists),), generator=generator) % listed.clamp(min=1)
        chosen = lists.gather(1, place[:, None])[:, 0].long()
        return chosen if listed.all() else torch.where(listed > 0, chosen, _anything(len(lists), n_items, generator))


class RankBiased(Random):
    """Draws like a person, mostly from the top: place ``i`` with a probability that falls with ``i ** -exponent``."""

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Draw a place of the list, the top ones more often."""
        weights = torch.arange(1.0, lists.shape[1] + 1) ** -self.exponent
        return _weighted(lists, weights.expand(lists.shape), n_items, generator)


class Coverage(Autoregressive):
    """Sends every item once, those in the lists first, then goes on autoregressively."""

    together = 64

    def __init__(self) -> None:
        self._sent: Tensor | None = None

    def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
        """Start with items that were not sent yet, then with any."""
        sent = self._memory(n_items)
        fresh = (~sent[1:]).nonzero()[:, 0] + 1
        chosen = _anything(size, n_items, generator)
        new = fresh[torch.randperm(len(fresh), generator=generator)[:size]]
        chosen[: len(new)] = new
        sent[chosen] = True
        return chosen[:, None]

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Draw from what was not sent yet: of the list, then of the catalogue; after that from the list."""
        sent = self._memory(n_items)
        listed = _weighted(lists, (~sent[lists.long()]).float(), n_items, generator, otherwise=PADDING)
        fresh = (~sent[1:]).nonzero()[:, 0] + 1
        chosen = super().pick(histories, lists, n_items, generator)
        if len(fresh):
            chosen = fresh[torch.randint(len(fresh), (len(lists),), generator=generator)]
        chosen = torch.where(listed != PADDING, listed, chosen)
        sent[chosen] = True
        return chosen

    def _memory(self, n_items: int) -> Tensor:
        if self._sent is None:
            self._sent = torch.zeros(n_items + 1, dtype=torch.bool)
            self._sent[PADDING] = True
        return self._sent


class Agent(Random):
    """Imitates an agent with a memory of what it likes, as LLM4MEA's (arXiv 2507.16969), without a language model.

    It reads each list as a shuffled set. What it was shown again and again along its history has become its taste: it
    takes a new item of the list with a probability that grows with the square of how present that item is in memory.
    """

    fading: ClassVar[float] = 0.9

    def __init__(self) -> None:
        self._shown = torch.empty(0)

    def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
        """Start anywhere, with an empty memory."""
        self._shown = torch.zeros(size, n_items + 1)
        return super().start(size, n_items, generator)

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Remember the list, then choose from it by taste."""
        self._shown.mul_(self.fading).scatter_add_(1, lists.long(), torch.ones(lists.shape))
        taste = self._shown.scatter(1, histories, 0.0).gather(1, lists.long()).square()
        return _weighted(lists, taste, n_items, generator)


class Mimic(Random):
    """Imitates people: mostly takes from the list, by rank, else what is popular, and never the same item twice.

    How popular items are it reads off the lists, where popular ones stand more often.

    Args:
        exponent: how steeply the choice falls with the place in the list.
        listed: share of the items that are taken from the list.
    """

    def __init__(self, exponent: float = 0.5, listed: float = 0.6) -> None:
        self._exponent, self._listed = exponent, listed
        self._seen = torch.empty(0)

    def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
        """Start with what is popular, as far as that is known."""
        if not len(self._seen):
            self._seen = torch.ones(n_items + 1)
            self._seen[PADDING] = 0
        return torch.multinomial(self._seen, size, True, generator=generator)[:, None]

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Note what is listed; choose from the list or beside it."""
        self._seen += lists.flatten().bincount(minlength=n_items + 1)
        self._seen[PADDING] = 0
        new = ~(lists[:, :, None] == histories[:, None, :]).any(dim=2)
        weights = new * torch.arange(1.0, lists.shape[1] + 1) ** -self._exponent
        popular = self._seen.expand(len(histories), -1).scatter(1, histories, 0.0)
        popular = torch.where(popular.any(dim=1, keepdim=True), popular, self._seen)
        beside = torch.multinomial(popular, 1, generator=generator)[:, 0]
        taken = _weighted(lists, weights, n_items, generator, otherwise=PADDING)
        listed = (taken != PADDING) & (torch.rand(len(histories), generator=generator) < self._listed)
        return torch.where(listed, taken, beside)


class Replay:
    """Sends real histories that the thief holds, then begins with parts of them and lets ``extend`` go on.

    The few-shot thief of Zhang & Liu (arXiv 2411.11677). Every history is replayed once, item by item; after that
    histories begin with the first ``p`` items of real ones, which cost one call, ``p`` drawn for each batch.

    Args:
        held: real histories ``[H, L]``, right-padded, ``L`` at most the length of a history that is sent.
        extend: chooses the items that come after the real ones.
    """

    together = 64

    def __init__(self, held: Tensor, extend: Strategy) -> None:
        self._held, self._extend = held, extend
        self._replayed = 0
        self._following: Tensor | None = None

    def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
        """Start with the first item of histories that were not replayed yet, then with parts of any."""
        if self._replayed < len(self._held):
            self._following = self._held[self._replayed : self._replayed + size]
            self._replayed += len(self._following)
            return self._following[:, :1]
        self._following = None
        length = lengths(self._held)
        longest = int(length[torch.randint(len(length), (1,), generator=generator)])
        part = int(torch.randint(1, longest + 1, (1,), generator=generator))
        enough = self._held[length >= part, :part]
        return enough[torch.randint(len(enough), (size,), generator=generator)]

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Go on with the real history while there is one."""
        chosen = self._extend.pick(histories, lists, n_items, generator)
        real = self._real(histories.shape[1])
        return chosen if real is None else torch.where(real != PADDING, real, chosen)

    def _real(self, position: int) -> Tensor | None:
        if self._following is None or position >= self._following.shape[1]:
            return None
        return self._following[:, position]


class FittedReplay(Replay):
    """Replays real histories and learns from them how people choose: at which places of the lists their next items are.

    It goes on with places drawn from that histogram, in which every place starts with a weight of one in all.
    """

    def __init__(self, held: Tensor) -> None:
        super().__init__(held, Random())
        self._places = torch.empty(0)

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Note the place of the real next item; where there is none, draw a place."""
        k = lists.shape[1]
        if len(self._places) < k:
            self._places = torch.cat([self._places, torch.zeros(k - len(self._places))])
        chosen = _weighted(lists, (self._places[:k] + 1 / k).expand(lists.shape), n_items, generator)
        real = self._real(histories.shape[1])
        if real is None:
            return chosen
        hits = (lists == real[:, None]) & (real != PADDING)[:, None]
        self._places[:k] += hits.sum(dim=0)
        return torch.where(real != PADDING, real, chosen)


class Splice(Replay):
    """Replays real histories, then joins parts of two: all that a judge of histories reads in them was done by people.

    Each goes on with what another's history has from some place on, without what it has already.
    """

    def __init__(self, held: Tensor) -> None:
        super().__init__(held, Autoregressive())

    def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
        """Start as a replay does, with another end in mind."""
        begun = super().start(size, n_items, generator)
        if self._following is None:
            others = self._held[torch.randint(len(self._held), (len(begun),), generator=generator)]
            self._following = padded([self._joined(*pair, generator) for pair in zip(begun, others, strict=True)])
        return begun

    @staticmethod
    def _joined(begun: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
        begins = int(torch.randint(int((other != PADDING).sum()), (1,), generator=generator))
        rest = other[begins:]
        return torch.cat([begun, rest[(rest != PADDING) & ~torch.isin(rest, begun)]])


class Mix:
    """Takes turns: every batch of histories is another strategy's."""

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        self.together = 64
        self._strategies = strategies
        self._turn = -1

    def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
        """Let the next strategy start."""
        self._turn = (self._turn + 1) % len(self._strategies)
        return self._strategies[self._turn].start(size, n_items, generator)

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Let the strategy that started go on."""
        return self._strategies[self._turn].pick(histories, lists, n_items, generator)


DATA_FREE: dict[str, Callable[[float], Strategy]] = {
    "random": lambda exponent: Random(),
    "autoregressive": lambda exponent: Autoregressive(),
    "rank-biased": RankBiased,
    "coverage": lambda exponent: Coverage(),
    "agent": lambda exponent: Agent(),
    "mimic": lambda exponent: Mimic(),
    "mix": lambda exponent: Mix([Autoregressive(), Random(), RankBiased(exponent), Coverage(), Agent()]),
}
"""Strategies that need nothing but the catalogue's size, from the exponent of rank bias."""

DATA_LIMITED: dict[str, Callable[[Tensor], Strategy]] = {
    "replay": lambda held: Replay(held, Autoregressive()),
    "replay-fitted": FittedReplay,
    "splice": Splice,
}
"""Strategies that begin with real histories."""


def _anything(size: int, n_items: int, generator: torch.Generator) -> Tensor:
    return torch.randint(1, n_items + 1, (size,), generator=generator)


def _weighted(
    lists: Tensor, weights: Tensor, n_items: int, generator: torch.Generator, otherwise: int | None = None
) -> Tensor:
    """Draw an item of each list by ``weights [B, k]``; where none has weight, ``otherwise`` or any item at all."""
    weights = weights * (lists != PADDING)
    possible = weights.sum(dim=1) > 0
    place = torch.multinomial(torch.where(possible[:, None], weights, 1.0), 1, generator=generator)
    chosen = lists.gather(1, place)[:, 0].long()
    if possible.all():
        return chosen
    instead = _anything(len(lists), n_items, generator) if otherwise is None else torch.full_like(chosen, otherwise)
    return torch.where(possible, chosen, instead)
