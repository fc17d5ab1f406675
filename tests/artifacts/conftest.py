from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gro import models
from gro.config import ModelSettings
from gro.models import StateRecommender

N_ITEMS = 12
HISTORIES = torch.tensor([[1, 2, 3, 0, 0], [12, 7, 7, 1, 5]])


@pytest.fixture(scope="session")
def architecture() -> Callable[..., ModelSettings]:
    """Return a function that makes the settings of a tiny model."""

    def architecture(model: str = "SASRec", **changed: Any) -> ModelSettings:
        size = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "max_length": 6}
        return ModelSettings.make({"model": model, **size, **changed})

    return architecture


@pytest.fixture(scope="session")
def parts(architecture: Callable[..., ModelSettings]) -> Callable[..., dict[str, Any]]:
    """Return a function that makes the arguments of ``save`` for a catalogue of 12 items."""

    def parts(seed: int = 0, model: str = "SASRec", **changed: Any) -> dict[str, Any]:
        size = architecture(model)
        return {
            "model": models.build(size, N_ITEMS, seed=seed).eval(),
            "settings": size,
            "item_tokens": np.array(["[PAD]", *(f"é{item}" for item in range(N_ITEMS))]),
            "dataset": {"name": "toy", "digest": "00ff"},
            "seed": seed,
            "command": {"learning_rate": 1e-3, "data_path": None},
            "metrics": {"target": {"hr@10": 0.131, "ndcg@10": 0.062}},
            **changed,
        }

    return parts


@pytest.fixture(scope="session")
def scores() -> Callable[[StateRecommender], Tensor]:
    """Return a function that scores two histories."""

    def scores(model: StateRecommender) -> Tensor:
        with torch.no_grad():
            return model.scores(HISTORIES)

    return scores


@pytest.fixture(scope="session")
def content_of() -> Callable[[Path], dict[str, bytes]]:
    """Return a function that reads every file of a folder."""

    def content_of(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return content_of
