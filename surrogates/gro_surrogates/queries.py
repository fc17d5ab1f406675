"""How a thief asks: histories that grow item by item, one call each.

The target is a callable ``histories [B, T] -> lists [B, k]``; nothing else of it is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Target = Callable[[Tensor], Tensor]
"""The service as a thief sees it: right-padded histories ``[B, T]`` in, lists of item ids ``[B, k]`` out."""

Picker = Callable[[Tensor, int, torch.Generator], Tensor]
"""Chooses the next item ``[B]`` of histories from the lists ``[B, k]`` just received and the catalogue's size."""


@dataclass(frozen=True)
class Answers:
    """What a thief recorded: after each item of each history, the list that came back.

    Attributes:
        histories: item ids ``[S, T]``, right-padded.
        lists: int32 item ids ``[S, T, k]``; row ``[s, t]`` answers ``histories[s, : t + 1]``.
    """

    histories: Tensor
    lists: Tensor

    @property
    def calls(self) -> int:
        """Number of calls made: one per history prefix."""
        return int((self.histories != 0).sum())

    @property
    def n_sequences(self) -> int:
        """Number of histories that were grown."""
        return len(self.histories)

    def rows(self, index: Tensor) -> Answers:
        """The answers of some histories."""
        return Answers(self.histories[index], self.lists[index])


def autoregressive(lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
    """Draw the next item uniformly from the list just received (Yue et al., RecSys 2021)."""
    chosen = torch.randint(lists.shape[1], (len(lists), 1), generator=generator)
    return lists.gather(1, chosen.to(lists.device))[:, 0]


def random(lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
    """Draw the next item uniformly from the catalogue."""
    return torch.randint(1, n_items + 1, (len(lists),), generator=generator).to(lists.device)


PICKERS: dict[str, Picker] = {"autoregressive": autoregressive, "random": random}


def ask(
    target: Target,
    pick: Picker,
    n_items: int,
    calls: int,
    length: int,
    *,
    generator: torch.Generator,
    batch_size: int = 512,
    report: Callable[[float], None] = lambda fraction: None,
) -> Answers:
    """Spend exactly ``calls`` on histories of ``length`` items (the last one may be shorter).

    Every history starts with a uniformly drawn item. Histories of a batch grow together, each by one item a call, so
    that a service which remembers prefixes answers a whole history at about the price of one pass.

    Args:
        target: the service.
        pick: the rule that continues a history.
        n_items: size of the catalogue.
        calls: budget.
        length: calls per history.
        generator: source of all choices.
        batch_size: histories grown together.
        report: receives the fraction of the budget that is spent.
    """
    full, rest = divmod(calls, length)
    sizes = [(min(batch_size, full - start), length) for start in range(0, full, batch_size)]
    groups: list[Answers] = []
    for size, steps in [*sizes, *([(1, rest)] if rest else [])]:
        groups.append(_grow(target, pick, n_items, size, steps, generator))
        report(sum(group.calls for group in groups) / calls)
    return _join(groups)


def _grow(target: Target, pick: Picker, n_items: int, size: int, steps: int, generator: torch.Generator) -> Answers:
    histories = torch.zeros(size, steps, dtype=torch.int64)
    histories[:, 0] = torch.randint(1, n_items + 1, (size,), generator=generator)
    lists = []
    for t in range(steps):
        answer = target(histories[:, : t + 1]).cpu()
        lists.append(answer.to(torch.int32))
        if t + 1 < steps:
            histories[:, t + 1] = pick(answer, n_items, generator)
    return Answers(histories, torch.stack(lists, dim=1))


def _join(groups: list[Answers]) -> Answers:
    width = max(group.histories.shape[1] for group in groups)
    histories = [torch.nn.functional.pad(g.histories, (0, width - g.histories.shape[1])) for g in groups]
    lists = [torch.nn.functional.pad(g.lists, (0, 0, 0, width - g.lists.shape[1])) for g in groups]
    return Answers(torch.cat(histories), torch.cat(lists))
