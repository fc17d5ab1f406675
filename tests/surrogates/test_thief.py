"""What a thief spends, keeps and learns; its recordings have tests of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gro.data import Sequences
from gro.errors import ArtifactError, ConfigError
from gro.models import StateRecommender
from gro.training import STATE_FILE, Quiet
from gro_surrogates.cards import thief_settings
from gro_surrogates.distillation import next_item_gain
from gro_surrogates.fusion import RankFusion
from gro_surrogates.knowledge import held_histories
from gro_surrogates.thief import Theft, Thief, ThiefSettings

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


def copied(theft: Theft) -> StateRecommender:
    assert isinstance(theft.surrogate, StateRecommender)
    return theft.surrogate


def weights(theft: Theft) -> Tensor:
    return torch.cat([p.detach().flatten() for p in theft.surrogate.parameters()])


@pytest.mark.parametrize(("victim", "seed"), [("a", 1), ("b", 0)])
def test_the_training_of_another_theft_is_refused(tmp_path: Path, victim: str, seed: int) -> None:
    Thief(SETTINGS, folder=tmp_path, victim="a")(Counter(), N_ITEMS, CALLS, seed=0)
    with pytest.raises(ArtifactError, match=rf"{STATE_FILE}: begun with other settings"):
        Thief(SETTINGS, folder=tmp_path, victim=victim)(Counter(), N_ITEMS, CALLS, seed=seed)


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
    assert isinstance(model, StateRecommender)
    assert next_item_gain(model, held) > 0.5


def test_a_pretrained_thief_begins_where_its_data_ends() -> None:
    held = (torch.arange(24)[:, None] + torch.arange(6)) % N_ITEMS + 1

    def gain(pretrain: bool) -> float:
        settings = SETTINGS.model_copy(update={"known": 0.1, "pretrain": pretrain})
        return next_item_gain(copied(Thief(settings, held=held)(Counter(), N_ITEMS, CALLS, seed=0)), held)

    assert gain(pretrain=True) > gain(pretrain=False) + 0.2


@pytest.mark.parametrize(
    "use", [{"pretrain": True}, {"repair": 0.5}, {"popularity": 0.5}, {"queries": "replay-fitted"}]
)
def test_what_needs_data_is_refused_without(use: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="needs known above 0"):
        ThiefSettings.make(use)


def test_histories_that_no_clone_reads_whole_are_refused_once_it_is_known_what_it_reads(tmp_path: Path) -> None:
    card = tmp_path / "own.toml"
    card.write_text("sequence_length = 60\n")
    assert thief_settings(str(card), {}).sequence_length == 60
    assert thief_settings(str(card), {"max_length": 60}).max_length == 60
    with pytest.raises(ConfigError, match=r"own.toml: sequence_length is 60, .* max_length = 59 .*give at most 59$"):
        thief_settings(str(card), {"max_length": 59})
    counter = Counter()
    with pytest.raises(ConfigError, match=r"sequence_length is 60, .* max_length = 50 .*give at most 50$"):
        Thief(ThiefSettings(sequence_length=60))(counter, N_ITEMS, CALLS, seed=0)
    assert counter.calls == 0


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


def constant(histories: Tensor) -> Tensor:
    """A target that has nothing to tell after its first list."""
    return torch.arange(1, 6).expand(len(histories), -1)


def test_a_frugal_thief_stops_when_a_round_teaches_nothing_more() -> None:
    settings = SETTINGS.model_copy(update={"stop_gain": 0.02, "epochs": 6, "learning_rate": 0.05})
    theft = Thief(settings)(constant, N_ITEMS, 8 * CALLS, seed=0)
    assert theft.calls == 2 * CALLS
    assert theft.logs[0].best["held_out_agreement@10"] == 1


@pytest.mark.parametrize(
    ("agreements", "eighths"),
    [([0.1, 0.11], 2), ([0.1, 0.13, 0.14], 4), ([0.1, 0.2, 0.3, 0.29], 8), ([0.1, 0.2, 0.3, 0.4], 8), ([0.5, 0.1], 2)],
)
def test_rounds_double_until_one_gains_too_little_or_all_is_spent(
    agreements: list[float], eighths: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"stop_gain": 0.02})
    target, bought_again = Counter(8 * CALLS), Counter(0)
    for each in (target, bought_again):
        found = iter(agreements)
        monkeypatch.setattr(Thief, "agreed", lambda self, recording, n_items, seed, found=found: next(found))
        theft = Thief(settings, recordings=tmp_path)(each, N_ITEMS, 8 * CALLS, seed=0)
        assert theft.calls == eighths * CALLS
        assert next(found, None) is None
    assert target.calls == eighths * CALLS
    assert bought_again.calls == 0


ENSEMBLE = SETTINGS.model_copy(update={"clones": ("SASRec", "GRU4Rec"), "epochs": 2})


class Stopped(Quiet):
    """Counts the epochs of all clones and breaks off after one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.epochs, self.last = 0, last

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        self.epochs += 1
        if self.epochs == self.last:
            raise KeyboardInterrupt


def test_an_ensemble_is_the_fusion_of_clones_that_learnt_alone() -> None:
    theft = Thief(ENSEMBLE)(Counter(), N_ITEMS, CALLS, seed=3)
    assert [type(clone).__name__ for clone in theft.clones] == ["SASRec", "GRU4Rec"]
    assert len(theft.logs) == 2
    alone = Thief(ENSEMBLE.model_copy(update={"clones": ()}))(Counter(), N_ITEMS, CALLS, seed=3)
    histories = torch.tensor([[1, 2, 0], [7, 8, 9]])
    with torch.no_grad():
        assert torch.equal(theft.clones[0].scores(histories), copied(alone).scores(histories))
        assert torch.equal(theft.surrogate.scores(histories), RankFusion(theft.clones).scores(histories))


@pytest.mark.parametrize("last", [1, 2, 3])
def test_an_ensemble_goes_on_with_the_clone_and_the_epoch_it_was_in(tmp_path: Path, last: int) -> None:
    unbroken = Thief(ENSEMBLE)(Counter(), N_ITEMS, CALLS, seed=0)
    thief = Thief(ENSEMBLE, folder=tmp_path / "theft")
    with pytest.raises(KeyboardInterrupt):
        replace(thief, progress=Stopped(last))(Counter(), N_ITEMS, CALLS, seed=0)
    rest = Stopped()
    assert torch.equal(weights(replace(thief, progress=rest)(Counter(), N_ITEMS, CALLS, seed=0)), weights(unbroken))
    assert rest.epochs == 4 - last
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*") if path.is_file()) == [
        "theft.clone-2/training.safetensors",
        "theft/training.safetensors",
    ]


def test_clones_of_an_ensemble_each_learn_real_histories() -> None:
    held = (torch.arange(24)[:, None] + torch.arange(6)) % N_ITEMS + 1
    model = Thief(ENSEMBLE, held=held).without_calls(N_ITEMS, seed=0)
    assert isinstance(model, RankFusion)
    for clone in model.clones:
        assert isinstance(clone, StateRecommender)
        assert next_item_gain(clone, held) > 0.4  # untrained: 0.25


@pytest.mark.parametrize(
    ("card", "knowledge"),
    [
        ({}, "data-free"),
        ({"stop_gain": 0.1, "loss": "bpr"}, "data-free"),
        ({"known": 0.1, "popularity": 0.1}, "data-limited"),
        *(({name: value}, "adaptive") for name, value in [("invert", True), ("clones", ["NARM"]), ("neighbours", 1)]),
        *(({name: value}, "adaptive") for name, value in [("truncate", 5), ("loss", "set"), ("decoys", 3.0)]),
        ({"backtrack": 1}, "adaptive"),
        ({"known": 0.1, "invert": True}, "adaptive"),
    ],
)
def test_a_thief_knows_what_its_tricks_tell(card: dict[str, Any], knowledge: str) -> None:
    assert ThiefSettings.make(card).knowledge == knowledge


def test_what_a_frugal_thief_bought_survives_a_service_that_dies_between_rounds() -> None:
    asked = 0

    def dying(histories: Tensor) -> Tensor:
        nonlocal asked
        asked += len(histories)
        if asked > 480 // 8:
            raise ConnectionError("refused")
        return constant(histories)

    theft = Thief(SETTINGS.model_copy(update={"stop_gain": 0.01}))(dying, N_ITEMS, 480, seed=0)
    assert theft.calls == asked
    assert theft.faults.failed == asked - 60


def test_a_frugal_thief_says_what_its_first_round_needs() -> None:
    thief = Thief(SETTINGS.model_copy(update={"stop_gain": 0.01}))
    with pytest.raises(ConfigError, match="in the first of 4 rounds; give more than 48"):
        thief(Counter(), N_ITEMS, 48, seed=0)
