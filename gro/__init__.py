"""Keep a recommender from being stolen: train it, rob it, protect it, measure what that took and what it cost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gro.api import Run, attack, evaluate, protect, train
    from gro.audit.redteam import redteam
    from gro.models import adapt
    from gro.optimizer.swap import swap_loss

__all__ = ["Run", "adapt", "attack", "evaluate", "protect", "redteam", "swap_loss", "train"]

_HOMES = {"adapt": "gro.models", "redteam": "gro.audit.redteam", "swap_loss": "gro.optimizer.swap"}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: a service that needs no training loads none of it."""
    if name not in __all__:
        raise AttributeError(f"module 'gro' has no attribute '{name}'")
    return getattr(import_module(_HOMES.get(name, "gro.api")), name)
