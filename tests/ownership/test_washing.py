"""What a thief does to a model in hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gro.config import Architecture, ModelSettings, TrainingSettings
from gro.data import Sequences
from gro.errors import ConfigError
from gro.models import StateRecommender, build
from gro.optimizer.plain import fit
from gro.ownership import promotion, triggers, washing
from gro.ownership.compare import after_permutation, shared_space
from gro.ownership.marking import shown
from gro.ownership.parameters import ParameterMark, marked
from gro.ownership.settings import PromotionSettings, TriggerSettings
from gro.ownership.suspect import Inconclusive, in_hand, item_table
from gro.ownership.washing import Unlisted, disguised, distilled, fine_tuned, pruned, quantised
from gro.ranking import top_k
from gro.serving import RankingService
from gro.training import Quiet
from gro_surrogates.settings import ThiefSettings

SIZES = {"max_length": 8, "hidden_size": 8, "inner_size": 12, "n_layers": 2, "n_heads": 2}
ARCHITECTURES: tuple[Architecture, ...] = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
MARK = ParameterMark(bytes(range(32)), b"\xc5")
N = 60


def rough(architecture: Architecture) -> StateRecommender:
    """A model in which no parameter has the value that it begins with."""
    model = build(ModelSettings.make({**SIZES, "model": architecture}), N, seed=1).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return model


def weights(model: StateRecommender) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: StateRecommender, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.fixture(scope="module")
def learnt(tiny: Sequences) -> StateRecommender:
    model = build(TrainingSettings.make(SIZES), tiny.n_items)
    fit(
        model,
        tiny,
        TrainingSettings.make({**SIZES, "epochs": 15, "learning_rate": 1e-2}),
        folder=None,
        progress=Quiet(),
    )
    return model.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_disguise_changes_the_table_and_no_list(architecture: Architecture) -> None:
    model, histories = rough(architecture), torch.randint(1, N + 1, (40, 8))
    before, worn = weights(model), disguised(model, seed=5)
    with torch.inference_mode():
        lists, theirs = (top_k(each.scores(histories), 20) for each in (model, worn))
    assert (lists == theirs).float().mean() > 0.99
    assert same(model, before)
    ours, others = item_table(model), item_table(worn)
    assert shared_space(ours, others) > 1 - 1e-9
    assert not np.allclose(ours, others, atol=0.05)
    assert (after_permutation(ours, others) > 1 - 1e-9) == (architecture in {"SASRec", "BERT4Rec"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_disguise_does_not_hide_the_mark(architecture: Architecture) -> None:
    tokens = [f"i{item}" for item in range(N + 1)]
    made = marked(rough(architecture), MARK, tokens)
    reading = MARK.reading(item_table(disguised(made, seed=5)), tokens[1:])
    assert reading.errors == 0
    assert reading.lead == pytest.approx(MARK.reading(item_table(made), tokens[1:]).lead, rel=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_pruning_zeroes_the_smallest_weights_of_every_matrix(share: float) -> None:
    model = rough("SASRec")
    before, made = weights(model), pruned(model, share)
    assert same(model, before)
    for own, cut in zip(model.parameters(), made.parameters(), strict=True):
        if own.ndim < 2:
            assert torch.equal(own, cut)
            continue
        gone = cut == 0
        assert int(gone.sum()) == round(share * own.numel())
        assert torch.equal(cut[~gone], own[~gone])
        if gone.any():
            assert own[gone].abs().max() <= own[~gone].abs().min()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quantised_weights_lie_on_a_grid_around_zero(bits: int) -> None:
    model = rough("GRU4Rec")
    before, made = weights(model), quantised(model, bits)
    assert same(model, before)
    assert made.head.weight is made.item_embedding.weight
    for own, coarse in zip(model.parameters(), made.parameters(), strict=True):
        if own.ndim > 1:
            step = float(own.detach().abs().max()) / (2 ** (bits - 1) - 1)
            assert len(coarse.unique()) <= 2**bits - 1
            torch.testing.assert_close(coarse, (coarse / step).round() * step)
            assert (own - coarse).abs().max() <= 0.501 * step


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="must be at least 0 and below 1"):
        pruned(rough("SASRec"), share)


def test_too_few_bits_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs at least 2"):
        quantised(rough("SASRec"), 1)


def test_fine_tuning_learns_on_and_is_repeatable(tiny: Sequences) -> None:
    settings = TrainingSettings.make({**SIZES, "epochs": 4, "learning_rate": 1e-2, "dropout": 0.1})
    model = build(settings, tiny.n_items, seed=1).eval()
    before = weights(model)
    once, again = (fine_tuned(model, tiny.train, settings) for _ in range(2))
    assert same(model, before)
    assert same(once, weights(again))
    assert not once.training
    windows = torch.from_numpy(tiny.test.histories(np.arange(tiny.n_users), 8))
    with torch.inference_mode():
        assert once.loss(windows) < 0.9 * model.loss(windows)


def test_a_copy_from_lists_repeats_the_lists_and_forgets_the_mark(tiny: Sequences, learnt: StateRecommender) -> None:
    """Eight marks at once, so that the errors are those of 64 coins."""
    marks = [ParameterMark(bytes([number]) * 32, b"\xc5") for number in range(8)]
    tokens = tiny.item_tokens.tolist()
    made = [marked(learnt, mark, tokens, strength=1.5) for mark in marks]
    settings = ThiefSettings.make({**SIZES, "epochs": 12})
    copies = [distilled(each, settings, k=10, calls=600, seed=number) for number, each in enumerate(made)]
    histories = torch.from_numpy(tiny.test.histories(np.arange(tiny.n_users), 8))
    before = after = 0
    for mark, target, copy in zip(marks, made, copies, strict=True):
        assert isinstance(copy, StateRecommender)
        with torch.inference_mode():
            assert (top_k(copy.scores(histories), 1) == top_k(target.scores(histories), 1)).float().mean() > 0.3
        before += mark.reading(item_table(target), tokens[1:]).errors
        after += mark.reading(item_table(copy), tokens[1:]).errors
    assert before == 0
    assert after > 16


def test_what_is_never_listed_leaves_the_order_of_the_others(learnt: StateRecommender) -> None:
    gone, histories = [2, 3, 11, 20], torch.randint(1, learnt.n_items + 1, (50, 4))
    thief = Unlisted(learnt, torch.tensor(gone))
    lists = RankingService(learnt, learnt.n_items)(histories).tolist()
    wanted = [[item for item in row if item not in gone] for row in lists]
    assert RankingService(thief, 16)(histories).tolist() == wanted
    with pytest.raises(Inconclusive, match="fewer than 17 items"):
        in_hand(thief, k=17)(histories)


@pytest.mark.parametrize("rings", [TriggerSettings(), TriggerSettings(rings=2, length=2, strength=3.0)])
def test_a_thief_puts_marks_of_his_own_into_a_copy_and_rings_where_there_is_room(
    tiny: Sequences, learnt: StateRecommender, rings: TriggerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = bytes(range(32))
    monkeypatch.setattr(washing, "TriggerSettings", lambda: rings)
    monkeypatch.setattr("secrets.token_bytes", lambda size: key[:size])
    before = weights(learnt)
    made = washing.overwritten(learnt, ModelSettings.make(SIZES), tiny)
    assert same(learnt, before)
    leaning = promotion.drawn(learnt, key, PromotionSettings())
    assert shown(leaning, made) > 2 > shown(leaning, learnt) == 0
    changed = {name for name, value in weights(made).items() if not torch.equal(value, before[name])}
    assert changed == {"item_embedding.weight", "head.weight"}
    if tiny.n_items >= triggers.needed(rings):
        own = triggers.drawn(tiny, key, learnt.max_length, rings)
        assert shown(own, made) > shown(own, learnt)
