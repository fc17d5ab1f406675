"""Row for row equality with RecBole's own pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gro.data
from gro.config import DataSettings
from gro.data import Sequences

pytest.importorskip("torch")
_recbole = pytest.importorskip("gro._recbole")
if _recbole.missing_packages():
    pytest.skip("recbole is not installed", allow_module_level=True)

Write = Callable[..., DataSettings]

FILTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "5-core": {"user_inter_num_interval": "[5,inf)", "item_inter_num_interval": "[5,inf)"},
    "100-core of users, 50-core of items": {
        "user_inter_num_interval": "[100,inf)",
        "item_inter_num_interval": "[50,inf)",
    },
    "bounded from above, in two intervals": {
        "user_inter_num_interval": "[20,60);(100,200]",
        "item_inter_num_interval": "(3,400]",
    },
    "ratings": {"val_interval": {"rating": "[4,inf)"}, "user_inter_num_interval": "[3,inf)"},
    "ratings in two intervals": {
        "val_interval": {"rating": "[1,2];(4,5]"},
        "user_inter_num_interval": "[3,inf)",
    },
    "times": {"val_interval": {"timestamp": "(875000000,885000000]"}, "user_inter_num_interval": "[3,inf)"},
    "all at once": {
        "val_interval": {"rating": "[3,inf)", "timestamp": "[0,890000000)"},
        "item_inter_num_interval": "[10,inf)",
        "user_inter_num_interval": "[10,inf)",
        "rm_dup_inter": "first",
    },
    "first of repeats": {"rm_dup_inter": "first"},
    "last of repeats": {"rm_dup_inter": "last"},
}


def compare(settings: DataSettings) -> None:
    """Compare token maps and every sequence before the split."""
    source = _recbole.dataset(settings)
    plain: Any = type(source).__base__
    with _recbole.recbole_environment():
        plain._change_feat_format(source)
        source.sort(by=[source.uid_field, source.time_field])
        users, items = (source.inter_feat[field].numpy() for field in (source.uid_field, source.iid_field))
    ours = gro.data.load(settings)
    assert ours.item_tokens.tolist() == source.field2id_token[source.iid_field].tolist()
    assert ours.user_tokens.tolist() == source.field2id_token[source.uid_field][1:].tolist()
    np.testing.assert_array_equal(np.repeat(np.arange(ours.n_users), np.diff(ours.indptr)), users - 1)
    np.testing.assert_array_equal(ours.items, items)


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS.keys())
def test_ml_100k(filters: dict[str, Any]) -> None:
    compare(DataSettings.make({"dataset": "ml-100k", **filters}))


def test_whole_file_of_ml_100k_has_the_cards_counts() -> None:
    card = gro.data.dataset_card("ml-100k")
    ours = gro.data.load(DataSettings(dataset="ml-100k"))
    assert card is not None
    assert card.sha256 == gro.data.find(DataSettings(dataset="ml-100k")).sha256
    counts = {"users": ours.n_users, "items": ours.n_items, "interactions": ours.n_interactions}
    assert card.counts.model_dump() == counts


def check_split(part: Any, ours: Sequences, held: gro.data.HeldOut) -> None:
    feat = part.inter_feat
    users = feat["user_id"].numpy() - 1
    order = np.argsort(users)
    assert users[order].tolist() == list(range(ours.n_users))
    np.testing.assert_array_equal(held.targets, feat["item_id"].numpy()[order])
    lists = feat["item_id_list"].numpy()[order]
    histories = held.histories(np.arange(ours.n_users), lists.shape[1])
    np.testing.assert_array_equal(histories, lists[:, : histories.shape[1]])
    assert not lists[:, histories.shape[1] :].any()


def test_leave_one_out_of_ml_100k() -> None:
    settings = DataSettings(dataset="ml-100k", item_inter_num_interval="[50,inf)")
    source = _recbole.dataset(settings, max_length=10)
    with _recbole.recbole_environment():
        train, valid, test = source.build()
    ours = gro.data.load(settings)
    check_split(valid, ours, ours.valid)
    check_split(test, ours, ours.test)
    assert len(train.inter_feat) == ours.train.n_interactions - ours.n_users
    users = train.inter_feat["user_id"].numpy() - 1
    for user in range(0, ours.n_users, 50):
        np.testing.assert_array_equal(train.inter_feat["item_id"].numpy()[users == user], ours.train.history(user)[1:])


def toy(seed: int, n: int = 400) -> str:
    """Unix times with ties, also in 32 bits; repeated pairs; tokens with leading zeros."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 20, n), rng.integers(0, 30, n)
    times, ratings = 1_500_000_000 + rng.integers(0, 1500, n), rng.integers(1, 6, n)
    table = dict.fromkeys((u, i, t) for u, i, t in zip(users, items, times, strict=True))
    rows = (f"{u:03d}\t{'0' * (i % 3)}{i}\t{r}\t{t}" for (u, i, t), r in zip(table, ratings, strict=False))
    return "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "\n".join(rows)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"rm_dup_inter": "first"},
        {"rm_dup_inter": "last", "val_interval": {"rating": "(1,inf)"}, "item_inter_num_interval": "[5,20]"},
        {"user_inter_num_interval": "[15,inf)", "item_inter_num_interval": "[8,inf)"},
    ],
)
def test_other_files_with_ties_and_repeats(write: Write, seed: int, filters: dict[str, Any]) -> None:
    compare(write(toy(seed), **filters))
