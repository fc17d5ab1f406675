"""RecBole's own data pipeline, trainer and evaluator: what tests and benchmarks compare ours with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gro._recbole.environment import kept, recbole_environment, require
from gro._recbole.models import RecBoleRecommender, configure
from gro.config import DataSettings
from gro.data import find

_EVALUATION = {
    "eval_args": {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": {"valid": "full", "test": "full"},
    },
    "metrics": ["Hit", "NDCG"],
    "topk": [1, 5, 10, 20],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 12,
    "checkpoint_dir": os.devnull,
    "show_progress": False,
}
"""Leave-one-out by time, full ranking; no folder for checkpoints, since RecBole unpickles what it finds there."""


def dataset(settings: DataSettings, max_length: int = 50, *, model: str = "SASRec") -> Any:
    """RecBole's ``SequentialDataset`` of the settings, filtered and remapped, before the split.

    Args:
        settings: which interactions; ``time_order`` is RecBole's whatever they say.
        max_length: items of the longest history.
        model: RecBole model whose training rows the loaders will make (BERT4Rec's are masked).

    Raises:
        DataError: the dataset is unknown, missing or cannot be downloaded.
        MissingExtraError: RecBole is not installed.
    """
    folder = str(find(settings).path.parent)
    with recbole_environment():
        values = {**_EVALUATION, **_values(settings, max_length), "data_path": folder}
        config = configure(model, values, dataset=settings.dataset)
        return require("recbole.data.dataset").SequentialDataset(config)


def loaders(source: Any, batch_size: int = 2048, eval_batch_size: int = 4096) -> tuple[Any, Any, Any]:
    """RecBole's loaders of the training rows (one per prefix), the validation and the test items of a :func:`dataset`.

    A dataset can be split once: RecBole changes it in place.
    """
    source.config["train_batch_size"], source.config["eval_batch_size"] = batch_size, eval_batch_size
    with recbole_environment():
        train, valid, test = require("recbole.data").data_preparation(source.config, source)
    return train, valid, test


def train_epoch(recommender: RecBoleRecommender, loader: Any, *, learning_rate: float = 1e-3, seed: int = 0) -> float:
    """Run one pass of RecBole's trainer, with a new Adam, over the training rows; return its summed batch loss.

    The loader's dataset must be made for the recommender's model and have the fields ``user_id`` and ``item_id``.
    """
    recommender.config["learning_rate"] = learning_rate
    with recbole_environment(), _trainer(recommender) as trainer:
        torch.manual_seed(seed)
        return float(trainer._train_epoch(loader, 0))  # noqa: SLF001


def evaluate(recommender: RecBoleRecommender, loader: Any) -> dict[str, float]:
    """HR and NDCG at 1, 5, 10 and 20 by RecBole's full-sort evaluator, e.g. ``{"hr@10": 0.13, ...}`` (fractions)."""
    with recbole_environment(), _trainer(recommender) as trainer:
        return _ours(trainer.evaluate(loader, load_best_model=False))


def evaluate_lists(lists: Tensor, targets: Tensor, cutoffs: Sequence[int] = (1, 5, 10, 20)) -> dict[str, float]:
    """HR and NDCG of ranked lists ``[B, k]`` against one next item each ``[B]``, by RecBole's metrics."""
    with recbole_environment():
        evaluator = require("recbole.evaluator")
        config = configure("SASRec", {**_EVALUATION, "topk": list(cutoffs)})
        found = evaluator.DataStruct()
        hits = lists == targets[:, None]
        found.set("rec.topk", torch.cat([hits, torch.ones(len(lists), 1)], dim=1).int())
        return _ours(evaluator.Evaluator(config).evaluate(found))


def _values(settings: DataSettings, max_length: int) -> dict[str, Any]:
    fields = (settings.user_id_field, settings.item_id_field, settings.time_field)
    return {
        "USER_ID_FIELD": settings.user_id_field,
        "ITEM_ID_FIELD": settings.item_id_field,
        "TIME_FIELD": settings.time_field,
        "field_separator": settings.field_separator,
        "load_col": {"inter": list(dict.fromkeys([*fields, *settings.val_interval]))},
        "user_inter_num_interval": settings.user_inter_num_interval,
        "item_inter_num_interval": settings.item_inter_num_interval,
        "val_interval": dict(settings.val_interval) or None,
        "rm_dup_inter": settings.rm_dup_inter if settings.rm_dup_inter != "keep" else None,
        "MAX_ITEM_LIST_LENGTH": max_length,
    }


@contextmanager
def _trainer(recommender: RecBoleRecommender) -> Iterator[Any]:
    trainers: Any = require("recbole.trainer.trainer")
    for key, value in _EVALUATION.items():
        recommender.config[key] = value
    recommender.config["device"] = next(recommender.parameters()).device
    with kept(trainers, "get_tensorboard"):
        trainers.get_tensorboard = lambda _: None
        yield trainers.Trainer(recommender.config, recommender.recbole)


def _ours(result: dict[str, Any]) -> dict[str, float]:
    return {key.replace("hit@", "hr@"): float(np.asarray(value)) for key, value in result.items()}
