"""Parts that change what the model reads: the shares and sizes that they state, also when the model answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from gro.config import ModelSettings, Probability
from gro.defenses.base import Part
from gro.defenses.inputs import EmbeddingNoise, EmbeddingScale, HistoryNoise
from gro.defenses.noise import fresh_keys
from gro.defenses.pipeline import Defended
from gro.models import StateRecommender, build
from gro.ranking import top_k

N_ITEMS, K, WIDTH = 40, 10, 8
ACTIVE = [HistoryNoise(dropout=0.5, substitution=0.3), EmbeddingNoise(scale=1.0), EmbeddingScale(length=3.0)]
HISTORIES = 1 + torch.arange(20 * WIDTH).view(20, WIDTH) * 7 % N_ITEMS


def model(architecture: str) -> StateRecommender:
    settings = ModelSettings.model_validate(
        {"model": architecture, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "max_length": WIDTH}
    )
    return build(settings, N_ITEMS).eval()


def keys(count: int) -> Tensor:
    return fresh_keys(count, torch.Generator().manual_seed(0))


def read(histories: Tensor, dropout: Probability = 0.0, substitution: Probability = 0.0) -> Tensor:
    part = HistoryNoise(dropout=dropout, substitution=substitution)
    return part.histories(histories, N_ITEMS, keys(len(histories)), 0)


@given(st.lists(st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=WIDTH), min_size=1, max_size=9), st.data())
def test_a_noisy_history_is_a_history_that_ends_as_the_true_one(rows: list[list[int]], data: st.DataObject) -> None:
    histories = torch.tensor([row + [0] * (WIDTH - len(row)) for row in rows])
    dropout, substitution = data.draw(st.floats(0, 0.99)), data.draw(st.floats(0, 0.99))
    for row, found in zip(rows, read(histories, dropout, substitution).tolist(), strict=True):
        left = [item for item in found if item]
        assert found == left + [0] * (WIDTH - len(left))
        assert all(1 <= item <= N_ITEMS for item in left)
        assert left[-1] == row[-1]
        assert len(left) <= len(row)


@given(st.integers(1, WIDTH))
def test_dropout_leaves_items_out_and_keeps_the_order_of_the_rest(size: int) -> None:
    row = torch.arange(1, WIDTH + 1).masked_fill(torch.arange(WIDTH) >= size, 0)
    found = read(row.repeat(2000, 1), dropout=0.3)
    left = (found > 0).sum(dim=1)
    assert float(left.double().mean()) == pytest.approx(1 + 0.7 * (size - 1), abs=0.15)
    rises = found.diff(dim=1) > 0
    assert torch.equal(rises, torch.arange(1, WIDTH) < left[:, None])


def test_substitution_reads_any_item_in_the_place_of_the_stated_share() -> None:
    histories = torch.full((4000, WIDTH), 5)
    found = read(histories, substitution=0.4)
    other = (found != histories).double().mean(dim=0).numpy()
    assert other == pytest.approx([*[0.4 * (1 - 1 / N_ITEMS)] * (WIDTH - 1), 0], abs=0.04)
    counts = np.bincount(found[found != histories].numpy(), minlength=N_ITEMS + 1)
    assert counts[5] == 0
    assert stats.chisquare(np.delete(counts, [0, 5])).pvalue > 0.001


def test_what_is_left_out_does_not_tell_what_is_substituted() -> None:
    histories = torch.full((4000, 2), 5)
    both = read(histories, dropout=0.5, substitution=0.5)[:, :2]
    left = both[both[:, 1] > 0]
    assert float((left[:, 0] != 5).double().mean()) == pytest.approx(0.5 * (1 - 1 / N_ITEMS), abs=0.05)


def test_scaled_vectors_have_the_stated_length_and_their_own_direction() -> None:
    table = torch.randn(N_ITEMS + 1, 8)
    vectors = torch.randn(3, 5, 8)
    vectors[:, 3:] = 0
    scaled = EmbeddingScale(length=2.5).embeddings(vectors, table, keys(3), 0)
    assert torch.equal(scaled[:, 3:], vectors[:, 3:])
    torch.testing.assert_close(scaled[:, :3].norm(dim=-1), 2.5 * table.norm(dim=1).mean().expand(3, 3))
    torch.testing.assert_close(F.cosine_similarity(scaled, vectors, dim=-1)[:, :3], torch.ones(3, 3))


def test_noise_on_vectors_has_the_stated_spread() -> None:
    table = 3 + torch.randn(N_ITEMS + 1, 8)
    vectors = torch.randn(300, 5, 8)
    noise = EmbeddingNoise(scale=0.3).embeddings(vectors, table, keys(300), 0) - vectors
    standard = noise / (0.3 * table.square().mean().sqrt())
    assert stats.kstest(standard.flatten().numpy(), "norm").pvalue > 0.001


@pytest.mark.parametrize("part", ACTIVE, ids=lambda part: part.name())
@pytest.mark.parametrize("architecture", ["SASRec", "GRU4Rec", "NARM", "BERT4Rec"])
def test_a_model_that_answers_reads_what_the_part_makes_and_only_behind_it(architecture: str, part: Part) -> None:
    alone = model(architecture)
    scores = alone.scores(HISTORIES)
    served = Defended(alone, [part], K, secret=b"", per_history=True).lists(HISTORIES)
    assert (served != top_k(scores, K)).any(dim=1).double().mean() > 0.5
    assert torch.equal(alone.scores(HISTORIES), scores)
