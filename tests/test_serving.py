from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gro.config import ModelSettings
from gro.data import Sequences
from gro.errors import DataError, GroError
from gro.models import CausalRecommender, Popularity, StateRecommender, build
from gro.ranking import top_k
from gro.serving import RankingService, check_histories

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
N_ITEMS, LENGTH = 23, 8


def make(name: str) -> StateRecommender:
    settings = ModelSettings.model_validate({"model": name, "hidden_size": 8, "max_length": LENGTH})
    model = build(settings, N_ITEMS).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def alone(model: StateRecommender, histories: Tensor, k: int) -> Tensor:
    """Lists of histories that are scored one at a time, by a service that never saw another."""
    rows = [row[row > 0][None] for row in histories]
    return torch.cat([RankingService(model, k)(row) for row in rows])


@pytest.mark.parametrize("name", NAMES)
def test_growing_histories_get_the_lists_of_fresh_calls(name: str) -> None:
    model = make(name)
    service = RankingService(model, N_ITEMS)
    histories = torch.randint(1, N_ITEMS + 1, (4, LENGTH + 5))
    for t in range(1, histories.shape[1] + 1):
        grown = histories[:, :t]
        assert torch.equal(service(grown), alone(model, grown, N_ITEMS)), t


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(data=st.data())
def test_any_order_of_calls_gets_the_lists_of_fresh_calls(name: str, data: st.DataObject) -> None:
    model = make(name)
    service = RankingService(model, N_ITEMS)
    pool = torch.randint(1, N_ITEMS + 1, (2, 3, LENGTH + 3), generator=torch.Generator().manual_seed(0))
    which, rows, width = 0, 3, 1
    for _ in range(12):
        if data.draw(st.booleans()):
            width = min(width + 1, LENGTH + 3)
        else:
            which, rows = data.draw(st.integers(0, 1)), data.draw(st.integers(1, 3))
            width = data.draw(st.integers(1, LENGTH + 3))
        grown = pool[which, :rows, :width].clone()
        if data.draw(st.integers(0, 4)) == 0:
            grown[0, data.draw(st.integers(1, width)) :] = 0
        assert torch.equal(service(grown), alone(model, grown, N_ITEMS))


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_growing_history_is_not_computed_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name)
    service, histories = RankingService(model, 3), torch.randint(1, N_ITEMS + 1, (2, LENGTH))
    service(histories[:, :1])
    service(histories[:, :2])
    monkeypatch.setattr(model, "scores", None)
    positions: list[int] = []
    assert isinstance(model, CausalRecommender)
    extend = model.extend

    def noted(memory: list[Tensor], position: int, items: Tensor) -> Tensor:
        positions.append(position)
        return extend(memory, position, items)

    monkeypatch.setattr(model, "extend", noted)
    for t in range(3, LENGTH + 1):
        service(histories[:, :t])
    assert positions == list(range(2, LENGTH))


@pytest.mark.parametrize("name", NAMES)
def test_a_caller_may_reuse_its_buffer(name: str) -> None:
    model = make(name)
    service = RankingService(model, N_ITEMS)
    buffer = torch.randint(1, N_ITEMS + 1, (2, 4))
    service(buffer[:, :1])
    service(buffer[:, :2])
    buffer[:, :2] = buffer[:, :2] % N_ITEMS + 1
    assert torch.equal(service(buffer[:, :3]), alone(model, buffer[:, :3], N_ITEMS))


def test_a_model_in_training_mode_answers_without_dropout() -> None:
    model = make("SASRec").train()
    histories = torch.randint(1, N_ITEMS + 1, (4, 5))
    found = RankingService(model, 5)(histories)
    assert torch.equal(found, alone(model.eval(), histories, 5))


@pytest.mark.parametrize("name", NAMES)
def test_lists_are_the_best_items_of_the_model(name: str) -> None:
    model, histories = make(name), torch.tensor([[1, 2, 3], [4, 0, 0]])
    answer = RankingService(model, 6)(histories)
    assert torch.equal(answer, top_k(model.scores(histories), 6))
    assert answer.dtype == torch.int64
    assert not answer.requires_grad


def test_every_history_is_a_call() -> None:
    service = RankingService(make("GRU4Rec"), 3)
    for size in (4, 4, 1):
        service(torch.ones(size, 2, dtype=torch.int64))
    assert service.calls == 9
    with pytest.raises(DataError):
        service(torch.zeros(5, 2, dtype=torch.int64))
    assert service.calls == 9


def test_a_refused_call_does_not_disturb_a_growing_history() -> None:
    model = make("SASRec")
    service, histories = RankingService(model, 5), torch.randint(1, N_ITEMS + 1, (2, 5))
    for t in range(1, 6):
        assert torch.equal(service(histories[:, :t]), alone(model, histories[:, :t], 5))
        with pytest.raises(DataError):
            service(torch.tensor([[N_ITEMS + 1]]))


def test_any_recommender_can_be_served(tiny: Sequences) -> None:
    model = Popularity(tiny)
    service, answer = RankingService(model, 20), torch.empty(0)
    for t in range(1, 4):
        answer = service(torch.ones(2, t, dtype=torch.int64))
        assert answer[0].tolist() == answer[1].tolist()
        assert sorted(answer[0].tolist()) == list(range(1, 21))
    counts = model.scores(torch.ones(1, 1))[0]
    assert (counts[answer[0] - 1].diff() <= 0).all()


@pytest.mark.parametrize("k", [0, -3, N_ITEMS + 1])
def test_k_must_fit_the_catalogue(k: int) -> None:
    with pytest.raises(GroError, match=f"k is {k}; a list has between 1 and {N_ITEMS} items") as error:
        RankingService(make("SASRec"), k)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        (torch.tensor([[1, 2], [3, 6]]), r"history 1: item id 6 is not in 1\.\.5"),
        (torch.tensor([[1, 2], [-1, 2], [9, 1]]), r"history 1: item id -1 is not in 1\.\.5"),
        (torch.tensor([[1, 0, 2]]), "history 0: padding"),
        (torch.tensor([[1, 2], [1, 0], [0, 2]]), "history 2: padding"),
        (torch.tensor([[1], [0]]), "history 1: padding"),
        (torch.zeros(1, 0, dtype=torch.int64), "history 0: padding"),
        (torch.tensor([1, 2]), r"histories are torch.int64 \[2\]; they must be int64 \[batch, length\]"),
        (torch.tensor([[1.0]]), r"histories are torch.float32 \[1, 1\]"),
        (torch.tensor([[1]], dtype=torch.int32), r"histories are torch.int32 \[1, 1\]"),
    ],
)
def test_bad_histories_are_refused_by_row(histories: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        check_histories(histories, 5)
    assert "\n" not in str(error.value)


def test_good_histories_pass() -> None:
    check_histories(torch.tensor([[1, 5, 0], [5, 0, 0], [1, 1, 1]]), 5)
