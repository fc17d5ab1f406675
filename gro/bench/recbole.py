"""A training pass and an evaluation against RecBole's own trainer and evaluator, on the same data and model size."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from gro import _recbole
from gro.bench.measure import Measured, faster, seconds
from gro.config import DataSettings, TrainingSettings
from gro.data import load
from gro.models import build
from gro.models.recbole_weights import from_recbole
from gro.optimizer.plain import learn_epoch
from gro.ranking import ranks

HYPER = {"inner_size": 256, "hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.0, "loss_type": "CE"}
USERS, ITEMS, INTERACTIONS = 6_040, 3_416, 40
EVALUATED_TOGETHER = 256


def training_pass() -> Measured:
    """One pass over ml-100k, SASRec: a row per prefix against a row per window, 3,200 tokens per batch on both sides.

    Our windows do not overlap and leave nothing out; RecBole runs without the anomaly detection that it switches on.
    """
    data = DataSettings(dataset="ml-100k")
    settings = TrainingSettings(item_dropout=0.0)
    sequences = load(data)
    model = build(settings, sequences.n_items).train()
    optimizer = torch.optim.AdamW(model.parameters())
    ours = seconds(lambda: list(learn_epoch(model, optimizer, sequences.train, settings, seed=0)))

    train, _, _ = _recbole.loaders(_recbole.dataset(data, settings.max_length), settings.batch_size)
    theirs_model = _recbole.build("SASRec", sequences.n_items, settings.max_length, HYPER)
    return faster(ours, seconds(lambda: _recbole.train_epoch(theirs_model, train)))


def evaluation() -> Measured:
    """Full ranking for 6,040 users over 3,416 items, SASRec of length 200, same weights, same users per batch."""
    with tempfile.TemporaryDirectory() as folder:
        data = DataSettings(dataset="synthetic", data_path=_write(Path(folder)))
        sequences = load(data)
        theirs_model = _recbole.build("SASRec", sequences.n_items, 200, HYPER)
        _, _, test = _recbole.loaders(_recbole.dataset(data, 200), 64, EVALUATED_TOGETHER * (sequences.n_items + 1))
        settings = TrainingSettings(max_length=200)
        model = build(settings, sequences.n_items)
        model.load_state_dict(from_recbole(theirs_model.recbole.state_dict(), "SASRec"), strict=False)
        ours = seconds(lambda: ranks(model, sequences.test, EVALUATED_TOGETHER))
        return faster(ours, seconds(lambda: _recbole.evaluate(theirs_model, test)))


def _write(folder: Path) -> Path:
    """Random interactions at the shape of ML-1M, histories cut short so that RecBole can prepare them in a minute."""
    rng = np.random.default_rng(0)
    path = folder / "synthetic" / "synthetic.inter"
    path.parent.mkdir()
    items = rng.permuted(np.tile(np.arange(ITEMS), (USERS, 1)), axis=1)[:, :INTERACTIONS]
    rows = (f"{user}\t{item}\t{time}" for user in range(USERS) for time, item in enumerate(items[user]))
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return folder
