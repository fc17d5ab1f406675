"""How a thief undoes what a service takes amiss, where its lists tell him that it does.

A defence that answers histories which nobody has by lists that others get too says so by them; one that tells other
items in place of those it means leaves out what was asked, where true lists have it; and one that speaks of another
catalogue is found out once it tells the truth, which is nothing like it. Who knows that takes his last item back and
tries another, until what he is told is meant for him.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from gro.metrics import agreement
from gro.models import PADDING
from gro_surrogates.settings import Sign

TOP: Final = 20
"""First items of a list by which it is known again."""
COMMON: Final = 0.75
"""Part of them that a list known before must have."""
NEW: Final = 0.2
"""Part of them that lists have in common at most where one turns away from the other."""
MOST: Final = 512
"""Lists that are remembered, at most."""


class _Sign:
    """Tells lists that are not meant for who gets them: none, as long as it is not said which."""

    def begin(self, lists: Tensor) -> None:
        """Take in the first lists of a batch of histories ``[B, k]``."""

    def learn(self, lists: Tensor) -> None:
        """Take in what beginners are told ``[B, k]``."""

    def amiss(self, histories: Tensor, lists: Tensor, rows: Tensor) -> Tensor:
        """Which lists ``[R, k]``, answers to histories ``[R, t]`` in these rows of the batch ``[R]``, are such ones."""
        return torch.zeros(len(lists), dtype=torch.bool)

    def follow(self) -> None:
        """Go on with histories whose last lists were none of them."""


class Canned(_Sign):
    """Lists that more than one history was answered by, whatever was left out of them.

    Args:
        n_items: size of the catalogue.
    """

    def __init__(self, n_items: int) -> None:
        self._place = torch.empty(0, n_items + 1, dtype=torch.long)
        self._met = torch.empty(0, dtype=torch.long)

    def learn(self, lists: Tensor) -> None:
        """Remember lists ``[B, k]``, right-padded, and how often each was met."""
        for each in lists.long():
            same = self._same(each[None])[0]
            if same.any():
                self._met[same.nonzero()[0, 0]] += 1
            elif each[0] != PADDING and len(self._met) < MOST:
                place = torch.full((1, self._place.shape[1]), -1).scatter(1, each[None], torch.arange(len(each))[None])
                place[:, PADDING] = -1
                self._place = torch.cat([self._place, place])
                self._met = torch.cat([self._met, torch.ones(1, dtype=torch.long)])

    def amiss(self, histories: Tensor, lists: Tensor, rows: Tensor) -> Tensor:
        """Which of the lists are among them."""
        return self._same(lists)[:, self._met > 1].any(dim=1)

    def _same(self, lists: Tensor) -> Tensor:
        """Which first items of lists ``[B, k]`` stand as in those that were met ``[B, C]``."""
        first = lists[:, :TOP].long()
        place = self._place[:, first].transpose(0, 1)
        there = place >= 0
        ordered = (~there | (place >= place.cummax(dim=2).values)).all(dim=2)
        return ordered & (there.sum(dim=2) >= COMMON * (first != PADDING).sum(dim=1).clamp(min=1)[:, None])


class Missing(_Sign):
    """Lists that lack the item that was asked last."""

    def amiss(self, histories: Tensor, lists: Tensor, rows: Tensor) -> Tensor:
        """Which of the lists lack it."""
        return ~(lists == histories[:, -1:]).any(dim=1)


class Steady(_Sign):
    """Lists that are like the one before, where none of a history that is gone on with was unlike it."""

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def begin(self, lists: Tensor) -> None:
        """The next ones are held against these."""
        self._last = lists

    def learn(self, lists: Tensor) -> None:
        """What turns while all begin does not count."""
        self._last = lists

    def amiss(self, histories: Tensor, lists: Tensor, rows: Tensor) -> Tensor:
        """Which of the lists go on as before; none, once they have turned."""
        if self._last is None:
            return super().amiss(histories, lists, rows)
        last = self._last[rows]
        common = agreement(lists.numpy(), last.numpy(), min(TOP, lists.shape[1], last.shape[1]))
        return torch.from_numpy(common) > NEW

    def follow(self) -> None:
        """They have turned in all histories."""
        self._last = None


class Backtracking:
    """Takes back the last items of histories that were answered by a list that is not their own, and tries others.

    Args:
        tries: times that an item is taken back, before the history is given up for a copy of one that fares better.
        sign: of such a list: ``canned``, beginners get it too; ``missing``, the item that was asked last is not in it;
            ``steady``, it is like the one before, and no list of that history was otherwise.
        beginner: items of the longest history of which any list is taken as it is.
        n_items: size of the catalogue.
        generator: draws the histories that are gone on with.
    """

    def __init__(self, tries: int, sign: Sign, beginner: int, n_items: int, generator: torch.Generator) -> None:
        self.tries, self._beginner, self._generator = tries, beginner, generator
        signs: dict[Sign, Callable[[], _Sign]]
        signs = {"canned": partial(Canned, n_items), "missing": Missing, "steady": Steady}
        self._sign = signs[sign]()

    def begin(self, lists: Tensor) -> None:
        """Begin a batch of histories, which were answered by ``lists [B, k]``."""
        self._sign.begin(lists)

    def __call__(
        self,
        histories: Tensor,
        lists: Tensor,
        another: Callable[[], Tensor],
        ask: Callable[[Tensor], Tensor],
        spare: int,
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Mend histories ``[B, t]`` that were answered by ``lists [B, k]``.

        Args:
            histories: what was asked.
            lists: what came back.
            another: chooses other last items ``[B]``.
            ask: asks the service.
            spare: calls that may be made.

        Returns:
            The histories, their lists (all padding where they are not their own), whose histories they go on ``[B]``,
            and the calls that were made.
        """
        whose, calls = torch.arange(len(histories)), 0
        if histories.shape[1] <= self._beginner:
            self._sign.learn(lists)
            return histories, lists, whose, calls
        histories, wrong = histories.clone(), self._sign.amiss(histories, lists, whose)
        for _ in range(self.tries):
            rows = wrong.nonzero()[:, 0]
            if not len(rows) or calls + len(rows) > spare:
                break
            histories[rows, -1] = another()[rows]
            got, calls = ask(histories[rows]), calls + len(rows)
            width = max(got.shape[1], lists.shape[1])
            lists = F.pad(lists, (0, width - lists.shape[1]))
            lists[rows] = F.pad(got, (0, width - got.shape[1]))
            wrong[rows] = self._sign.amiss(histories[rows], got, rows)
        fine = (~wrong).nonzero()[:, 0]
        if len(fine):
            drawn = torch.randint(len(fine), (int(wrong.sum()),), generator=self._generator)
            whose[wrong] = fine[drawn]
            self._sign.follow()
            return histories[whose], lists[whose], whose, calls
        return histories, torch.zeros_like(lists), whose, calls
