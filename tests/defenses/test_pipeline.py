"""Parts one after the other: which follow which, whose noise is whose, and what the rest of the library sees."""

from __future__ import annotations

import pytest
import torch

from gro.config import ModelSettings
from gro.data import Sequences
from gro.defenses import cards
from gro.defenses.base import Answer, Part
from gro.defenses.inputs import EmbeddingNoise, EmbeddingScale, HistoryNoise
from gro.defenses.lists import Replace, Reverse, Shuffle, TieBlocks, Truncate
from gro.defenses.misinformation import Misinformation
from gro.defenses.noise import history_keys
from gro.defenses.pipeline import Defended
from gro.defenses.redirection import Redirection
from gro.defenses.scores import GaussianNoise, HighConfidence, Rounding
from gro.errors import ConfigError
from gro.models import Popularity, StateRecommender, build
from gro.models.base import most_recent
from gro.ranking import lists, ranks, top_k

N_ITEMS, K, MAX_LENGTH, SECRET = 20, 12, 6, b"owner"
HISTORIES = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [4, 9, 2, 0, 0, 0, 0], [8, 0, 0, 0, 0, 0, 0], [5] * 7])
SERVING = [name for name in cards.names() if cards.read(name).parts and name != "gated"]


@pytest.fixture(scope="module")
def model() -> StateRecommender:
    settings = ModelSettings(hidden_size=8, inner_size=8, n_layers=1, n_heads=1, max_length=MAX_LENGTH)
    return build(settings, N_ITEMS).eval()


def before(model: StateRecommender, *parts: Part, per_history: bool = True, seed: int = 0, k: int = K) -> Defended:
    return Defended(model, parts, k, secret=SECRET, per_history=per_history, seed=seed)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (Shuffle(), GaussianNoise(scale=1.0)),
        (Reverse(), HistoryNoise()),
        (Rounding(step=1.0), EmbeddingScale()),
        (EmbeddingNoise(scale=1.0), HistoryNoise()),
    ],
)
def test_a_part_that_comes_too_late_is_refused(model: StateRecommender, earlier: Part, later: Part) -> None:
    message = f"{later.name()} changes what {earlier.name()} is made of; put it before {earlier.name()}"
    with pytest.raises(ConfigError, match=message):
        before(model, earlier, later)
    assert before(model, later, earlier).k == K


@pytest.mark.parametrize("part", [Shuffle(keep=20), Reverse(keep=10), TieBlocks(size=2, keep=11), Redirection(keep=10)])
def test_more_frozen_ranks_than_are_left_are_refused(model: StateRecommender, part: Part) -> None:
    with pytest.raises(ConfigError, match=f"{part.name()} freezes the first .* only 10 are left; give less than 10"):
        before(model, Truncate(k=10), part)


def test_a_list_cannot_be_cut_to_more_than_it_has(model: StateRecommender) -> None:
    with pytest.raises(ConfigError, match=f"truncate to 13: only {K} items are left at that point; give at most {K}"):
        before(model, Truncate(k=K + 1))
    assert before(model, Truncate(k=K), Truncate(k=3)).k == 3


@pytest.mark.parametrize("part", [EmbeddingNoise(scale=1.0), EmbeddingScale()])
def test_a_model_without_vectors_is_refused_before_it_is_asked(tiny: Sequences, part: Part) -> None:
    with pytest.raises(ConfigError, match=f"{part.name()} needs a model with an item table, not Popularity"):
        Defended(Popularity(tiny), [part], K, secret=SECRET, per_history=True)


def test_a_defence_is_its_parts_one_after_the_other(model: StateRecommender) -> None:
    read, noise, sure = (
        HistoryNoise(dropout=0.4, substitution=0.4),
        GaussianNoise(scale=0.5),
        HighConfidence(cutoff=0.9),
    )
    listed = [Misinformation(threshold=-3.0), Replace(probability=0.5), Redirection(keep=1), Truncate(k=8), Shuffle()]
    keys = history_keys(HISTORIES, MAX_LENGTH, SECRET)
    scores = model.scores(read.histories(most_recent(HISTORIES, MAX_LENGTH), N_ITEMS, keys, 0)).detach()
    scores = sure.scores(noise.scores(scores, keys, 1), keys, 2)
    expected = top_k(scores, K)
    for stream, part in enumerate(listed, start=3):
        answer = Answer(
            model=model,
            histories=HISTORIES,
            scores=scores,
            lists=expected,
            states=None,
            keys=keys,
            stream=stream,
            secret=SECRET,
        )
        with torch.no_grad():
            expected = part.lists(answer)
    assert torch.equal(before(model, read, noise, sure, *listed).lists(HISTORIES), expected)


NOISY = [
    Shuffle(),
    Replace(probability=0.5),
    GaussianNoise(scale=0.5),
    HistoryNoise(dropout=0.5, substitution=0.5),
    EmbeddingNoise(scale=1.0),
]


@pytest.mark.parametrize("part", NOISY, ids=lambda part: part.name())
def test_noise_of_a_call_is_new_and_noise_of_a_history_is_not(model: StateRecommender, part: Part) -> None:
    fresh, kept = (before(model, part, per_history=per_history) for per_history in (False, True))
    assert len({str(fresh.lists(HISTORIES).tolist()) for _ in range(50)}) > 10
    assert len({str(kept.lists(HISTORIES).tolist()) for _ in range(50)}) == 1


def test_averaging_calls_undoes_noise_of_calls_and_not_noise_of_histories(model: StateRecommender) -> None:
    true = top_k(model.scores(HISTORIES), N_ITEMS)

    def hits(per_history: bool) -> float:
        served = before(model, GaussianNoise(scale=0.3), per_history=per_history, k=N_ITEMS)
        mean = torch.stack([served.scores(HISTORIES) for _ in range(50)]).mean(dim=0)
        return float((top_k(mean, N_ITEMS) == true).double().mean())

    once = float((before(model, GaussianNoise(scale=0.3), k=N_ITEMS).lists(HISTORIES) == true).double().mean())
    assert hits(per_history=True) == once
    assert hits(per_history=False) > once + 0.2


def test_two_parts_of_a_kind_have_noise_of_their_own(model: StateRecommender) -> None:
    part, true = Shuffle(), top_k(model.scores(HISTORIES), K)
    once, twice = before(model, part).lists(HISTORIES), before(model, part, part).lists(HISTORIES)
    moves = (once[:, :, None] == true[:, None]).long().argmax(dim=2)
    assert not torch.equal(twice, once.gather(1, moves))
    assert not torch.equal(twice, once)


@pytest.mark.parametrize("card", SERVING)
def test_a_history_has_its_answer_however_long_those_beside_it_are(
    model: StateRecommender, tiny: Sequences, card: str
) -> None:
    defence = cards.read(card).keyed(tiny, 0).fitted(model, tiny, 1.0)
    served = Defended(model, defence.parts, N_ITEMS, secret=defence.key, per_history=True)
    for history in HISTORIES[1:, :MAX_LENGTH]:
        alone = history[history > 0][None]
        assert torch.equal(served.lists(alone), served.lists(history[None]))


@pytest.mark.parametrize("parts", [[Truncate(k=5)], [HighConfidence(cutoff=0.95), Shuffle(keep=1)], [Reverse()]])
def test_scores_rank_as_the_lists_do(model: StateRecommender, parts: list[Part], tiny: Sequences) -> None:
    served = before(model, *parts)
    shown, scores = served.lists(HISTORIES), served.scores(HISTORIES)
    assert scores.shape == (len(HISTORIES), N_ITEMS)
    assert torch.equal(top_k(scores, served.k), shown)
    for row, items in zip(scores, shown.tolist(), strict=True):
        assert {int(column) + 1 for column in row.isfinite().nonzero()} == set(items) - {0}
    held_out = tiny.valid
    listed = lists(served, held_out, served.k)
    for rank, target, row in zip(ranks(served, held_out), held_out.targets, listed.tolist(), strict=True):
        assert rank == (row.index(target) + 1 if target in row else N_ITEMS)
