"""Recommenders: the four architectures, and how to bring any other."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gro.config import ModelSettings
from gro.errors import ConfigError
from gro.models.adapter import ScoredRecommender, adapt
from gro.models.base import (
    PADDING,
    CausalRecommender,
    Recommender,
    StateRecommender,
    TrainableRecommender,
    padded,
    unpadded,
)
from gro.models.popularity import Popularity
from gro.models.recurrent import NARM, GRU4Rec
from gro.models.transformer import BERT4Rec, SASRec

__all__ = [
    "NARM",
    "PADDING",
    "BERT4Rec",
    "CausalRecommender",
    "GRU4Rec",
    "Popularity",
    "Recommender",
    "SASRec",
    "ScoredRecommender",
    "StateRecommender",
    "TrainableRecommender",
    "adapt",
    "build",
    "padded",
    "unpadded",
]

ARCHITECTURES: dict[str, Callable[[ModelSettings, int], StateRecommender]] = {
    "SASRec": SASRec,
    "GRU4Rec": GRU4Rec,
    "NARM": NARM,
    "BERT4Rec": BERT4Rec,
}


def build(settings: ModelSettings, n_items: int, *, seed: int = 0) -> StateRecommender:
    """Build an untrained model of the named architecture; the same seed gives the same weights.

    Raises:
        ConfigError: the hidden size is not a multiple of the number of heads.
    """
    if settings.hidden_size % settings.n_heads:
        raise ConfigError(f"hidden_size {settings.hidden_size} is not a multiple of n_heads {settings.n_heads}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ARCHITECTURES[settings.model](settings, n_items)
