"""How a thief spends its budget: histories that grow item by item, one call each.

The target is a callable ``histories [B, T] -> lists [B, k]``; nothing else of it is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from gro_surrogates.answers import Answers, Caller, Target, UnansweredError, join
from gro_surrogates.backtracking import Backtracking
from gro_surrogates.strategies import Strategy
from gro_surrogates.tricks import Fused


def ask(
    target: Target,
    strategy: Strategy,
    n_items: int,
    calls: int,
    length: int,
    *,
    generator: torch.Generator,
    repeats: int = 1,
    neighbours: int = 0,
    backtracking: Backtracking | None = None,
    report: Callable[[float], None] = lambda fraction: None,
) -> Answers:
    """Spend ``calls`` on histories of ``length`` items (the last one may be shorter).

    Histories of a batch grow together, each by one item a call, so that a service which remembers prefixes answers a
    whole history at about the price of one pass. What the service gets wrong is left out and counted; a call that fails
    is paid for like any other.

    Args:
        target: the service.
        strategy: where histories start and how they go on.
        n_items: size of the catalogue.
        calls: budget.
        length: items of a finished history.
        generator: source of all choices.
        repeats: calls with the same history whose lists are fused.
        neighbours: further calls with the history less one item; what does not pay for a whole fused list is not spent.
        backtracking: takes items back; unset keeps whatever comes.
        report: receives the fraction of the budget that is spent.

    Raises:
        GroError: the service answered nothing.
    """
    caller = Caller(target, n_items)
    fused = Fused(caller, repeats, neighbours, generator)
    groups = list(grow(fused, strategy, n_items, calls, length, generator, report, backtracking))
    answers = join(groups, caller.faults, fused.price)
    if not answers.answered.any():
        raise UnansweredError(answers.calls, answers.faults)
    return answers


def grow(
    fused: Fused,
    strategy: Strategy,
    n_items: int,
    calls: int,
    length: int,
    generator: torch.Generator,
    report: Callable[[float], None],
    backtracking: Backtracking | None = None,
) -> Iterator[Answers]:
    """Yield the answers to each batch of histories as it is finished; arguments as in :func:`ask`."""
    lists, spent = calls // fused.price, 0
    each = length * (1 + backtracking.tries if backtracking else 1)
    while spent < lists and not fused.caller.gone:
        left = lists - spent
        begun = strategy.start(min(strategy.together, max(1, left // each)), n_items, generator)
        known = begun.shape[1]
        steps = max(1, min(length - known + 1, left))
        spare = left - steps * len(begun)
        group = _grow(fused, strategy, n_items, begun, steps, generator, backtracking, spare)
        yield group
        spent += group.calls
        report(spent / lists)


def _grow(
    ask_once: Fused,
    strategy: Strategy,
    n_items: int,
    begun: Tensor,
    steps: int,
    generator: torch.Generator,
    backtracking: Backtracking | None,
    spare: int,
) -> Answers:
    """Ask after histories ``[B, p]`` and each item they grow by: ``steps`` calls each, fewer if the service goes.

    With ``backtracking`` there are up to ``spare`` further calls, and no more where none is told what is meant for him.
    """
    histories, lists, taken_back = begun, [ask_once(begun)], 0
    if backtracking is not None:
        backtracking.begin(lists[0])

    def another() -> Tensor:
        return strategy.pick(histories, lists[-1], n_items, generator)

    while len(lists) < steps and not ask_once.caller.gone:
        grown = torch.cat([histories, another()[:, None]], dim=1)
        answered = ask_once(grown)
        if backtracking is not None:
            grown, answered, whose, more = backtracking(grown, answered, another, ask_once, spare - taken_back)
            lists, taken_back = [each[whose] for each in lists], taken_back + more
        histories = grown
        lists.append(answered)
        if backtracking is not None and not answered.any():
            break
    first = begun.shape[1] - 1
    k = max(answer.shape[1] for answer in lists)
    received = torch.stack([F.pad(answer, (0, k - answer.shape[1])) for answer in lists], dim=1)
    answers = F.pad(received, (0, 0, first, 0))
    return Answers(histories, answers, torch.full((len(begun),), first), taken_back=taken_back)
