"""The speed that the library promises: both sides of every ratio are measured in the same run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def run(report: Callable[[str, dict[str, Any]], None] = lambda name, measured: None) -> dict[str, Any]:
    """Measure everything; ``report`` receives each line as it is found.

    Returns:
        ``{name: {"ratio": ..., "ours": ..., "theirs": ...}}``; the ratio is a speed-up, for ``protected_step``,
        ``private_pass``, ``protected_training`` and the ``defence_`` lines a price.

    Raises:
        MissingExtraError: RecBole is not installed.
    """
    from gro.bench import defences, recbole, steps, swap, theft  # noqa: PLC0415 -- the guard's bench needs no torch

    lines: dict[str, Callable[[], Any]] = {
        "swap_loss_small": swap.small,
        "swap_loss_large": swap.large,
        "protected_step_time": steps.step_time,
        "protected_step_memory": steps.step_memory,
        "training_pass": recbole.training_pass,
        "theft": theft.calls_per_second,
        "evaluation": recbole.evaluation,
        "private_pass": defences.private_pass,
        "protected_training": defences.protected_training,
        **{f"defence_{name}": partial(defences.answering, name) for name in defences.serving()},
    }
    found: dict[str, Any] = {}
    for name, measure in lines.items():
        found[name] = measure()
        report(name, found[name])
    return found
