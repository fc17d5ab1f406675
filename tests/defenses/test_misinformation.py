"""Adaptive misinformation: who is misled, how often by mistake, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gro.config import ModelSettings
from gro.data import Sequences
from gro.defenses.base import Part
from gro.defenses.misinformation import Misinformation, false_names, plausibility
from gro.defenses.pipeline import Defended
from gro.defenses.scores import HighConfidence
from gro.errors import ConfigError, DataError
from gro.models import CausalRecommender, Popularity, StateRecommender, build
from gro.models.base import most_recent
from gro.ranking import top_k

N_ITEMS, MAX_LENGTH, SECRET = 20, 6, b"owner"
HISTORIES = torch.tensor([[4, 5, 6, 7, 8, 9, 10, 11], [3, 9, 3, 0, 0, 0, 0, 0], [7] * 8, [2, 1] + [0] * 6])
TRUTHFUL, FALSE = Misinformation(threshold=-1e9), Misinformation(threshold=0.0)


@pytest.fixture(scope="module")
def real() -> Sequences:
    """100 users, no two alike."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 12, 100)
    bounds = np.cumsum([0, *sizes], dtype=np.int64)
    names = np.array([str(name) for name in range(101)])
    return Sequences(
        "real", bounds, rng.integers(1, N_ITEMS + 1, bounds[-1], dtype=np.int32), names[: N_ITEMS + 1], names[1:]
    )


def model(architecture: str = "SASRec") -> StateRecommender:
    """A model that is sure of what it says."""
    settings = ModelSettings.model_validate(
        {"model": architecture, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1}
        | {"max_length": MAX_LENGTH}
    )
    made = build(settings, N_ITEMS).eval()
    with torch.no_grad():
        made.item_embedding.weight.mul_(20)
    return made


def expected(asked: StateRecommender, history: list[int], judged: int) -> float:
    """Plausibility of one history, a prefix at a time."""
    read = [item for item in history if item][-MAX_LENGTH:]
    logs = []
    for end in range(1, len(read)):
        scores = asked.scores(torch.tensor([read[:end]]))[0]
        logs.append(float(scores.log_softmax(dim=0)[read[end] - 1].detach()))
    return sum(logs[-judged:]) / len(logs[-judged:]) if logs else np.inf


def answers(part: Part, histories: Tensor = HISTORIES, secret: bytes = SECRET, before: Sequence[Part] = ()) -> Tensor:
    return Defended(model(), [*before, part], N_ITEMS, secret=secret, per_history=True).lists(histories)


@pytest.mark.parametrize("judged", [1, 2, 8])
@pytest.mark.parametrize("architecture", ["SASRec", "GRU4Rec", "BERT4Rec"])
def test_plausibility_is_the_mean_log_probability_of_the_latest_items(architecture: str, judged: int) -> None:
    asked = model(architecture)
    dense = [expected(asked, history, judged) for history in HISTORIES.tolist()]
    assert plausibility(asked, HISTORIES, judged).tolist() == pytest.approx(dense, rel=1e-4)
    if isinstance(asked, CausalRecommender):
        states = asked.states(most_recent(HISTORIES, MAX_LENGTH))
        assert plausibility(asked, HISTORIES, judged, states).tolist() == pytest.approx(dense, rel=1e-4)


@pytest.mark.parametrize("width", [1, 4])
def test_one_item_alone_is_never_implausible(width: int) -> None:
    alone = torch.arange(1, N_ITEMS + 1)[:, None] * (torch.arange(width) == 0)
    assert bool(plausibility(model(), alone, 8).isposinf().all())


@pytest.mark.parametrize("false_alarms", [0.02, 0.1, 0.35, 0.9])
def test_the_stated_share_of_real_users_is_misled(real: Sequences, false_alarms: float) -> None:
    asked, histories = model(), real.valid.histories(range(real.n_users), MAX_LENGTH)
    part = Misinformation(false_alarms=false_alarms).fitted(asked, real)
    assert part.threshold is not None
    found = [expected(asked, row, part.judged) for row in histories.tolist()]
    assert sum(each < part.threshold for each in found) / len(found) == pytest.approx(false_alarms, abs=1 / len(found))
    asked_about = torch.from_numpy(histories)
    misled = (answers(part, asked_about) != answers(TRUTHFUL, asked_about)).any(dim=1)
    assert misled.tolist() == [each < part.threshold for each in found]


def test_the_truth_is_for_those_at_or_above_the_threshold() -> None:
    asked = model()
    found = plausibility(asked, HISTORIES, 8).detach()
    middle = float(found.sort().values[1])
    true, names = top_k(asked.scores(HISTORIES), N_ITEMS), false_names(N_ITEMS, SECRET)
    served = answers(Misinformation(threshold=middle))
    assert [row.equal(truth) for row, truth in zip(served, true, strict=True)] == (found >= middle).tolist()
    misled = found < middle
    assert int(misled.sum()) == 1
    assert torch.equal(served[misled], names[true[misled]])


@given(st.integers(1, 60), st.binary(max_size=64))
def test_false_names_are_every_item_s_once(n_items: int, secret: bytes) -> None:
    names = false_names(n_items, secret).tolist()
    assert names[0] == 0
    assert sorted(names) == list(range(n_items + 1))
    assert false_names(n_items, secret).tolist() == names


def test_another_secret_is_another_set_of_names() -> None:
    one, other = (false_names(1000, secret)[1:] for secret in (b"one", b"other"))
    assert int((one == other).sum()) < 10
    assert not answers(FALSE).equal(answers(FALSE, secret=b"other"))


def test_a_misled_list_is_as_long_as_the_true_one() -> None:
    sure = HighConfidence(cutoff=0.5)
    true, false = (answers(part, before=[sure]) for part in (TRUTHFUL, FALSE))
    assert torch.equal(false, false_names(N_ITEMS, SECRET)[true])
    assert torch.equal(false == 0, true == 0)
    assert bool((true == 0).any())


def test_a_part_that_has_measured_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="no threshold; protect a target with it, which measures one"):
        answers(Misinformation())


@pytest.mark.parametrize("step", ["fitted", "served"])
def test_a_model_without_scores_of_prefixes_is_refused(tiny: Sequences, step: str) -> None:
    popularity = Popularity(tiny)
    served = Defended(popularity, [FALSE], 5, secret=SECRET, per_history=True)
    with pytest.raises(ConfigError, match="scores after every prefix of a history; Popularity has none"):
        FALSE.fitted(popularity, tiny) if step == "fitted" else served.lists(HISTORIES)


def test_users_who_leave_nothing_to_measure_are_refused(tiny: Sequences) -> None:
    ends = np.arange(0, 3 * tiny.n_users + 1, 3)
    short = replace(tiny, indptr=ends, items=tiny.items[: ends[-1]])
    with pytest.raises(DataError, match="tiny: misinformation has nothing to measure; a user needs 4 interactions"):
        Misinformation().fitted(model(), short)
