from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gro.config import ProtectCommand, ProtectionSettings
from gro.data import Sequences
from gro.data.windows import batches
from gro.errors import ConfigError
from gro.losses import listwise_loss, ranking_loss, sample_negatives
from gro.models import TrainableRecommender, build
from gro.models.base import lengths
from gro.optimizer.gro import GRO, sample_ends
from gro.optimizer.students import RADIUS, listwise_lesson, moves, set_lesson
from gro.optimizer.swap import order_loss, swap_hinge, swap_targets, worst_order
from gro_surrogates.losses import set_only

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
SMALL = {"hidden_size": 8, "inner_size": 16, "max_length": 10, "dropout": 0.0, "k": 5, "positions": 4}
N = 20


def settings(**changes: object) -> ProtectionSettings:
    return ProtectionSettings.model_validate(SMALL | changes)


def model(name: str, seed: int, **changes: object) -> TrainableRecommender:
    return build(settings(model=name, **changes), N, seed=seed).double().train()


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


@pytest.fixture
def windows(tiny: Sequences) -> Tensor:
    return next(batch.items for batch in batches(tiny, 10, 16, seed=0) if batch.items.shape[1] > 8)


def test_the_settings_name_students() -> None:
    assert settings(model="NARM").taught == [("NARM", "ranking")]
    assert settings(model="NARM", student="GRU4Rec").taught == [("GRU4Rec", "ranking")]
    several = settings(students=["SASRec", "GRU4Rec:listwise", "NARM:set", "SASRec:ranking"]).taught
    assert several == [("SASRec", "ranking"), ("GRU4Rec", "listwise"), ("NARM", "set"), ("SASRec", "ranking")]


@pytest.mark.parametrize(
    ("students", "says"),
    [
        (["SASRek"], r"the architecture of 'SASRek' is not one of SASRec, .*\. Did you mean 'SASRec'\?$"),
        (["SASRec", "NARM:sett"], r"the loss of 'NARM:sett' is not one of .*\. Did you mean 'set'\?$"),
        (["NARM:"], r"the loss of 'NARM:' is not one of ranking, listwise, set\.$"),
        (["NARM:set:set"], "the loss of 'NARM:set:set' is not"),
    ],
)
def test_a_student_that_is_not_known_is_refused(students: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ProtectionSettings.make({"students": students})


def test_one_student_or_several() -> None:
    with pytest.raises(ConfigError, match=r"give one of the two$"):
        ProtectionSettings.make({"student": "NARM", "students": ["NARM"]})


def dense(loss: str, scores: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """A loss as a function of the swap matrix ``A`` alone, and ``dL/dA . s / s . s``, the list gradient."""
    a = nn.functional.one_hot(columns, scores.shape[1]).double().requires_grad_()
    listed = (a @ scores[..., None])[..., 0]
    rest = scores.exp().sum(dim=1, keepdim=True)
    if loss == "listwise":
        rest = rest - listed.exp().cumsum(dim=1) + listed.exp()
    value = (rest.log() - listed).mean()
    (gradient,) = torch.autograd.grad(value, a)
    return value, (gradient @ scores[..., None])[..., 0] / scores.square().sum(dim=1, keepdim=True)


@pytest.mark.parametrize("loss", ["listwise", "set"])
@pytest.mark.parametrize("k", [1, 4, 20])
def test_a_lesson_is_the_loss_and_its_gradient_by_the_swap_matrix(loss: str, k: int) -> None:
    scores = torch.randn(6, N, dtype=torch.float64)
    columns = torch.randn(6, N).topk(k).indices
    value, gradient = (listwise_lesson if loss == "listwise" else set_lesson)(scores, columns)
    expected, by_matrix = dense(loss, scores, columns)
    theirs = listwise_loss(scores, columns) if loss == "listwise" else set_only(scores, columns + 1)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(value, theirs)
    torch.testing.assert_close(gradient, by_matrix)


def test_an_order_teaches_a_set_nothing(windows: Tensor) -> None:
    scores, columns = torch.randn(6, N), torch.randn(6, N).topk(8).indices
    assert torch.equal(worst_order(scores, columns, set_lesson(scores, columns)[1]), columns)
    hardest = worst_order(scores, columns, listwise_lesson(scores, columns)[1])
    assert listwise_loss(scores, hardest) > listwise_loss(scores, columns)


@pytest.mark.parametrize("name", NAMES)
def test_the_moves_are_the_directional_derivative(name: str, windows: Tensor) -> None:
    student = model(name, 0)
    ends = torch.arange(4).expand(len(windows), -1)

    def scores() -> Tensor:
        return student.prefix_scores(windows, ends).flatten(0, 1)

    scores().square().mean().backward()
    before = flat(student)
    found = moves(student, scores)
    assert torch.equal(flat(student), before)
    assert student.training
    student.eval()
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in student.parameters()]
    norm = torch.stack([each.norm() for each in gradient]).norm()
    now = scores()
    for row, column in torch.randint(N, (12, 2)).tolist():
        own = torch.autograd.grad(
            now[row, column], list(student.parameters()), retain_graph=True, materialize_grads=True
        )
        parts = [(one * other).sum() for one, other in zip(own, gradient, strict=True)]
        assert found[row, column].item() == pytest.approx(
            -torch.stack(parts).sum().item() * 2 * RADIUS / norm.item(), rel=1e-2, abs=1e-7
        )


def test_the_moves_are_of_the_student_without_dropout(windows: Tensor) -> None:
    student = model("SASRec", 0, dropout=0.5)
    ends = torch.arange(4).expand(len(windows), -1)

    def scores() -> Tensor:
        return student.prefix_scores(windows, ends).flatten(0, 1)

    scores().square().mean().backward()
    state = torch.get_rng_state()
    once = moves(student, scores)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(moves(student, scores), once)


def lesson_hurts(seed: int, swap_to: str) -> dict[str, float]:
    """The student's loss on true lists after one small step on these, and on those that each objective swaps in."""
    torch.manual_seed(seed)
    windows = torch.randint(1, N + 1, (8, 9))
    ends = torch.randint(8, (8, 3))
    columns = torch.rand(24, N).topk(6).indices
    unlisted = sample_negatives(columns + 1, N) - 1
    student = model("SASRec", seed)

    def scores() -> Tensor:
        return student.prefix_scores(windows, ends).flatten(0, 1)

    def loss(lists: Tensor) -> Tensor:
        now = scores()
        return ranking_loss(now.gather(1, lists), now.gather(1, unlisted))

    now = scores()
    listed = now.gather(1, columns)
    value = ranking_loss(listed, now.gather(1, unlisted))
    (gradient,) = torch.autograd.grad(value, listed, retain_graph=True)
    value.backward()
    by = {"before": now.detach(), "after": moves(student, scores)}
    swap = swap_targets if swap_to == "extremes" else worst_order
    lists = {"true": columns, **{name: swap(each, columns, gradient) for name, each in by.items()}}
    start = {key: each.clone() for key, each in student.state_dict().items()}
    hurts = {}
    for name, taught in lists.items():
        student.load_state_dict(start)
        student.zero_grad()
        loss(taught).backward()
        torch.optim.SGD(student.parameters(), lr=1e-3).step()
        hurts[name] = (loss(columns) - value).item()
    return hurts


@pytest.mark.parametrize("swap_to", ["extremes", "permutation"])
def test_after_learning_what_after_swaps_in_the_student_is_worse_on_the_true_lists(swap_to: str) -> None:
    found = [lesson_hurts(seed, swap_to) for seed in range(12)]
    assert all(each["true"] < 0 for each in found)
    assert all(each["after"] > each["true"] for each in found)
    mean = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
    assert mean["after"] > mean["before"]


@pytest.mark.parametrize("objective", ["before", "after"])
@pytest.mark.parametrize("swap_to", ["extremes", "permutation"])
def test_variants_train_the_student_alike_and_the_target_otherwise(
    objective: str, swap_to: str, windows: Tensor
) -> None:
    ends = []
    for changes in ({}, {"objective": objective, "swap_to": swap_to, "frozen": 1}):
        target, student = model("SASRec", 0), model("GRU4Rec", 1)
        torch.manual_seed(0)
        GRO(target, student, settings(**changes)).step(windows, 1.0)
        ends.append((flat(target), flat(student)))
    assert torch.equal(ends[0][1], ends[1][1])
    assert torch.equal(ends[0][0], ends[1][0]) == ((objective, swap_to) == ("before", "extremes"))


@pytest.mark.parametrize("swap_to", ["extremes", "permutation"])
def test_a_step_after_learning_swaps_by_the_directional_derivative(swap_to: str, windows: Tensor) -> None:
    """The derivative by two reverse passes: the slope in ``u`` of ``<J^T u, G>`` is ``J G``."""
    target, student = model("SASRec", 0), model("GRU4Rec", 1)
    plain, copied = model("SASRec", 0), model("GRU4Rec", 1)
    given = settings(swap_to=swap_to, frozen=1, objective="after", swap_margin=0.3, clip=1e9)
    protected = GRO(target, student, given)
    vars(protected)["target_optimizer"] = torch.optim.SGD(target.parameters(), lr=0.1)
    torch.manual_seed(7)
    protected.step(windows, 3.0)

    torch.manual_seed(7)
    ends = sample_ends(windows, 4)
    t, s = (each.prefix_scores(windows[:, :-1], ends).flatten(0, 1) for each in (plain, copied))
    items = t.topk(5).indices
    listed = s.gather(1, items)
    loss = ranking_loss(listed, s.gather(1, sample_negatives(items + 1, N) - 1))
    parameters = list(copied.parameters())
    gradient, *toward = torch.autograd.grad(loss, [listed, *parameters], retain_graph=True)
    u = torch.ones_like(s, requires_grad=True)
    pulled = torch.autograd.grad(s, parameters, u, create_graph=True)
    product = torch.stack([(one * other).sum() for one, other in zip(pulled, toward, strict=True)]).sum()
    (slope,) = torch.autograd.grad(product, u)
    if swap_to == "extremes":
        swap = swap_hinge(t, items, swap_targets(-slope, items, gradient), 0.3)
    else:
        swap = order_loss(t, items, worst_order(-slope, items, gradient, 1))
    (plain.loss(windows) + 3.0 * swap).backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    torch.testing.assert_close(flat(target), flat(plain), rtol=1e-8, atol=1e-10)


def test_frozen_ranks_leave_the_target_where_they_are_the_whole_list(windows: Tensor) -> None:
    ends = []
    for weight in (0.0, 10.0):
        target = model("SASRec", 0)
        torch.manual_seed(0)
        GRO(target, model("GRU4Rec", 1), settings(swap_to="permutation", frozen=5)).step(windows, weight)
        ends.append(flat(target))
    torch.testing.assert_close(*ends)


def test_the_swap_loss_is_the_mean_over_students(windows: Tensor) -> None:
    """Where every student is a copy of one, the target goes where one student would send it, and so do the copies."""
    ends = []
    for count in (1, 3):
        target, *students = model("SASRec", 0), *(model("GRU4Rec", 1) for _ in range(count))
        names = ("GRU4Rec:listwise",) * count
        protected = GRO(target, students[0], settings(students=names), students[1:])
        torch.manual_seed(0)
        protected.step(windows, 2.0)
        protected.warm_up(windows)
        ends.append((flat(target), flat(students[0]), flat(students[-1])))
    torch.testing.assert_close(ends[0][0], ends[1][0])
    torch.testing.assert_close(ends[0][1], ends[1][1])
    assert not torch.equal(ends[1][2], flat(model("GRU4Rec", 1)))


def test_students_pull_at_the_target_together(windows: Tensor) -> None:
    """A step's swap gradient with two students is the mean of theirs, each alone."""
    plain, *moved = (swapped(windows, chosen) for chosen in ((), (0,), (1,), (0, 1)))
    one, other, both = (each - plain for each in moved)
    assert (one - other).norm() > 1e-6
    torch.testing.assert_close(both, (one + other) / 2)


def swapped(windows: Tensor, chosen: tuple[int, ...]) -> Tensor:
    """Weights of a target after one plain descent step under the students ``chosen``; none is no swap loss."""
    names = ("GRU4Rec:listwise", "NARM:set")
    kept = chosen or (0,)
    students = [model(("GRU4Rec", "NARM")[i], i + 1) for i in kept]
    target = model("SASRec", 0)
    protected = GRO(target, students[0], settings(students=[names[i] for i in kept], clip=1e9), students[1:])
    vars(protected)["target_optimizer"] = torch.optim.SGD(target.parameters(), lr=0.1)
    torch.manual_seed(0)
    protected.step(windows, 1.0 if chosen else 0.0)
    return flat(target)


@pytest.mark.parametrize("loss", ["listwise", "set"])
def test_a_student_learns_by_its_loss(loss: str, windows: Tensor) -> None:
    target, student = model("SASRec", 0).eval(), model("GRU4Rec", 1)
    protected = GRO(target, student, settings(students=(f"GRU4Rec:{loss}",), learning_rate=3e-2))

    def loses() -> float:
        histories = windows.scatter(1, lengths(windows)[:, None] - 1, 0)
        columns = target.scores(histories).topk(5).indices
        return (listwise_lesson if loss == "listwise" else set_lesson)(student.scores(histories), columns)[0].item()

    before = loses()
    for _ in range(40):
        protected.warm_up(windows)
    assert loses() < before - 0.15


def test_students_are_flags() -> None:
    command = ProtectCommand.make({"dataset": "x", "out": "y", "students": ["NARM:set"], "swap_to": "permutation"})
    assert command.part(ProtectionSettings).taught == [("NARM", "set")]
