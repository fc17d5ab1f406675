"""What the gate reads of a history, and the network that judges it."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from gro.config import ProtectionSettings
from gro.defenses import witness as module
from gro.defenses.gate import Gate
from gro.defenses.personas import Personas
from gro.defenses.witness import FEATURES, READERS, SCALE, Network, Reading, features, gains
from gro.errors import ConfigError
from gro.metrics import ndcg
from gro.models import StateRecommender
from gro.optimizer.staged import TRAINED, Staged, StagedSettings, build_staged

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
N_ITEMS, SHORT, MAX_LENGTH = 20, 3, 8
HISTORIES = torch.tensor(
    [[4, 5, 4, 7, 8, 9, 10, 11, 4, 4], [3, 9, 3, 3, 0, 0, 0, 0, 0, 0], [7] * 10, [2] + [0] * 9, [2, 6, 1] + [0] * 7]
)
BAD = ["", "AAAA", "no base64!", "\N{SNOWMAN}", Network().written()[:-8], Network().written() + "AAAA"]
SIZE = sum(each.numel() for each in Network().parameters())


def settings(name: str = "SASRec", **changes: object) -> ProtectionSettings:
    small: dict[str, object] = {"model": name, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1}
    return ProtectionSettings.model_validate(small | {"max_length": MAX_LENGTH, "dropout": 0.0} | changes)


def staged(name: str = "SASRec", seed: int = 0, n_items: int = N_ITEMS) -> Staged:
    """A target whose members are sure of what they say."""
    made = build_staged(settings(name, seed=seed), n_items, StagedSettings(short=SHORT)).double().eval()
    with torch.no_grad():
        for member in made.models():
            member.item_embedding.weight.mul_(10)
    return made


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network().eval().requires_grad_(False)


def random_histories(count: int, length: int = MAX_LENGTH, n_items: int = N_ITEMS) -> Tensor:
    return torch.randint(1, n_items + 1, (count, length))


def another(model: Staged, member: str) -> Staged:
    """The same target with another model in one place."""
    members = dict(zip(("later", *TRAINED), model.models(), strict=True)) | {member: staged(seed=50).later}
    return Staged(list(members.values()), model.short).eval()


def personas(model: Staged) -> Personas:
    """Four answers for all beginners, that have nothing to do with them."""
    states = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    return Personas(model.early, SHORT, states)


def read_features(model: Staged, histories: Tensor) -> Tensor:
    return features(model, personas(model), histories)


def expected(model: StateRecommender | Personas, read: list[int], place: int) -> list[float]:
    """How a model takes the item at a place of a history after those before it."""
    scores = model.scores(torch.tensor([read[:place]]))[0]
    better = int((scores > scores[read[place] - 1]).sum())
    likely = float(scores.log_softmax(dim=0)[read[place] - 1])
    return [np.log(1 + better) / 7, likely / 8 + 1, *(float(better < most) for most in (10, 100, 200))]


def expected_features(model: Staged, history: list[int]) -> list[list[float]]:
    """Of one history, a prefix at a time."""
    read = [item for item in history if item][-MAX_LENGTH:]
    found = []
    for place, item in enumerate(read):
        popular = float(model.popularity[item - 1].log() / 8 + 1)
        if place == 0:
            found.append([popular] + [0] * (FEATURES - 1))
            continue
        told = [personas(model)] if place <= SHORT else []
        readers: list[StateRecommender | Personas] = [model.witness, model.early_witness, *told]
        by = [figure for reader in readers for figure in expected(reader, read, place)]
        own = [popular, float(item in read[:place]), *by]
        found.append(own + [0] * (FEATURES - len(own)))
    return found


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_features_are_what_the_models_make_of_each_item(name: str) -> None:
    model = staged(name, n_items=400)
    histories = torch.cat([HISTORIES, random_histories(95, 10, 400)])
    found = read_features(model, histories)
    assert found.shape == (100, MAX_LENGTH, FEATURES)
    for row, history in zip(found.tolist(), histories.tolist(), strict=True):
        wanted = expected_features(model, history)
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-6, atol=1e-9)
        assert not np.any(row[len(wanted) :])


@torch.inference_mode()
def test_features_know_nothing_of_the_plain_target() -> None:
    model = staged()
    before = read_features(model, HISTORIES)
    assert torch.equal(read_features(another(model, "later"), HISTORIES), before)
    for member in TRAINED:
        assert not torch.equal(read_features(another(model, member), HISTORIES), before)


@pytest.mark.parametrize("together", [1, 3 * MAX_LENGTH * N_ITEMS, 10**9])
def test_features_are_the_same_however_many_are_read_together(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = staged()
    whole, read, scored = read_features(model, HISTORIES), list[int](), model.witness.prefix_scores

    def watched(histories: Tensor, ends: Tensor) -> Tensor:
        read.append(len(histories))
        return scored(histories, ends)

    monkeypatch.setattr(module, "TOGETHER", together)
    monkeypatch.setattr(model.witness, "prefix_scores", watched)
    torch.testing.assert_close(read_features(model, HISTORIES), whole)
    assert read == {1: [1] * 5, 10**9: [5]}.get(together, [3, 2])
    torch.testing.assert_close(torch.cat([read_features(model, row[None]) for row in HISTORIES]), whole)


@torch.inference_mode()
def test_what_is_read_of_later_items_alone_is_the_same() -> None:
    model, asked = staged(), random_histories(20)
    whole = read_features(model, asked)
    for begin in range(MAX_LENGTH):
        torch.testing.assert_close(features(model, personas(model), asked, begin), whole[:, begin:])
        end = asked[:, : begin + 1]
        torch.testing.assert_close(features(model, personas(model), end, begin), whole[:, begin : begin + 1])


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_what_is_read_of_histories_as_they_grow_is_what_is_read_of_them_alone(name: str) -> None:
    model, asked = staged(name), random_histories(20)
    reading, whole = Reading(model, personas(model)), read_features(model, asked)
    for begun in (1, 2, 5):
        for end in range(begun, MAX_LENGTH + 1):
            torch.testing.assert_close(reading(asked[:, :end]), whole[:, :end])
        for other in (asked[:9], asked.flip(0), torch.cat([asked[:, 1:], asked[:, :1]], dim=1), HISTORIES[:, :8]):
            torch.testing.assert_close(reading(other), read_features(model, other))
    shorter = asked.masked_fill(torch.arange(MAX_LENGTH) >= MAX_LENGTH - 2, 0)
    for grown in (shorter[:, :-1], shorter):
        torch.testing.assert_close(reading(grown), read_features(model, grown))
    used = asked[:, :3].clone()
    reading(used)
    used.copy_(asked[:, 1:4])
    torch.testing.assert_close(reading(asked[:, 1:5]), read_features(model, asked[:, 1:5]))


@torch.inference_mode()
def test_of_histories_that_grow_only_what_is_new_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked, read = staged(), random_histories(20), list[int]()
    reading, states = Reading(model, personas(model)), StateRecommender.prefix_scores

    def watched(self: StateRecommender, histories: Tensor, ends: Tensor) -> Tensor:
        read.append(histories.shape[1])
        return states(self, histories, ends)

    monkeypatch.setattr(StateRecommender, "prefix_scores", watched)
    for end in range(1, MAX_LENGTH + 1):
        reading(asked[:, :end])
    assert max(read) == 1


@torch.inference_mode()
def test_nothing_is_read_of_personas_that_there_are_not() -> None:
    model = staged()
    found = features(model, Personas(model.later, SHORT, None), HISTORIES)
    whole = read_features(model, HISTORIES)
    assert torch.equal(found[..., : -module.TAKEN], whole[..., : -module.TAKEN])
    assert not found[..., -module.TAKEN :].any()
    assert bool(whole[0, 1 : SHORT + 1, -module.TAKEN :].any(dim=1).all())


def test_an_item_that_the_witness_has_never_expected_is_a_finite_figure() -> None:
    model = staged()
    with torch.no_grad():
        model.witness.item_embedding.weight.mul_(1e4)
    assert bool((model.popularity == 0).any())
    found = read_features(model, torch.cat([HISTORIES, random_histories(20, 10)]))
    assert bool(found.isfinite().all())


def test_reading_leaves_the_model_in_its_mode() -> None:
    model = staged().train()
    read_features(model, HISTORIES)
    assert all(part.training for part in model.modules())


def test_a_network_is_written_and_read_exactly() -> None:
    one = network()
    again = Network.read(one.written())
    assert again.written() == one.written() != network(1).written()
    for before, after in zip(one.parameters(), again.parameters(), strict=True):
        assert torch.equal(before, after)
        assert not after.requires_grad
    assert not again.training
    read = torch.randn(5, 6, FEATURES)
    assert torch.equal(one(read), again(read))
    assert again(read).shape == (5, 6)


@pytest.mark.parametrize("written", [*BAD, None, base64.b64encode(np.full(SIZE, np.nan, "<f4").tobytes()).decode()])
def test_weights_that_are_none_are_refused(written: str | None) -> None:
    with pytest.raises(ConfigError, match="the gate's 'weights' are not those of its network"):
        Gate(weights=written, thresholds=(0.0,) * HISTORIES.shape[1]).since(staged(), HISTORIES)


def test_a_network_is_the_mean_of_its_readers() -> None:
    one, read = network(), torch.randn(5, 6, FEATURES)
    opinions = one.opinions(read)
    assert opinions.shape == (READERS, 5, 6)
    torch.testing.assert_close(one(read), opinions.mean(dim=0))
    assert not torch.allclose(opinions[0], opinions[1])


@given(st.lists(st.integers(0, 20) | st.integers(0, 5000), min_size=2, max_size=12))
@example([0, 0, 9, 10, 11])
def test_gains_are_the_ndcg_of_every_place_but_the_first(places: list[int]) -> None:
    read = torch.zeros(1, len(places) + 2, FEATURES)
    read[0, : len(places), 0] = 0.5
    read[0, : len(places), module.PLACE] = torch.tensor(places, dtype=torch.float32).log1p() / SCALE
    earned = [0.0, *ndcg(np.array(places[1:]) + 1, 10), 0.0, 0.0]
    np.testing.assert_allclose(gains(read)[0], earned, rtol=1e-5)


def test_the_place_is_where_gains_look_for_it() -> None:
    model, histories = staged(n_items=400), random_histories(50, MAX_LENGTH, 400)
    read = read_features(model, histories)
    for row, history in zip(gains(read).tolist(), histories.tolist(), strict=True):
        for at in range(1, MAX_LENGTH):
            scores = model.witness.scores(torch.tensor([history[:at]]))[0]
            place = 1 + int((scores > scores[history[at] - 1]).sum())
            assert row[at] == pytest.approx(float(ndcg(np.array([place]), 10)[0]), rel=1e-5)
