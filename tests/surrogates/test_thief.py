"""A theft that goes on does not ask again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gro.data import Sequences
from gro.errors import ArtifactError, ConfigError
from gro.training import ANSWERS_FILE
from gro_surrogates.distillation import next_item_gain
from gro_surrogates.knowledge import held_histories
from gro_surrogates.thief import Thief, ThiefSettings

N_ITEMS, CALLS = 30, 120
SETTINGS = ThiefSettings(max_length=6, hidden_size=8, inner_size=8, epochs=1)


class Counter:
    """A target that counts its calls and may break off."""

    def __init__(self, budget: int = CALLS) -> None:
        self.calls, self.budget = 0, budget

    def __call__(self, histories: Tensor) -> Tensor:
        self.calls += len(histories)
        if self.calls > self.budget:
            raise KeyboardInterrupt
        return (histories[:, :1] + torch.arange(5)) % N_ITEMS + 1


def weights(thief: Thief, target: Counter) -> Tensor:
    return torch.cat([p.flatten() for p in thief(target, N_ITEMS, CALLS, seed=0).surrogate.parameters()])


def test_recorded_answers_are_kept_and_give_the_same_copy(tmp_path: Path) -> None:
    thief = Thief(SETTINGS, folder=tmp_path)
    answers = thief.ask(Counter(), N_ITEMS, CALLS, seed=0)
    expected = weights(Thief(SETTINGS), Counter())
    first, again = Counter(), Counter(budget=0)
    assert torch.equal(weights(thief, first), expected)
    (tmp_path / "training.safetensors").unlink()
    assert torch.equal(weights(thief, again), expected)
    assert (first.calls, again.calls) == (answers.calls, 0)


@pytest.mark.parametrize(("victim", "seed"), [("a", 1), ("b", 0)])
def test_answers_of_another_theft_are_refused(tmp_path: Path, victim: str, seed: int) -> None:
    Thief(SETTINGS, folder=tmp_path, victim="a")(Counter(), N_ITEMS, CALLS, seed=0)
    with pytest.raises(ArtifactError, match=rf"{ANSWERS_FILE}: begun with other settings"):
        Thief(SETTINGS, folder=tmp_path, victim=victim)(Counter(), N_ITEMS, CALLS, seed=seed)


def test_recorded_faults_are_kept(tmp_path: Path) -> None:
    def short(histories: Tensor) -> Tensor:
        lists = (histories[:, :1] + torch.arange(5)) % N_ITEMS + 1
        return torch.where(histories[:, -1:] % 2 == 0, lists, lists * (torch.arange(5) < 3))

    thief = Thief(SETTINGS, folder=tmp_path)
    first, again = (thief(short, N_ITEMS, CALLS, seed=0).faults for _ in range(2))
    assert 0 < first.short < CALLS
    assert first == again


def test_a_theft_survives_a_service_that_dies() -> None:
    def dying(histories: Tensor) -> Tensor:
        if histories.shape[1] > 2:
            raise ConnectionError("refused")
        return (histories[:, :1] + torch.arange(5)) % N_ITEMS + 1

    theft = Thief(SETTINGS)(dying, N_ITEMS, CALLS, seed=0)
    assert theft.calls == CALLS
    assert theft.faults.failed == CALLS * 4 // 6


def test_what_real_histories_teach_without_a_call() -> None:
    assert Thief(SETTINGS).without_calls(N_ITEMS, seed=0) is None
    assert Thief(SETTINGS, held=torch.tensor([[1, 2]])).without_calls(N_ITEMS, seed=0) is None
    held = (torch.arange(24)[:, None] + torch.arange(6)) % N_ITEMS + 1
    model = Thief(SETTINGS, held=held).without_calls(N_ITEMS, seed=0)
    assert model is not None
    assert next_item_gain(model, held) > 0.5


def test_a_pretrained_thief_begins_where_its_data_ends() -> None:
    held = (torch.arange(24)[:, None] + torch.arange(6)) % N_ITEMS + 1

    def gain(pretrain: bool) -> float:
        settings = SETTINGS.model_copy(update={"known": 0.1, "pretrain": pretrain})
        return next_item_gain(Thief(settings, held=held)(Counter(), N_ITEMS, CALLS, seed=0).surrogate, held)

    assert gain(pretrain=True) > gain(pretrain=False) + 0.2


@pytest.mark.parametrize("use", [{"pretrain": True}, {"repair": 0.5}, {"queries": "replay-fitted"}])
def test_what_needs_data_is_refused_without(use: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="needs known above 0"):
        ThiefSettings.make(use)


def test_a_thief_without_data_cannot_replay() -> None:
    settings = ThiefSettings(queries="replay", known=0.1, max_length=6)
    with pytest.raises(ConfigError, match="replays real histories, and the thief was given none"):
        Thief(settings).ask(Counter(), N_ITEMS, CALLS, seed=0)


@pytest.mark.parametrize(("share", "users"), [(0.001, 1), (0.1, 3), (0.5, 15)])
def test_held_histories_are_the_latest_of_some_users(share: float, users: int) -> None:
    lengths = np.arange(1, 31)
    items = np.concatenate([np.arange(1, n + 1) for n in lengths]).astype(np.int32)
    tokens = np.array([str(n) for n in range(31)])
    sequences = Sequences("toy", np.concatenate([[0], lengths.cumsum()]), items, tokens, tokens[1:])
    held = held_histories(sequences, share, 6, seed=0)
    assert torch.equal(held, held_histories(sequences, share, 6, seed=0))
    sizes = [max(row) for row in held.tolist()]
    assert len(set(sizes)) == len(sizes) == users
    for row, n in zip(held.tolist(), sizes, strict=True):
        assert [item for item in row if item] == list(range(max(1, n - 5), n + 1))


def test_damaged_answers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / ANSWERS_FILE
    Thief(SETTINGS, folder=tmp_path)(Counter(), N_ITEMS, CALLS, seed=0)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        Thief(SETTINGS, folder=tmp_path)(Counter(), N_ITEMS, CALLS, seed=0)


def test_nothing_is_kept_of_a_questioning_that_broke_off(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Thief(SETTINGS, folder=tmp_path)(Counter(budget=CALLS // 2), N_ITEMS, CALLS, seed=0)
    assert not list(tmp_path.iterdir())
