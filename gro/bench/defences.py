"""What a defence costs in time: a list that is answered, a pass of differentially private training, all training."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from gro import api
from gro.bench.measure import Measured, costs, paired, seconds
from gro.bench.steps import N_ITEMS
from gro.config import DataSettings, TrainingSettings
from gro.data import Sequences, load
from gro.defenses import cards
from gro.defenses.gate import Gate
from gro.defenses.pipeline import Defended
from gro.models import build
from gro.optimizer.per_sample import hookable, hooked
from gro.optimizer.plain import learn_epoch
from gro.optimizer.private import (
    PrivateSettings,
    draw_windows,
    private_optimizer,
    private_step,
    sample_rate,
    steps_per_epoch,
)

TOGETHER, LENGTH, K = 256, 50, 100
SECRET = bytes(16)


def answering(name: str) -> Measured:
    """Milliseconds for a list of 100 of 3,416 items, 256 histories of 50 items together, SASRec, defended and not."""
    model = build(TrainingSettings(max_length=LENGTH), N_ITEMS).eval()
    sequences = _interactions()
    histories = torch.from_numpy(sequences.items).long().view(TOGETHER, -1)[:, :LENGTH]
    parts = cards.read(name).fitted(model, sequences, 1.0).parts
    defended, plain = (Defended(model, each, K, secret=SECRET, per_history=True) for each in (parts, ()))
    ours, theirs = paired(lambda: defended.lists(histories), lambda: plain.lists(histories), repeats=9)
    return costs(1000 * ours / TOGETHER, 1000 * theirs / TOGETHER, "ms")


def serving() -> list[str]:
    """The cards that act on the answers of one model."""
    found = {name: cards.read(name).parts for name in cards.names()}
    return [name for name, parts in found.items() if parts and not any(isinstance(part, Gate) for part in parts)]


def private_pass() -> Measured:
    """Seconds for a pass over ml-100k, SASRec: DP-SGD over users against a plain pass."""
    settings, private = TrainingSettings(), PrivateSettings()
    sequences = load(DataSettings(dataset="ml-100k"))
    train, rate = sequences.train, sample_rate(private, sequences.n_users)
    model, hooks = build(settings, sequences.n_items).train(), hookable(build(settings, sequences.n_items)).train()
    adamw = torch.optim.AdamW(model.parameters())
    with hooked(hooks):
        optimizer = private_optimizer(torch.optim.AdamW(hooks.parameters()), private, sequences.n_users)

        def ours() -> None:
            for _ in range(steps_per_epoch(rate)):
                private_step(hooks, optimizer, draw_windows(train, rate, settings.max_length))

        def theirs() -> None:
            list(learn_epoch(model, adamw, train, settings, seed=0))

        return costs(*paired(ours, theirs, repeats=3), "s")


def protected_training() -> Measured:
    """Seconds of the default ``gro protect`` on ml-100k, SASRec, with its plain target, against the latter's."""
    with TemporaryDirectory() as folder:
        out = Path(folder, "plain")
        plain = seconds(lambda: api.train(dataset="ml-100k", out=out))
        added = seconds(lambda: api.protect(dataset="ml-100k", out=Path(folder, "protected"), from_=out))
    return costs(plain + added, plain, "s")


def _interactions() -> Sequences:
    """Random interactions, as many of each user."""
    each = LENGTH + 2
    return Sequences(
        name="synthetic",
        indptr=np.arange(0, TOGETHER * each + 1, each),
        items=np.random.default_rng(0).integers(1, N_ITEMS + 1, TOGETHER * each).astype(np.int32),
        item_tokens=np.arange(N_ITEMS + 1).astype(str),
        user_tokens=np.arange(TOGETHER).astype(str),
    )
