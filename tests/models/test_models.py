from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gro.config import ModelSettings
from gro.data import Sequences
from gro.data.windows import batches
from gro.errors import ConfigError
from gro.models import BERT4Rec, CausalRecommender, Recommender, StateRecommender, build
from gro.ranking import top_k

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
CAUSAL = NAMES[:3]
N_ITEMS, LENGTH = 15, 8
SEEDS = st.integers(0, 2**31)


def make(name: str, *, seed: int = 0, n_items: int = N_ITEMS, **changes: float) -> StateRecommender:
    """A small model in float64 and evaluation mode, its weights large enough to matter."""
    size: dict[str, object] = {"model": name, "hidden_size": 8, "inner_size": 12, "max_length": LENGTH}
    model = build(ModelSettings.model_validate(size | changes), n_items, seed=seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def causal(name: str, **changes: float) -> CausalRecommender:
    model = make(name, seed=0, n_items=N_ITEMS, **changes)
    assert isinstance(model, CausalRecommender)
    return model


def draw(seed: int, batch: int, width: int, shortest: int = 1) -> Tensor:
    """Right-padded histories of ``shortest``..``width`` items; the first fills its row."""
    generator = torch.Generator().manual_seed(seed)
    histories = torch.randint(1, N_ITEMS + 1, (batch, width), generator=generator)
    length = torch.randint(shortest, width + 1, (batch,), generator=generator)
    length[0] = width
    return histories * (torch.arange(width) < length[:, None])


def lengths(histories: Tensor) -> list[int]:
    return [int(n) for n in (histories > 0).sum(1)]


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(seed=SEEDS)
def test_prefix_scores_are_the_scores_of_the_cut_history(name: str, seed: int) -> None:
    model, histories = make(name), draw(seed, 3, LENGTH)
    ends = torch.stack([torch.randint(0, n, (4,)) for n in lengths(histories)])
    found = model.prefix_scores(histories, ends)
    assert found.shape == (3, 4, N_ITEMS)
    for b, row in enumerate(ends.tolist()):
        for j, end in enumerate(row):
            same(found[b, j], model.scores(histories[b : b + 1, : end + 1])[0])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(seed=SEEDS, padding=st.sampled_from([1, LENGTH, 40]))
def test_padding_and_the_rest_of_the_batch_have_no_influence(name: str, seed: int, padding: int) -> None:
    model, histories = make(name), draw(seed, 4, LENGTH)
    scores = model.scores(histories)
    same(model.scores(F.pad(histories, (0, padding))), scores)
    for row, n, expected in zip(histories, lengths(histories), scores, strict=True):
        same(model.scores(row[None, :n])[0], expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_padding_vector_has_no_influence(name: str) -> None:
    model, histories = make(name), draw(1, 4, LENGTH)
    before = model.scores(histories)
    with torch.no_grad():
        model.item_embedding.weight[0] = 50
    same(model.scores(histories), before)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=5)
@given(seed=SEEDS)
def test_only_the_most_recent_items_are_read(name: str, seed: int) -> None:
    model, histories = make(name), draw(seed, 4, 3 * LENGTH)
    expected = [
        model.scores(row[None, :n][:, -LENGTH:])[0] for row, n in zip(histories, lengths(histories), strict=True)
    ]
    same(model.scores(histories), torch.stack(expected))


@pytest.mark.parametrize("name", NAMES)
def test_every_item_of_a_short_history_is_read_in_order(name: str) -> None:
    model, history = make(name), torch.arange(1, LENGTH)[None]
    before = model.scores(history)
    for position in range(history.shape[1]):
        changed = history.clone()
        changed[0, position] = N_ITEMS
        assert (model.scores(changed) - before).abs().max() > 1e-6
    assert (model.scores(history.flip(1)) - before).abs().max() > 1e-6


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("max_length", [LENGTH, 70])  # NARM attends in chunks of 32
def test_later_items_do_not_change_earlier_states(name: str, max_length: int) -> None:
    model = causal(name, max_length=max_length)
    histories = torch.randint(1, N_ITEMS + 1, (2, max_length))
    before = model.states(histories)
    for position in range(1, max_length, max(1, max_length // 8)):
        changed = histories.clone()
        changed[:, position:] = changed[:, position:] % N_ITEMS + 1
        after = model.states(changed)
        same(after[:, :position], before[:, :position])
        assert (after[:, position:] - before[:, position:]).abs().amax(dim=(0, 2)).min() > 1e-9


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize(("max_length", "n_layers"), [(LENGTH, 1), (LENGTH, 3), (70, 2)])
def test_extend_step_by_step_gives_the_states(name: str, max_length: int, n_layers: int) -> None:
    model = causal(name, max_length=max_length, n_layers=n_layers, dropout=0.5)
    histories = torch.randint(1, N_ITEMS + 1, (3, max_length))
    with torch.inference_mode():
        memory = model.memory(3)
        found = [model.extend(memory, position, histories[:, position]) for position in range(max_length)]
        same(torch.stack(found, dim=1), model.states(histories))


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_is_a_model_and_leaves_other_randomness_alone(name: str) -> None:
    settings = ModelSettings.model_validate({"model": name, "hidden_size": 8})
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (build(settings, N_ITEMS, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["item_embedding.weight"], other["item_embedding.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_the_head_is_the_item_table(name: str) -> None:
    model = build(ModelSettings.model_validate({"model": name, "hidden_size": 8}), N_ITEMS)
    for same_model in (model, copy.deepcopy(model), model.double()):
        assert same_model.head.weight is same_model.item_embedding.weight
        assert sum(parameter is same_model.head.weight for parameter in same_model.parameters()) == 1
    model.load_state_dict({key: value + 1 for key, value in model.state_dict().items()})
    assert model.head.weight is model.item_embedding.weight
    before = model.eval().scores(torch.tensor([[1, 2]]))
    with torch.no_grad():
        model.item_embedding.weight[9] *= 2
    changed = (model.scores(torch.tensor([[1, 2]])) - before).abs()[0] > 1e-9
    assert changed.nonzero().flatten().tolist() == [8]


@pytest.mark.parametrize("name", NAMES)
def test_models_are_recommenders_of_their_size(name: str) -> None:
    model = make(name)
    assert isinstance(model, Recommender)
    assert (model.n_items, model.max_length) == (N_ITEMS, LENGTH)
    assert model.one_pass == (name != "BERT4Rec")
    assert model.scores(torch.tensor([[1], [15]])).shape == (2, N_ITEMS)


def test_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(ConfigError, match="hidden_size 10 is not a multiple of n_heads 4"):
        build(ModelSettings(hidden_size=10, n_heads=4), N_ITEMS)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_in_training_alone(name: str) -> None:
    model, histories = make(name, dropout=0.5), draw(0, 2, LENGTH)
    assert torch.equal(model.scores(histories), model.scores(histories))
    model.train()
    assert not torch.equal(model.scores(histories), model.scores(histories))


@pytest.mark.parametrize("name", CAUSAL)
@settings(max_examples=8)
@given(seed=SEEDS)
def test_loss_is_the_cross_entropy_of_every_next_item(name: str, seed: int) -> None:
    model, windows = causal(name), draw(seed, 3, LENGTH + 1, shortest=2)
    terms = [
        F.cross_entropy(model.scores(row[None, : end + 1]), row[end + 1][None] - 1)
        for row, n in zip(windows, lengths(windows), strict=True)
        for end in range(n - 1)
    ]
    same(model.loss(windows), torch.stack(terms).mean())


@pytest.mark.parametrize("name", CAUSAL)
def test_loss_and_scores_share_a_pass_and_change_nothing(name: str) -> None:
    model, windows = causal(name, dropout=0.0), draw(2, 3, LENGTH + 1, shortest=2)
    ends = torch.stack([torch.randint(0, n - 1, (4,)) for n in lengths(windows)])
    loss, scores = model.loss_and_scores(windows, ends)
    same(loss, model.loss(windows))
    same(scores, model.prefix_scores(windows[:, :-1], ends))
    ours = torch.autograd.grad(loss + scores.square().sum(), model.item_embedding.weight)[0]
    apart = model.loss(windows) + model.prefix_scores(windows[:, :-1], ends).square().sum()
    same(ours, torch.autograd.grad(apart, model.item_embedding.weight)[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 7, 600])
def test_cross_entropy_is_that_of_dense_logits(name: str, n: int) -> None:
    model = make(name, n_items=300)
    generator = torch.Generator().manual_seed(n)
    items = torch.randint(1, 301, (n,), generator=generator)
    states = torch.randn(n, 8, generator=generator, dtype=torch.float64).requires_grad_()
    wanted = [states, model.item_embedding.weight]
    if isinstance(model, BERT4Rec):
        wanted.append(model.output_bias)
    ours, dense = model.cross_entropy(states, items), F.cross_entropy(model.item_scores(states), items - 1)
    same(ours, dense)
    for found, expected in zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(dense, wanted), strict=True):
        assert expected.abs().sum() > 0
        same(found, expected)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss_and_finds_the_chain(name: str, tiny: Sequences) -> None:
    size = {"model": name, "hidden_size": 32, "n_layers": 1, "max_length": 10, "dropout": 0.1}
    model = build(ModelSettings.model_validate(size), tiny.n_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    torch.manual_seed(0)
    losses = []
    for epoch in range(60 if name == "BERT4Rec" else 20):
        for windows, _ in batches(tiny.train, 10, 16, epoch):
            optimizer.zero_grad()
            loss = model.loss(windows)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-5:]) < 0.75 * sum(losses[:5])
    chains = (torch.arange(20)[:, None] + torch.arange(5)) % 20 + 1
    with torch.inference_mode():
        first = top_k(model.eval().scores(chains), 1)[:, 0]
    assert (first == chains[:, -1] % 20 + 1).double().mean() > (0.2 if name == "BERT4Rec" else 0.7)


def bert(**changes: float) -> BERT4Rec:
    model = make("BERT4Rec", seed=0, n_items=N_ITEMS, **changes)
    assert isinstance(model, BERT4Rec)
    return model


def test_bert_reads_the_state_of_a_mask_after_the_history() -> None:
    model, history = bert(), torch.tensor([[3, 1, 4]])
    row = torch.tensor([[3, 1, 4, model.mask_item]])
    table = model.item_embedding.weight[1 : N_ITEMS + 1]
    same(model.scores(history), model.states(row)[:, 3] @ table.T + model.output_bias[1:])


def test_bert_sees_both_sides() -> None:
    model, row = bert(), torch.tensor([[3, 1, 4, 1, 5]])
    changed = row.clone()
    changed[0, 4] = 9
    assert (model.states(changed)[:, 0] - model.states(row)[:, 0]).abs().max() > 1e-6


def test_bert_never_recommends_its_mask() -> None:
    model, histories = bert(), draw(3, 6, LENGTH)
    with torch.no_grad():
        model.item_embedding.weight[model.mask_item] *= 1000
    scores = model.scores(histories)
    assert scores.shape == (6, N_ITEMS)
    assert sorted(top_k(scores, N_ITEMS)[0].tolist()) == list(range(1, N_ITEMS + 1))


def test_bert_keeps_room_for_its_mask() -> None:
    model, history = bert(), torch.arange(1, LENGTH + 1)[None]
    same(model.scores(history), model.scores(history[:, 1:]))
    assert (model.scores(history[:, 1:]) - model.scores(history[:, 2:])).abs().max() > 1e-6


@pytest.mark.parametrize("n", [2, 5, LENGTH, LENGTH + 1, 20])
def test_bert_drops_the_oldest_item_where_asked(n: int) -> None:
    model, recboles = bert(), bert(drop_oldest=True)
    history = torch.randint(1, N_ITEMS + 1, (2, n))
    same(recboles.scores(history), model.scores(history[:, -LENGTH:][:, 1:]))


def test_bert_that_drops_the_only_item_answers_from_the_mask_alone() -> None:
    model = bert(drop_oldest=True)
    alone = model.item_scores(model.states(torch.tensor([[model.mask_item]]))[:, 0])
    same(model.scores(torch.tensor([[3], [8]])), alone.expand(2, -1))


@pytest.mark.parametrize("n", [2, 5, LENGTH])
def test_bert_masks_the_last_item_alone_in_every_other_row(n: int) -> None:
    model, window = bert(), torch.randint(1, N_ITEMS + 1, (1, n))
    expected = F.cross_entropy(model.scores(window[:, :-1]), window[:, -1] - 1)
    same(model.loss(F.pad(window, (0, LENGTH - n))), expected)


def test_bert_loss_reads_the_most_recent_items() -> None:
    model, windows = bert(), torch.randint(1, N_ITEMS + 1, (4, LENGTH + 1))
    torch.manual_seed(1)
    whole = model.loss(windows)
    torch.manual_seed(1)
    same(whole, model.loss(windows[:, 1:]))


def test_bert_masks_the_share_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bert(mask_ratio=0.3, max_length=100)
    seen: list[Tensor] = []
    states = model.states

    def noted(items: Tensor) -> Tensor:
        seen.append(items)
        return states(items)

    monkeypatch.setattr(model, "states", noted)
    windows = torch.randint(1, N_ITEMS + 1, (60, 100)).masked_fill(torch.arange(100) >= 90, 0)
    model.loss(windows)
    masked = seen[0] == model.mask_item
    assert masked[1::2, :90].double().mean().item() == pytest.approx(0.3, abs=0.03)
    assert masked[::2].sum(1).tolist() == [1] * 30
    assert masked[::2, 89].all()
    assert not masked[:, 90:].any()
    assert torch.equal(seen[0].masked_fill(masked, 0), windows.masked_fill(masked, 0))
