"""Adversarial training of the item table: Adversarial Personalized Ranking (APR; He et al., SIGIR 2018).

The paper perturbs the tables of a matrix factorisation under the BPR loss; here it is the item table of a sequential
recommender under the model's own loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from gro.config import PositiveFloat, PositiveInt, Settings, TrainingSettings
from gro.data import Sequences
from gro.metrics import ndcg
from gro.models import StateRecommender
from gro.models.base import device_of
from gro.optimizer.plain import adamw, training_pass
from gro.ranking import ranks
from gro.training import Log, Progress, Trainer


class AdversarialSettings(Settings):
    """How a plain target is trained on against a perturbed item table."""

    kind: Literal["adversarial"] = "adversarial"
    epochs: PositiveInt = 6
    """Passes over the data."""
    epsilon: PositiveFloat = 4.0
    """Norm of the perturbation of the whole item table."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss at the perturbed table against the one at the table itself."""


def fit_adversarial(
    model: StateRecommender,
    sequences: Sequences,
    settings: TrainingSettings,
    own: AdversarialSettings,
    *,
    folder: Path | None,
    progress: Progress,
) -> Log:
    """Train a plain ``model`` on in place by APR; it is left with the weights of the best epoch.

    Epochs are compared by validation NDCG over the whole catalogue, as in :func:`gro.optimizer.plain.fit`.

    Args:
        model: trained, on the device it shall be trained on.
        sequences: all interactions; the last two items of each user are held out.
        settings: how the plain target was trained, but for the number of epochs.
        own: the defence's settings.
        folder: where the resumable state is kept.
        progress: receives steps and epochs.

    Raises:
        GroError: the model's scores are not finite.
        ArtifactError: the folder holds a state of other settings or a damaged one.
    """
    optimizer = adamw(model, settings)
    plain = _figures(model, sequences)

    def epoch(log: Log, seed: int) -> Iterator[float]:
        windows = training_pass(sequences.train, model.max_length, settings, seed)
        for done, batch in enumerate(windows, start=1):
            differentiate(model, *batch.to(device_of(model)), own)
            clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            yield done / len(windows)

    def validate(log: Log) -> tuple[float, dict[str, float]]:
        figures = _figures(model, sequences)
        return figures["valid_ndcg"], figures

    return Trainer(
        modules={"target": model},
        optimizers=[optimizer],
        epochs=own.epochs,
        patience=0,
        seed=settings.seed,
        schedule=settings.schedule,
        folder=folder,
        settings=f"{settings.model_dump_json()} {own.model_dump_json()} {sequences.digest} {plain}",
        progress=progress,
    ).run(epoch, validate)


def differentiate(model: StateRecommender, windows: Tensor, context: Tensor | None, own: AdversarialSettings) -> None:
    """Leave the gradients of ``L(theta) + weight * L(theta + perturbation)`` in the parameters (eq. 6 of the paper).

    Both losses are of windows ``[B, T]`` after their first ``context [B]`` items and draw the same dropout and masks;
    the perturbation is a constant.
    """
    table = model.item_embedding.weight
    model.zero_grad()
    with torch.random.fork_rng():
        model.loss(windows, context).backward()
    with perturbed(table, perturbation(cast("Tensor", table.grad), own.epsilon)):
        (own.weight * model.loss(windows, context)).backward()


def perturbation(gradient: Tensor, epsilon: float) -> Tensor:
    """The change of a table ``[rows, d]`` of norm ``epsilon`` that raises the loss most, by its gradient (eq. 8)."""
    norm = gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny)
    change: Tensor = epsilon * gradient / norm
    return change


@contextmanager
@torch.no_grad()
def perturbed(table: Tensor, change: Tensor) -> Iterator[None]:
    """Add ``change`` to a table ``[rows, d]`` for a while; afterwards it is what it was, to the bit."""
    kept = table.clone()
    table.add_(change)
    try:
        yield
    finally:
        table.copy_(kept)


def _figures(model: StateRecommender, sequences: Sequences) -> dict[str, float]:
    places = ranks(model, sequences.valid)
    return {f"valid_ndcg{at}": float(ndcg(places, k).mean()) for at, k in (("", sequences.n_items), ("@10", 10))}
