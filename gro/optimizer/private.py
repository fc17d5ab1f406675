"""Differential privacy: DP-SGD (Abadi et al., CCS 2016) over users, with the optimizer and accountant of Opacus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from gro.config import PositiveFloat, PositiveInt, Settings, TrainingSettings
from gro.data import Sequences
from gro.data.windows import batches
from gro.errors import DataError
from gro.metrics import ndcg
from gro.models import PADDING, CausalRecommender, StateRecommender
from gro.models.base import device_of
from gro.optimizer.per_sample import check_per_sample_norms, hookable, hooked, opacus, row_losses
from gro.ranking import ranks
from gro.training import Log, Progress, Trainer

TOGETHER = 32
"""Users whose gradients are held at a time, to bound memory."""
CHECKED = 8
"""Windows on which the per-sample gradients are checked before training."""


class PrivateSettings(Settings):
    """How a target is trained with differential privacy."""

    kind: Literal["dp"] = "dp"
    noise_multiplier: PositiveFloat = 2.0
    """Standard deviation of the noise on a step's summed gradient, in units of max_grad_norm (the paper's sigma)."""
    max_grad_norm: PositiveFloat = 1.0
    """Norm that the gradient of a user's window is cut to (the paper's C)."""
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability with which epsilon may be exceeded; unset is n_users^-1.1."""
    epochs: PositiveInt = 30
    """Passes: in each, a user takes part in one step on average."""
    users_per_step: PositiveInt = 256
    """Mean number of users in a step, each drawn independently of the others; all users where there are fewer."""
    learning_rate: PositiveFloat = 1e-2
    """Its peak: it rises over the first 2 % of the run and falls to 0 at the end."""


def fit_private(
    model: StateRecommender,
    sequences: Sequences,
    settings: TrainingSettings,
    private: PrivateSettings,
    *,
    folder: Path | None,
    progress: Progress,
) -> tuple[Log, dict[str, float]]:
    """Train ``model`` in place so that its weights are (epsilon, delta)-differentially private in every user's history.

    Neighbouring datasets differ by one user with all interactions; the catalogue and the number of users are public.
    The noise comes from torch's generator: the promise holds towards whoever does not know the seed.

    The weights are those of the last epoch, since to choose one by validation items would not be private. The log's
    figures are not.

    Args:
        model: untrained, on the device it shall be trained on; what it was trained on before would have no privacy.
        sequences: all interactions; the last two items of each user are held out.
        settings: seed and weight decay; how long and how fast to train is ``private``'s.
        private: the defence's settings.
        folder: where the resumable state is kept.
        progress: receives steps and epochs.

    Returns:
        The log, and :func:`privacy_spent` by the whole run.

    Raises:
        ConfigError: Opacus has no per-sample gradients of the architecture.
        DataError: nothing is to predict, so that the gradients cannot be checked.
        GroError: its per-sample gradients are wrong.
        MissingExtraError: Opacus is not installed.
        ArtifactError: the folder holds a state of other settings or a damaged one.
    """
    hooks, train, rate = hookable(model), sequences.train, sample_rate(private, sequences.n_users)
    checked = batches(train, model.max_length, CHECKED, settings.seed)
    if not checked:
        raise DataError(f"{sequences.name}: nothing to predict; a user with at least four interactions is needed")
    check_per_sample_norms(hooks, checked[0].items.to(device_of(model)))
    adamw = torch.optim.AdamW(model.parameters(), lr=private.learning_rate, weight_decay=settings.weight_decay)

    def epoch(log: Log, seed: int) -> Iterator[float]:
        steps = steps_per_epoch(rate)
        for done in range(1, steps + 1):
            private_step(hooks, optimizer, draw_windows(train, rate, model.max_length))
            yield done / steps

    def validate(log: Log) -> tuple[float, dict[str, float]]:
        later_is_better = float(len(log.figures))
        return later_is_better, {"valid_ndcg@10": float(ndcg(ranks(model, sequences.valid), 10).mean())}

    with hooked(hooks):
        optimizer = private_optimizer(adamw, private, train.n_users)
        log = Trainer(
            modules={"target": model},
            optimizers=[adamw],
            epochs=private.epochs,
            patience=0,
            seed=settings.seed,
            schedule="linear",
            folder=folder,
            settings=f"{settings.model_dump_json()} {private.model_dump_json()} {sequences.digest}",
            progress=progress,
        ).run(epoch, validate)
    return log, privacy_spent(private, sequences.n_users)


def sample_rate(private: PrivateSettings, n_users: int) -> float:
    """Probability with which a user takes part in a step."""
    return min(1.0, private.users_per_step / n_users)


def steps_per_epoch(rate: float) -> int:
    """Steps in which a user that takes part with probability ``rate`` does so about once."""
    return round(1 / rate)


def privacy_spent(private: PrivateSettings, n_users: int) -> dict[str, float]:
    """Epsilon of a whole run by Opacus' Rényi accountant (Mironov et al., 2019), and what it depends on.

    Raises:
        MissingExtraError: Opacus is not installed.
    """
    rate, delta = sample_rate(private, n_users), private.delta or n_users**-1.1
    steps = private.epochs * steps_per_epoch(rate)
    accountant = opacus("accountants").RDPAccountant()
    accountant.history = [(private.noise_multiplier, rate, steps)]
    noise = {"delta": delta, "noise_multiplier": private.noise_multiplier}
    return {"epsilon": accountant.get_epsilon(delta), **noise, "sample_rate": rate, "steps": steps}


def draw_windows(sequences: Sequences, rate: float, length: int) -> Tensor:
    """Draw each user with probability ``rate``, and a random window of at most ``length + 1`` of their items.

    Returns:
        ``[B, length + 1]``, right-padded; B may be 0.
    """
    users = (torch.rand(sequences.n_users) < rate).nonzero()[:, 0]
    bounds, items = torch.from_numpy(sequences.indptr), torch.from_numpy(sequences.items).long()
    begin, end = bounds[users], bounds[users + 1]
    choices = (end - begin - length).clamp(min=1)
    begin = begin + (torch.rand(len(users), dtype=torch.float64) * choices).long()
    position = begin[:, None] + torch.arange(length + 1)
    return items[position.clamp(max=len(items) - 1)].where(position < end[:, None], PADDING)


def private_optimizer(optimizer: torch.optim.Optimizer, private: PrivateSettings, n_users: int) -> Any:
    """Wrap the optimizer of a :func:`hooked` model in the one of Opacus, which clips and adds noise."""
    return opacus("optimizers").DPOptimizer(
        optimizer,
        noise_multiplier=private.noise_multiplier,
        max_grad_norm=private.max_grad_norm,
        expected_batch_size=sample_rate(private, n_users) * n_users,
    )


def private_step(model: CausalRecommender, optimizer: Any, windows: Tensor) -> None:
    """Take one step (algorithm 1 of the paper) of a :func:`hooked` model on windows ``[B, T]``, one of each user.

    The rows' clipped gradients are summed a few at a time. The step itself is then made with no more rows, so that a
    step for which no user was drawn is one of noise alone.
    """
    for rows in windows.split(TOGETHER) if len(windows) else ():
        row_losses(model, rows.to(device_of(model))).sum().backward()
        optimizer.signal_skip_step()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for parameter in model.parameters():
        parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
