"""The bridge to RecBole 1.2.1, and the only room that imports it.

Every call into RecBole runs inside :func:`recbole_environment`, except a sequential model's forward pass, which
touches nothing outside the model. ``recbole.quick_start`` and ray are never imported.
"""

from __future__ import annotations

from gro._recbole.checkpoints import load_checkpoint
from gro._recbole.environment import INSTALL, PACKAGES, missing_packages, recbole_environment, require
from gro._recbole.models import SIDE_INFORMATION, RecBoleRecommender, build, names
from gro._recbole.oracle import dataset, evaluate, evaluate_lists, loaders, train_epoch
from gro._recbole.settings import RecBoleSettings, read_config

__all__ = [
    "INSTALL",
    "PACKAGES",
    "SIDE_INFORMATION",
    "RecBoleRecommender",
    "RecBoleSettings",
    "build",
    "dataset",
    "evaluate",
    "evaluate_lists",
    "load_checkpoint",
    "loaders",
    "missing_packages",
    "names",
    "read_config",
    "recbole_environment",
    "require",
    "train_epoch",
]
