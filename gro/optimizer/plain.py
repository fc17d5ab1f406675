"""Ordinary training of a recommender on real histories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from gro.config import TrainingSettings
from gro.data import Sequences
from gro.data.windows import Windows, batches
from gro.metrics import ndcg
from gro.models import TrainableRecommender
from gro.models.base import device_of
from gro.ranking import ranks
from gro.training import Log, Progress, Trainer

ETA = 3


def fit(
    model: TrainableRecommender,
    sequences: Sequences,
    settings: TrainingSettings,
    *,
    folder: Path | None,
    progress: Progress,
) -> Log:
    """Train ``model`` in place; it is left with the averaged weights of the epoch that ranks validation items best.

    Epochs are compared by NDCG over the whole catalogue, which varies less from epoch to epoch than at a cutoff.

    What is validated and kept is the polynomial-decay average of the weights over steps (Shamir & Zhang, ICML 2013,
    eta = 3): about the last quarter of the run, however long it is.

    Args:
        model: on the device it shall be trained on.
        sequences: all interactions; the last two items of each user are held out.
        settings: how long and how fast to train.
        folder: where the resumable state is kept.
        progress: receives steps and epochs.
    """
    optimizer = adamw(model, settings)
    average = AveragedModel(model, avg_fn=_average)

    def epoch(log: Log, seed: int) -> Iterator[float]:
        for fraction in learn_epoch(model, optimizer, sequences.train, settings, seed):
            average.update_parameters(model)
            yield fraction

    def validate(log: Log) -> tuple[float, dict[str, float]]:
        places = ranks(cast("TrainableRecommender", average.module), sequences.valid)
        whole, top = (float(ndcg(places, k).mean()) for k in (sequences.n_items, 10))
        return whole, {"valid_ndcg": whole, "valid_ndcg@10": top}

    log = Trainer(
        modules={"target": model, "average": average},
        optimizers=[optimizer],
        epochs=settings.epochs,
        patience=settings.patience,
        seed=settings.seed,
        schedule=settings.schedule,
        folder=folder,
        settings=f"{settings.model_dump_json()} {sequences.digest}",
        progress=progress,
    ).run(epoch, validate)
    model.load_state_dict(average.module.state_dict())
    return log


def _average(averaged: Tensor, latest: Tensor, n_averaged: Tensor | int) -> Tensor:
    return averaged + (latest - averaged) * ((ETA + 1) / (n_averaged + 1 + ETA))


def adamw(model: TrainableRecommender, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter, ICLR 2019) over a model's parameters."""
    return torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def learn_epoch(
    model: TrainableRecommender,
    optimizer: torch.optim.Optimizer,
    sequences: Sequences,
    settings: TrainingSettings,
    seed: int,
) -> Iterator[float]:
    """Train on every interaction once; yields the fraction done after each step."""
    device = device_of(model)
    windows = training_pass(sequences, model.max_length, settings, seed)
    for done, batch in enumerate(windows, start=1):
        optimizer.zero_grad()
        model.loss(*batch.to(device)).backward()
        clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        yield done / len(windows)


def training_pass(sequences: Sequences, length: int, settings: TrainingSettings, seed: int) -> list[Windows]:
    """The windows of one pass as the settings want them."""
    return batches(sequences, length, settings.batch_size, seed, settings.stride, settings.item_dropout)
