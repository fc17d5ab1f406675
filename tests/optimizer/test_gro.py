from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.data.windows import batches
from gro.losses import ranking_loss, sample_negatives
from gro.models import TrainableRecommender, adapt, build
from gro.models.base import lengths
from gro.optimizer.gro import GRO, sample_ends

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")


def settings(name: str = "SASRec", **changes: float) -> ProtectionSettings:
    small: dict[str, object] = {"model": name, "hidden_size": 8, "inner_size": 16, "max_length": 10, "dropout": 0.0}
    return ProtectionSettings.model_validate(small | {"k": 5, "positions": 4} | changes)


def model(name: str, seed: int) -> TrainableRecommender:
    return build(settings(name), 20, seed=seed).double().train()


def sgd(module: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=lr)


def gro(target: TrainableRecommender, student: TrainableRecommender, lr: float = 0.1, **changes: float) -> GRO:
    """GRO that descends plainly, so that steps can be compared: Adam would hide a factor."""
    protected = GRO(target, student, settings("SASRec", **changes))
    vars(protected).update(target_optimizer=sgd(target, lr), student_optimizer=sgd(student, lr))
    return protected


def reseeded(module: TrainableRecommender) -> TrainableRecommender:
    """Let the random masks of BERT4Rec's loss be the same whatever else was drawn before."""
    loss = module.loss

    def wrapped(windows: Tensor, context: Tensor | None = None) -> Tensor:
        torch.manual_seed(11)
        return loss(windows, context)

    module.loss = wrapped  # type: ignore[method-assign]
    return module


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


@pytest.fixture
def windows(tiny: Sequences) -> Tensor:
    return next(batch.items for batch in batches(tiny, 10, 16, seed=0) if batch.items.shape[1] > 8)


def test_prefixes_end_before_a_known_item() -> None:
    torch.manual_seed(0)
    windows = torch.ones(3, 7, dtype=torch.int64)
    windows[1, 2:] = 0
    windows[2, 5:] = 0
    ends = sample_ends(windows, 4000)
    assert ends.shape == (3, 4000)
    for row, n in zip(ends, lengths(windows).tolist(), strict=True):
        counts = row.bincount()
        assert len(counts) == n - 1
        assert counts.min() > 0.8 * 4000 / (n - 1)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_weight_the_target_trains_as_if_plain(name: str, windows: Tensor) -> None:
    target, plain = (reseeded(model(name, 0)) for _ in range(2))
    optimizer = sgd(plain)
    protected = gro(target, model("GRU4Rec", 1))
    for _ in range(3):
        protected.step(windows, 0.0)
        optimizer.zero_grad()
        plain.loss(windows).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 5.0)
        optimizer.step()
    torch.testing.assert_close(flat(target), flat(plain), rtol=1e-10, atol=1e-12)
    assert (flat(target) - flat(model(name, 0))).norm() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", ["SASRec", "BERT4Rec"])
def test_a_step_descends_equation_10_with_literal_swap_matrices(name: str, other: str, windows: Tensor) -> None:
    weight, m1, m2 = 3.0, 0.2, 0.7
    (target, plain), (student, copied) = (
        (reseeded(model(each, seed)) for _ in range(2)) for seed, each in enumerate((name, other))
    )
    protected = gro(target, student, swap_margin=0.3, order_margin=m1, negative_margin=m2, clip=1e9)
    torch.manual_seed(7)
    protected.step(windows, weight)

    torch.manual_seed(7)
    ends = sample_ends(windows, 4 if target.one_pass and student.one_pass else 1)
    t, s = (each.prefix_scores(windows[:, :-1], ends).flatten(0, 1) for each in (plain, copied))
    items = t.topk(5).indices
    a = F.one_hot(items, 20).double().requires_grad_()
    negatives = s.gather(1, sample_negatives(items + 1, 20) - 1)
    student_loss = ranking_loss((a @ s[..., None])[..., 0], negatives, order_margin=m1, negative_margin=m2)
    (gradient,) = torch.autograd.grad(student_loss, a, retain_graph=True)
    still = (gradient == 0).all(-1, keepdim=True)
    swapped = torch.where(still, a, F.one_hot(gradient.argmax(-1), 20).double()).detach()
    swap = F.relu((a.detach() - swapped) @ t[..., None] + 0.3).mean()
    (plain.loss(windows) + weight * swap).backward()
    sgd(plain).step()
    copied.zero_grad()
    student_loss.backward()
    sgd(copied).step()
    torch.testing.assert_close(flat(target), flat(plain), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(flat(student), flat(copied), rtol=1e-8, atol=1e-10)


def test_the_swap_loss_moves_the_target_and_not_the_student(windows: Tensor) -> None:
    moved = []
    for weight in (0.0, 10.0):
        target, student = model("SASRec", 0), model("GRU4Rec", 1)
        torch.manual_seed(0)
        gro(target, student, swap_margin=0.5).step(windows, weight)
        moved.append((flat(target), flat(student)))
    assert (moved[0][0] - moved[1][0]).norm() > 1e-3
    assert torch.equal(moved[0][1], moved[1][1])


@pytest.mark.parametrize("steps", ["step", "warm_up"])
def test_steps_are_clipped(steps: str, windows: Tensor) -> None:
    target, student = model("SASRec", 0), model("GRU4Rec", 1)
    before = flat(target), flat(student)
    protected = gro(target, student, lr=1.0, clip=0.001)
    if steps == "step":
        protected.step(windows, 100.0)
        assert (flat(target) - before[0]).norm().item() == pytest.approx(0.001, rel=1e-2)
    else:
        protected.warm_up(windows)
    assert (flat(student) - before[1]).norm().item() == pytest.approx(0.001, rel=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_trains_the_student_alone(name: str, windows: Tensor) -> None:
    target, student = model(name, 0).eval(), model(name, 1)
    before = flat(target), flat(student)
    protected = gro(target, student)
    protected.warm_up(windows)
    assert torch.equal(flat(target), before[0])
    assert all(parameter.grad is None for parameter in target.parameters())
    assert (flat(student) - before[1]).norm() > 1e-4


def test_the_student_learns_the_lists_that_are_served(windows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thief gets lists without dropout, whatever mode the target trains in; the target trains on with it."""
    target = build(settings(dropout=0.5), 20, seed=0).double().train()
    student = model("GRU4Rec", 1)
    taught: list[Tensor] = []

    def negatives(items: Tensor, n_items: int) -> Tensor:
        taught.append(items)
        return sample_negatives(items, n_items)

    monkeypatch.setattr("gro.optimizer.gro.sample_negatives", negatives)
    torch.manual_seed(0)
    gro(target, student).step(windows, 1.0)
    assert target.training
    torch.manual_seed(0)
    ends = sample_ends(windows, 4)
    served = build(settings(), 20, seed=0).double().eval().prefix_scores(windows[:, :-1], ends).flatten(0, 1)
    assert torch.equal(taught[0], served.topk(5).indices + 1)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_target_is_left(training: bool, windows: Tensor) -> None:
    target = model("SASRec", 0).train(training)
    gro(target, model("GRU4Rec", 1)).warm_up(windows)
    assert target.training == training


def test_optimizers_follow_the_settings() -> None:
    protected = GRO(model("SASRec", 0), model("GRU4Rec", 1), settings(learning_rate=0.02, weight_decay=0.3))
    for optimizer, module in (
        (protected.target_optimizer, protected.target),
        (protected.student_optimizer, protected.student),
    ):
        assert isinstance(optimizer, torch.optim.AdamW)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (0.02, 0.3)
        assert [id(p) for p in group["params"]] == [id(p) for p in module.parameters()]


@torch.inference_mode()
def student_loss(target: TrainableRecommender, student: TrainableRecommender, windows: Tensor) -> float:
    """The student's ranking loss on the target's lists after every whole window but its last item."""
    torch.manual_seed(0)
    histories = windows.scatter(1, lengths(windows)[:, None] - 1, 0)
    columns = target.eval().scores(histories).topk(5).indices
    scores = student.eval().scores(histories)
    target.train()
    student.train()
    negatives = torch.cat([scores.gather(1, sample_negatives(columns + 1, 20) - 1) for _ in range(20)])
    return float(ranking_loss(scores.gather(1, columns).repeat(20, 1), negatives))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warm", [True, False])
def test_the_student_learns_the_targets_lists(name: str, warm: bool, windows: Tensor) -> None:
    target, student = model("GRU4Rec", 0), model(name, 1)
    protected = GRO(target, student, settings(positions=8, learning_rate=1e-2))
    vars(protected)["target_optimizer"] = sgd(target, 0.01)  # a target that moves slowly
    before = student_loss(target, student, windows)
    torch.manual_seed(0)
    for _ in range(60):
        if warm:
            protected.warm_up(windows)
        else:
            protected.step(windows, 0.0)
    assert student_loss(target, student, windows) < 0.7 * before


@pytest.mark.parametrize("name", ["SASRec", "BERT4Rec"])
def test_an_adapted_module_can_be_protected(name: str, windows: Tensor) -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(21, 20, padding_idx=0)

        def forward(self, histories: Tensor) -> Tensor:
            scores: Tensor = self.bag(histories)
            return scores

    target, student = adapt(Bag(), 20, 10), model(name, 1)
    before = flat(target), flat(student)
    gro(target, student).step(windows, 1.0)
    assert (flat(target) - before[0]).norm() > 1e-3
    assert (flat(student) - before[1]).norm() > 1e-4


def test_a_seed_is_a_protection(tiny: Sequences) -> None:
    ends = []
    for seed in (0, 0, 1):
        target, student = (build(settings(dropout=0.3), 20, seed=s).train() for s in (0, 1))
        torch.manual_seed(seed)
        protected = GRO(target, student, settings(dropout=0.3))
        for windows, _ in batches(tiny, 10, 16, 0):
            protected.step(windows, 1.0)
        ends.append(torch.cat([flat(target), flat(student)]).numpy())
    np.testing.assert_array_equal(ends[0], ends[1])
    assert (ends[0] != ends[2]).any()
