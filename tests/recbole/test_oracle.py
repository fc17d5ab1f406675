from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from gro import _recbole
from gro.config import DataSettings
from gro.errors import DataError

N_USERS, N_ITEMS = 12, 25


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSettings:
    """Twelve users; user u has 4 + u items in time order."""
    rows = [(u, (u * 6 + t * 7) % N_ITEMS, 100 + t, t % 5) for u in range(N_USERS) for t in range(4 + u)]
    lines = ["user_id:token\titem_id:token\ttimestamp:float\trating:float"]
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.inter").write_text("\n".join([*lines, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return DataSettings(dataset="tiny", data_path=tmp_path / "data", rm_dup_inter="keep")


def tiny_model(name: str = "SASRec") -> _recbole.RecBoleRecommender:
    return _recbole.build(name, N_ITEMS, 6, {"hidden_size": 8, "inner_size": 8, "n_layers": 1})


def test_training_rows_are_prefixes_and_the_last_two_items_are_held_out(settings: DataSettings) -> None:
    source = _recbole.dataset(settings, max_length=6)
    assert (source.user_num, source.item_num) == (N_USERS + 1, N_ITEMS + 1)
    train, valid, test = _recbole.loaders(source)
    lengths = [4 + user for user in range(N_USERS)]
    assert len(train._dataset) == sum(length - 3 for length in lengths)
    assert len(valid._dataset) == len(test._dataset) == N_USERS
    batch = next(iter(test))[0]
    assert batch["item_length"].tolist() == [min(length - 1, 6) for length in lengths]


def test_filters_reach_recbole(settings: DataSettings) -> None:
    chosen = settings.model_copy(
        update={"user_inter_num_interval": "[10,inf)", "val_interval": {"rating": "[1,inf)"}, "field_separator": "\t"}
    )
    kept = [sum(t % 5 >= 1 for t in range(4 + user)) for user in range(N_USERS)]
    assert _recbole.dataset(chosen).user_num - 1 == sum(count >= 10 for count in kept) > 0


def test_evaluation_is_a_full_ranking_of_the_test_items(settings: DataSettings) -> None:
    *_, test = _recbole.loaders(_recbole.dataset(settings, max_length=6))
    recommender = tiny_model().eval()
    batch = next(iter(test))
    scores = recommender.scores(batch[0]["item_id_list"])
    targets = batch[3]
    ranks = (scores > scores.gather(1, targets[:, None] - 1)).sum(dim=1)
    found = _recbole.evaluate(recommender, test)
    assert found["hr@5"] == pytest.approx((ranks < 5).float().mean().item())
    gains = torch.where(ranks < 10, 1 / torch.log2(ranks + 2.0), 0.0)
    assert found["ndcg@10"] == pytest.approx(gains.mean().item(), abs=1e-6)


@pytest.mark.parametrize("name", ["SASRec", "BERT4Rec"])
def test_a_training_pass_changes_the_weights_the_same_way_for_the_same_seed(settings: DataSettings, name: str) -> None:
    losses, weights = [], []
    for _ in range(2):
        train, *_ = _recbole.loaders(_recbole.dataset(settings, 6, model=name), batch_size=32)
        recommender = tiny_model(name)
        before = recommender.recbole.get_parameter("item_embedding.weight").clone()
        losses.append(_recbole.train_epoch(recommender, train, learning_rate=0.01, seed=3))
        weights.append(recommender.recbole.get_parameter("item_embedding.weight").detach().clone())
        assert not torch.equal(before, weights[-1])
    assert math.isfinite(losses[0])
    assert losses[0] == losses[1]
    assert torch.equal(*weights)


def test_no_file_is_written_or_unpickled_in_the_working_folder(settings: DataSettings, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harmed"),)

    Path("saved").mkdir()
    for name in ("tiny-SequentialDataset.pth", "tiny-for-SASRec-dataloader.pth"):
        Path("saved", name).write_bytes(pickle.dumps(Harmful()))
    before = sorted(Path().rglob("*"))
    train, valid, _ = _recbole.loaders(_recbole.dataset(settings, 6))
    recommender = tiny_model()
    _recbole.train_epoch(recommender, train)
    _recbole.evaluate(recommender, valid)
    assert sorted(Path().rglob("*")) == before
    assert not (tmp_path / "harmed").exists()


def test_metrics_of_lists() -> None:
    lists, targets = torch.tensor([[1, 2, 3], [3, 2, 1], [4, 5, 6]]), torch.tensor([1, 2, 9])
    found = _recbole.evaluate_lists(lists, targets, (1, 3))
    expected = {"hr@1": 1 / 3, "hr@3": 2 / 3, "ndcg@1": 1 / 3, "ndcg@3": (1 + 1 / math.log2(3)) / 3}
    assert found == pytest.approx(expected, abs=1e-9)


def test_a_missing_dataset_is_named(settings: DataSettings) -> None:
    with pytest.raises(DataError, match="tinny"):
        _recbole.dataset(settings.model_copy(update={"dataset": "tinny"}))


def test_strings_of_the_settings_are_not_evaluated(settings: DataSettings) -> None:
    chosen = settings.model_copy(update={"user_inter_num_interval": "__import__('os').mkdir('harmed')"})
    _recbole.dataset(chosen)
    assert not Path("harmed").exists()
