from __future__ import annotations

import pytest
import torch

from gro import _recbole
from gro.errors import ConfigError, DataError

# fmt: off
WORKING = [
    "BERT4Rec", "CORE", "Caser", "FEARec", "FOSSIL", "FPMC", "GCSAN", "GRU4Rec", "GRU4RecCPR", "HGN", "HRM",
    "LightSANs", "NARM", "NPE", "NextItNet", "RepeatNet", "SASRec", "SASRecCPR", "SHAN", "SINE", "SRGNN", "STAMP",
    "TransRec",
]
# fmt: on
N_ITEMS, MAX_LENGTH = 110, 8
HISTORIES = torch.tensor([[3, 0, 0, 0, 0], [110, 2, 3, 2, 0], [9, 8, 7, 6, 5]])


def build(name: str) -> _recbole.RecBoleRecommender:
    recommender = _recbole.build(name, N_ITEMS, MAX_LENGTH)
    return recommender.eval()


def test_the_working_models_are_those_that_read_histories_alone() -> None:
    assert _recbole.names() == sorted(WORKING)
    assert not set(WORKING) & _recbole.SIDE_INFORMATION.keys()
    assert len(WORKING) + len(_recbole.SIDE_INFORMATION) == 31


@pytest.mark.parametrize("name", WORKING)
def test_scores(name: str) -> None:
    recommender = build(name)
    before = HISTORIES.clone()
    scores = recommender.scores(HISTORIES)
    assert scores.shape == (3, N_ITEMS)
    assert torch.isfinite(scores).all()
    assert torch.equal(HISTORIES, before)
    assert torch.equal(recommender.scores(HISTORIES), scores)
    alone = torch.cat([recommender.scores(row[None]) for row in HISTORIES])
    torch.testing.assert_close(alone, scores, atol=1e-5, rtol=1e-4)
    padded = torch.nn.functional.pad(HISTORIES, (0, 2))
    torch.testing.assert_close(recommender.scores(padded), scores, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", WORKING)
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    first, second = build(name).state_dict(), build(name).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", WORKING)
def test_gradients_flow_to_the_items(name: str) -> None:
    recommender = build(name)
    torch.autograd.backward(recommender.scores(HISTORIES)[:, 4].sum())
    reached = [weight for weight in recommender.parameters() if weight.grad is not None and weight.grad.any()]
    assert any(len(weight) > N_ITEMS for weight in reached)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "BERT4Rec", "Caser", "SRGNN"])
def test_prefix_scores_are_the_scores_of_the_prefixes(name: str) -> None:
    recommender = build(name)
    histories, ends = HISTORIES[1:], torch.tensor([[0, 3], [4, 1]])
    found = recommender.prefix_scores(histories, ends)
    assert found.shape == (2, 2, N_ITEMS)
    for row in range(2):
        for column in range(2):
            prefix = histories[row : row + 1, : ends[row, column] + 1]
            torch.testing.assert_close(found[row, column], recommender.scores(prefix)[0], atol=1e-5, rtol=1e-4)


def test_another_seed_gives_other_weights() -> None:
    first, second = (_recbole.build("SASRec", 9, 4, seed=seed).eval() for seed in (0, 1))
    assert not torch.equal(first.scores(HISTORIES[:1]), second.scores(HISTORIES[:1]))


def test_columns_are_items_without_the_padding_column() -> None:
    recommender = build("SASRec")
    with torch.no_grad():
        recommender.recbole.get_parameter("item_embedding.weight")[5] = 0
    scores = recommender.scores(HISTORIES)
    assert (scores[:, 4] == 0).all()
    assert (scores[:, 3] != 0).all()


def test_the_oldest_items_of_a_long_history_are_dropped() -> None:
    recommender = build("GRU4Rec")
    long = torch.arange(1, 13)[None]
    torch.testing.assert_close(recommender.scores(long), recommender.scores(long[:, -MAX_LENGTH:]))
    mixed = torch.stack([long[0], torch.nn.functional.pad(torch.tensor([4, 5]), (0, 10))])
    torch.testing.assert_close(recommender.scores(mixed)[1:], recommender.scores(torch.tensor([[4, 5]])))


def test_dropout_masks_differ_from_step_to_step() -> None:
    recommender = build("SASRec").train()
    assert not torch.equal(recommender.scores(HISTORIES), recommender.scores(HISTORIES))


def test_hyper_parameters_reach_the_model() -> None:
    recommender = _recbole.build("SASRec", 9, 4, {"hidden_size": 12, "n_heads": 3, "n_layers": 1})
    assert recommender.recbole.get_parameter("item_embedding.weight").shape == (10, 12)
    assert not [key for key in recommender.state_dict() if "layer.1." in key]


def test_the_user_table_takes_the_users_of_a_trained_model() -> None:
    assert 31 in {len(weight) for weight in _recbole.build("FPMC", 9, 4, n_users=30).parameters()}


def test_values_are_never_evaluated() -> None:
    harmful = "__import__('sys').exit(3)"
    with pytest.raises(ConfigError, match="cannot build SASRec"):
        _recbole.build("SASRec", 9, 4, {"loss_type": harmful})


@pytest.mark.parametrize("name", sorted(_recbole.SIDE_INFORMATION))
def test_models_with_side_information_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"RecBole's {name} reads .*histories alone"):
        _recbole.build(name, 9)


def test_errors_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no sequential model 'sasrek'\. Did you mean 'SASRec'\?"):
        _recbole.build("sasrek", 9)
    with pytest.raises(ConfigError, match=r"SASRec has no key 'n_head'\. Did you mean 'n_heads'\?"):
        _recbole.build("SASRec", 9, 4, {"n_head": 1})
    with pytest.raises(ConfigError, match=r"cannot build SASRec .*not a multiple of the number of attention heads"):
        _recbole.build("SASRec", 9, 4, {"n_heads": 3})
    with pytest.raises(ConfigError, match="cannot build SASRecCPR for 20 items"):
        _recbole.build("SASRecCPR", 20, 4)


def test_an_empty_history_is_an_error() -> None:
    with pytest.raises(DataError, match="history 1 is empty"):
        build("SASRec").scores(torch.tensor([[1, 2], [0, 0]]))


def test_building_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    build("FEARec")
    assert capsys.readouterr() == ("", "")
