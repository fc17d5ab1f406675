"""The nasty teacher (Ma et al., ICLR 2021): as accurate as the plain target, as far from its scores as can be."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from gro.config import PositiveFloat, PositiveInt, Settings, TrainingSettings
from gro.data import HeldOut, Sequences
from gro.errors import GroError
from gro.metrics import ndcg
from gro.models import TrainableRecommender
from gro.models.base import device_of
from gro.optimizer.gro import sample_ends
from gro.optimizer.plain import adamw, training_pass
from gro.ranking import BATCH, evaluating, ranks
from gro.training import Log, Progress, Trainer


class NastySettings(Settings):
    """How a plain target is made nasty."""

    kind: Literal["nasty"] = "nasty"
    epochs: PositiveInt = 10
    """Passes over the data."""
    weight: Annotated[float, Field(ge=0)] = 0.2
    """Weight of the divergence from the plain target against the target's own loss (the paper's omega)."""
    temperature: PositiveFloat = 1.0
    """What the scores are divided by before they are compared (the paper's tau)."""
    positions: PositiveInt = 16
    """Prefixes per window at which the scores are compared in a step; one where every prefix is a pass of its own."""
    utility_budget: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Largest relative loss of validation NDCG@10."""


def fit_nasty(
    model: TrainableRecommender,
    sequences: Sequences,
    settings: TrainingSettings,
    own: NastySettings,
    *,
    folder: Path | None,
    progress: Progress,
) -> Log:
    """Make a plain ``model`` nasty in place; it is left with the weights of the best epoch.

    That is, of the epochs whose relative loss of validation NDCG@10 is within the utility budget, the one that diverges
    most from the plain model after validation histories; where none is within it, the one that lost least.

    Args:
        model: trained, on the device it shall be trained on; a copy of it stays plain.
        sequences: all interactions; the last two items of each user are held out.
        settings: how the plain target was trained, but for the number of epochs.
        own: the defence's settings.
        folder: where the resumable state is kept.
        progress: receives steps and epochs.

    Raises:
        GroError: the plain model ranks no validation item among its 10 best.
        ArtifactError: the folder holds a state of other settings or a damaged one.
    """
    plain = deepcopy(model).eval().requires_grad_(False)
    if not (plain_ndcg := _ndcg(plain, sequences.valid)):
        raise GroError(f"{sequences.name}: the plain target ranks no validation item among its 10 best; train it first")
    optimizer = adamw(model, settings)

    def epoch(log: Log, seed: int) -> Iterator[float]:
        windows = training_pass(sequences.train, model.max_length, settings, seed)
        for done, batch in enumerate(windows, start=1):
            optimizer.zero_grad()
            nasty_loss(model, plain, *batch.to(device_of(model)), own).backward()
            clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            yield done / len(windows)

    def validate(log: Log) -> tuple[float, dict[str, float]]:
        found = _ndcg(model, sequences.valid)
        lost = 1 - found / plain_ndcg
        apart = held_out_divergence(model, plain, sequences.valid, own.temperature)
        figures = {"valid_ndcg@10": found, "utility_loss": lost, "divergence": apart}
        return apart if lost <= own.utility_budget else -lost, figures

    return Trainer(
        modules={"target": model},
        optimizers=[optimizer],
        epochs=own.epochs,
        patience=0,
        seed=settings.seed,
        schedule=settings.schedule,
        folder=folder,
        settings=f"{settings.model_dump_json()} {own.model_dump_json()} {sequences.digest} {plain_ndcg}",
        progress=progress,
    ).run(epoch, validate)


def nasty_loss(
    model: TrainableRecommender, plain: TrainableRecommender, windows: Tensor, context: Tensor, own: NastySettings
) -> Tensor:
    """``L - weight * temperature^2 * KL(model || plain)`` of windows ``[B, T]`` (eq. 2 of the paper).

    ``L`` is the model's own loss of the items after the first ``context [B]``; the divergence is taken after sampled
    prefixes, from a plain model that is in evaluation mode and not trained.
    """
    ends = sample_ends(windows, own.positions if model.one_pass else 1)
    loss, scores = model.loss_and_scores(windows, ends, context)
    apart = divergence(scores, plain.prefix_scores(windows[:, :-1], ends), own.temperature).mean()
    return loss - own.weight * own.temperature**2 * apart


def divergence(scores: Tensor, plain: Tensor, temperature: float) -> Tensor:
    """``KL(softmax(scores / temperature) || softmax(plain / temperature))`` of scores ``[..., n_items]``: ``[...]``."""
    ours, theirs = (F.log_softmax(each / temperature, dim=-1) for each in (scores, plain))
    return F.kl_div(theirs, ours, reduction="none", log_target=True).sum(-1)


def held_out_divergence(
    model: TrainableRecommender, plain: TrainableRecommender, held_out: HeldOut, temperature: float
) -> float:
    """Mean :func:`divergence` of a model from the plain one after every user's held-out history."""
    users = np.arange(len(held_out.targets))
    total = 0.0
    with evaluating(model), evaluating(plain):
        for start in range(0, len(users), BATCH):
            rows = held_out.histories(users[start : start + BATCH], model.max_length)
            histories = torch.from_numpy(rows).to(device_of(model))
            total += float(divergence(model.scores(histories), plain.scores(histories), temperature).sum())
    return total / len(users)


def _ndcg(model: TrainableRecommender, held_out: HeldOut) -> float:
    return float(ndcg(ranks(model, held_out), 10).mean())
