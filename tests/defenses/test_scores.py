"""Parts that change scores: what each form says, whatever is masked and on whatever scale scores are."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from gro.config import ModelSettings
from gro.defenses.base import ScorePart
from gro.defenses.noise import fresh_keys
from gro.defenses.pipeline import Defended
from gro.defenses.scores import Form, GaussianNoise, HighConfidence, ReverseSigmoid, Rounding, reverse_sigmoid
from gro.errors import ConfigError
from gro.models import build
from gro.ranking import MASKED, top_k

FORMS: tuple[Form, ...] = get_args(Form)
SEEDS = st.integers(0, 10**6)
forms = pytest.mark.parametrize("form", FORMS)


def drawn(seed: int, rows: int = 4, n_items: int = 30) -> Tensor:
    """Scores of every size and spread."""
    generator = torch.Generator().manual_seed(seed)
    size, level = (torch.randn(rows, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    return torch.randn(rows, n_items, generator=generator, dtype=torch.float64) * size.exp() + 5 * level


def half_masked(scores: Tensor) -> Tensor:
    """Leave out the worse half of each row."""
    return scores.masked_fill(scores < scores.median(dim=1, keepdim=True).values, MASKED)


def changed(part: ScorePart, scores: Tensor) -> Tensor:
    return part.scores(scores, fresh_keys(len(scores), torch.Generator().manual_seed(0)), 0)


@forms
@pytest.mark.parametrize("width", [0.05, 0.5, 3.0])
def test_what_rounding_makes_equal_is_listed_by_id_and_the_rest_keeps_its_order(form: Form, width: float) -> None:
    scores = drawn(1)
    values = scores.softmax(dim=1) if form == "classifier" else scores / scores.std(dim=1, correction=0, keepdim=True)
    step = width / 30 if form == "classifier" else width
    rounded = changed(Rounding(step=step, form=form), scores)
    ties = 0
    for row, levels, order in zip(values, rounded, top_k(rounded, 30) - 1, strict=True):
        for first, second in pairwise(order.tolist()):
            equal = bool(levels[first] == levels[second])
            ties += equal
            assert first < second if equal else bool(row[first] > row[second])
            steps = float(levels[first] - levels[second])
            assert abs(float(row[first] - row[second]) / step - steps) <= 1 + 1e-9
    assert ties > 0


@forms
@given(SEEDS, st.floats(0.001, 0.999))
def test_high_confidence_lists_what_is_likely_enough_and_always_the_best(form: Form, seed: int, cutoff: float) -> None:
    scores = drawn(seed)
    listed = changed(HighConfidence(cutoff=cutoff, form=form), scores)
    for row, after in zip(scores.tolist(), listed.tolist(), strict=True):
        total = math.fsum(math.exp(score - max(row)) for score in row)
        bar = cutoff * (total if form == "classifier" else 1.0)
        expected = [i for i, s in enumerate(row) if math.exp(s - max(row)) >= bar or s == max(row)]
        assert [i for i, score in enumerate(after) if score != MASKED] == expected != []
        assert [after[i] for i in expected] == [row[i] for i in expected]


@forms
def test_a_flat_row_has_a_list(form: Form) -> None:
    assert changed(HighConfidence(cutoff=0.9, form=form), torch.zeros(2, 30)).isfinite().any(dim=1).all()


@forms
def test_noise_has_the_stated_spread(form: Form) -> None:
    scores = half_masked(drawn(2, rows=300, n_items=400))
    noise = changed(GaussianNoise(scale=0.5, form=form), scores) - (
        scores.softmax(dim=1) if form == "classifier" else scores
    )
    standard = []
    for row, added in zip(scores.numpy(), noise.numpy(), strict=True):
        known = np.isfinite(row)
        standard.append(added[known] / (0.5 if form == "classifier" else 0.5 * row[known].std()))
    assert stats.kstest(np.concatenate(standard), "norm").pvalue > 0.001


@forms
@pytest.mark.parametrize("kind", [GaussianNoise, Rounding, HighConfidence, ReverseSigmoid])
def test_what_is_masked_stays_masked(kind: type[ScorePart], form: Form) -> None:
    strength = {GaussianNoise: {"scale": 0.5}, Rounding: {"step": 0.5}, HighConfidence: {"cutoff": 1e-9}}
    scores = half_masked(drawn(3))
    after = changed(kind.make({"form": form, **strength.get(kind, {})}), scores)
    assert torch.equal(after == MASKED, scores == MASKED)


@pytest.mark.parametrize("part", [GaussianNoise(scale=0.5), Rounding(step=0.5)], ids=lambda part: part.name())
@given(SEEDS, st.floats(-100, 100), st.floats(0.01, 100))
def test_a_ranking_form_reads_neither_level_nor_scale(part: ScorePart, seed: int, shift: float, scale: float) -> None:
    scores = drawn(seed)
    assert torch.equal(top_k(changed(part, scores * scale + shift), 30), top_k(changed(part, scores), 30))


@given(SEEDS, st.floats(-100, 100))
def test_what_is_confident_does_not_depend_on_the_level(seed: int, shift: float) -> None:
    part, scores = HighConfidence(cutoff=0.3), drawn(seed)
    assert torch.equal(top_k(changed(part, scores + shift), 30), top_k(changed(part, scores), 30))


@pytest.mark.parametrize("part", [GaussianNoise(scale=0.5), Rounding(step=0.5)], ids=lambda part: part.name())
def test_scores_without_a_spread_are_served_in_the_order_of_ids(part: ScorePart) -> None:
    alone = drawn(4).masked_fill(torch.arange(30) != 7, MASKED)
    assert top_k(changed(part, alone), 3).tolist() == [[8, 0, 0]] * len(alone)
    assert top_k(changed(part, torch.full((2, 30), 3.0)), 3).tolist() == [[1, 2, 3]] * 2


PROBABILITIES = st.lists(st.floats(1e-30, 1 - 1e-9), min_size=2, max_size=20)
BETA, GAMMA = st.floats(0.1, 10), st.floats(0.01, 3)


def slope(y: float, beta: float, gamma: float) -> float:
    """The docstring's."""
    s = 1 / (1 + math.exp(-gamma * math.log(y / (1 - y))))
    return 1 - beta * gamma * s * (1 - s) / (y * (1 - y))


@given(PROBABILITIES, BETA, GAMMA)
def test_reverse_sigmoid_is_its_formula(probabilities: list[float], beta: float, gamma: float) -> None:
    found = reverse_sigmoid(torch.tensor([probabilities], dtype=torch.float64), beta, gamma)[0].tolist()
    pulled = [1 / (1 + math.exp(-gamma * math.log(y / (1 - y)))) - 0.5 for y in probabilities]
    expected = [y - beta * pull for y, pull in zip(probabilities, pulled, strict=True)]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1), BETA, GAMMA)
def test_its_slope_is_the_one_stated(probabilities: list[float], beta: float, gamma: float) -> None:
    y = torch.tensor([probabilities], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(reverse_sigmoid(y, beta, gamma).sum(), y)
    assert found[0].tolist() == pytest.approx([slope(each, beta, gamma) for each in probabilities], rel=1e-6, abs=1e-6)


def test_a_catalogue_comes_out_nearly_upside_down_and_two_classes_do_not() -> None:
    scores = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0)).double()
    after = changed(ReverseSigmoid(), scores)
    assert stats.kendalltau(scores[0].numpy(), after[0].numpy()).statistic < -0.9
    two = torch.tensor([[2.5, 0.0]])
    assert all(slope(y, 1.0, 0.1) > 0 for y in two.softmax(dim=1)[0].tolist())
    assert top_k(changed(ReverseSigmoid(), two), 2).tolist() == [[1, 2]]


@given(PROBABILITIES, BETA, GAMMA)
def test_no_pair_is_turned_around_where_order_is_kept(probabilities: list[float], beta: float, gamma: float) -> None:
    y = torch.tensor([sorted(probabilities)], dtype=torch.float64)
    after = reverse_sigmoid(y, beta, gamma, keep_order=True)
    rounding = 4 * torch.finfo(torch.float64).eps * float(after.abs().max())
    assert float(after.diff(dim=1).min()) >= -rounding


@given(PROBABILITIES, st.floats(0.1, 1), st.floats(0.01, 0.9))
def test_order_is_kept_by_weakening_only_what_would_turn(probabilities: list[float], beta: float, gamma: float) -> None:
    y = torch.tensor([probabilities], dtype=torch.float64)
    rises = all(slope(each, beta, gamma) > 1e-9 for each in probabilities)
    kept, free = reverse_sigmoid(y, beta, gamma, keep_order=True), reverse_sigmoid(y, beta, gamma)
    assert torch.equal(kept, free) == rises or probabilities == [0.5] * len(probabilities)


def test_the_form_that_keeps_order_is_refused_before_lists() -> None:
    model = build(ModelSettings(hidden_size=4, inner_size=4, n_layers=1, n_heads=1), 30)
    with pytest.raises(ConfigError, match=r"would do nothing: use gro\.defenses\.scores\.reverse_sigmoid where"):
        Defended(model, [ReverseSigmoid(form="ranking")], 10, secret=b"", per_history=True)
