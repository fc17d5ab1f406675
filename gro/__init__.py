"""Keep a recommender from being stolen: train it, rob it, protect it, measure what that took and what it cost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gro.api import evaluate, protect, train
    from gro.audit.ratelimit import ratelimit
    from gro.audit.redteam import redteam
    from gro.experiments.frontier import frontier
    from gro.models import adapt
    from gro.optimizer.swap import swap_loss
    from gro.runs import Run
    from gro.theft import attack

_HOMES = {
    "Run": "gro.runs",
    "adapt": "gro.models",
    "attack": "gro.theft",
    "evaluate": "gro.api",
    "frontier": "gro.experiments.frontier",
    "protect": "gro.api",
    "ratelimit": "gro.audit.ratelimit",
    "redteam": "gro.audit.redteam",
    "swap_loss": "gro.optimizer.swap",
    "train": "gro.api",
}
__all__ = [
    "Run",
    "adapt",
    "attack",
    "evaluate",
    "frontier",
    "protect",
    "ratelimit",
    "redteam",
    "swap_loss",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: a service that needs no training loads none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gro' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
