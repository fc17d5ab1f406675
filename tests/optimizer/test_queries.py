from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.data.windows import Windows, batches
from gro.defenses.training import PaperTraining, Training, thieves
from gro.errors import ConfigError
from gro.metrics import ndcg
from gro.models import StateRecommender, TrainableRecommender, build
from gro.optimizer.gro import GRO
from gro.optimizer.protect import Protection
from gro.optimizer.queries import attacked
from gro.ranking import ranks
from gro.training import Quiet

SMALL: dict[str, Any] = {"hidden_size": 8, "inner_size": 16, "n_layers": 1, "n_heads": 1, "max_length": 10, "k": 5}
ALL: dict[str, Any] = {
    "swap_to": "permutation",
    "frozen": 2,
    "objective": "after",
    "students": ("SASRec", "GRU4Rec:listwise", "NARM:set"),
}


def settings(**changes: Any) -> ProtectionSettings:
    quick = {"batch_size": 16, "positions": 4, "warm_up_epochs": 1, "protect_epochs": 2, "dropout": 0.1}
    return ProtectionSettings.model_validate(SMALL | quick | changes)


def model(seed: int = 0, name: str = "SASRec") -> StateRecommender:
    return build(settings(model=name), 20, seed=seed)


def flat(*modules: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for module in modules for p in module.parameters()])


def test_every_batch_gets_as_many_histories_in_turn() -> None:
    histories = torch.arange(1, 6)[:, None].expand(5, 4)
    windows = [Windows(torch.full((3, 6), 9), torch.ones(3)), Windows(torch.full((4, 2), 8), torch.ones(4))]
    first, second = attacked(windows, histories, real=False)
    assert first.tolist() == [[1] * 4, [2] * 4, [3] * 4]
    assert second.tolist() == [[4] * 4, [5] * 4, [1] * 4, [2] * 4]


def test_half_of_the_histories_are_real() -> None:
    histories = torch.arange(1, 6)[:, None].expand(5, 4)
    items = torch.tensor([[11, 12, 0, 0, 0], [13, 14, 0, 0, 0], [15, 16, 17, 18, 19]])
    windows = [Windows(items, torch.ones(3)), Windows(items[:2, :2], torch.ones(2))]
    first, second = attacked(windows, histories, real=True)
    assert first.tolist() == [[11, 12, 0, 0, 0], [15, 16, 17, 18, 19], [1, 1, 1, 1, 0]]
    assert second.tolist() == [[11, 12, 0, 0], [2, 2, 2, 2]]


def test_thieves_grow_whole_histories_by_seed_and_follow_the_target() -> None:
    target = model().train()
    state = torch.get_rng_state()
    found = thieves(target, 70, 5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert target.training
    assert found.shape == (70, 10)
    assert found.min() >= 1
    assert found.max() <= 20
    assert torch.equal(found, thieves(target, 70, 5, seed=3))
    assert not torch.equal(found, thieves(target, 70, 5, seed=4))
    assert not torch.equal(found, thieves(model(1), 70, 5, seed=3))
    chained = sum(bool((row[1:, None] == lists_after(target, row)).any(dim=1).all()) for row in found)
    assert chained > 5


def lists_after(target: StateRecommender, history: Tensor) -> Tensor:
    """The lists after every prefix but the whole: ids ``[T - 1, k]``."""
    with torch.inference_mode():
        ends = torch.arange(len(history) - 1)[None]
        lists: Tensor = target.eval().prefix_scores(history[None], ends)[0].topk(5).indices + 1
    target.train()
    return lists


def test_the_target_learns_real_windows_whatever_is_asked(tiny: Sequences) -> None:
    """Without a swap weight a step on a thief's histories is a plain one."""
    windows, context = batches(tiny, 10, 16, seed=0)[0]
    target, plain = (build(settings(dropout=0.0), 20).double().train() for _ in range(2))
    protected = GRO(target, build(settings(), 20, seed=1).double(), settings(clip=1e9))
    vars(protected)["target_optimizer"] = torch.optim.SGD(target.parameters(), lr=0.1)
    protected.step(windows, 0.0, context, torch.randint(1, 21, (5, 7)))
    plain.loss(windows, context).backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    torch.testing.assert_close(flat(target), flat(plain))


def test_asking_the_windows_themselves_changes_nothing(tiny: Sequences) -> None:
    windows, context = batches(tiny, 10, 16, seed=0)[0]
    ends = []
    for asked in (None, windows):
        target, student = (build(settings(dropout=0.0), 20, seed=seed).double().train() for seed in (0, 1))
        torch.manual_seed(0)
        GRO(target, student, settings()).step(windows, 2.0, context, asked)
        ends.append(flat(target, student))
    torch.testing.assert_close(*ends)


def protection(tiny: Sequences, folder: Path | None, **changes: Any) -> Protection:
    given = settings(**changes)
    student, *others = (model(seed, name) for seed, (name, _) in enumerate(given.taught, start=1))
    return Protection(model(), student, tiny, given, 0.5, folder, Quiet(), others=others, thieves=thieves)


class StopError(Exception):
    pass


class Stopping(Quiet):
    def __init__(self) -> None:
        self.epochs = 0

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        self.epochs += 1
        if self.epochs == 2:
            raise StopError


@pytest.mark.parametrize("queries", ["real", "thief", "both"])
def test_a_resumed_protection_ends_as_one_that_was_not_interrupted(
    queries: str, tiny: Sequences, tmp_path: Path
) -> None:
    whole = protection(tiny, None, queries=queries, **ALL)
    log = whole.run()
    broken = protection(tiny, tmp_path, queries=queries, **ALL)
    vars(broken)["progress"] = Stopping()
    with pytest.raises(StopError):
        broken.run()
    resumed = protection(tiny, tmp_path, queries=queries, **ALL)
    assert resumed.run() == log
    for one, other in zip(parts(whole), parts(resumed), strict=True):
        assert torch.equal(flat(one), flat(other))


def parts(done: Protection) -> list[TrainableRecommender]:
    return [done.target, done.student, *done.others]


def test_queries_change_what_is_learnt(tiny: Sequences) -> None:
    ends = []
    for queries in ("real", "thief", "both"):
        done = protection(tiny, None, queries=queries)
        done.run()
        ends.append(flat(done.student))
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[1], ends[2])


def test_the_best_student_counts(tiny: Sequences) -> None:
    done = protection(tiny, None, **ALL)
    log = done.run()
    figures = [float(ndcg(ranks(each, tiny.valid), 10).mean()) for each in (done.student, *done.others)]
    best, found = done.best_student()
    assert found == max(figures)
    assert best is (done.student, *done.others)[figures.index(found)]
    assert log.best["student_loss"] == pytest.approx(1 - found / 0.5)


def test_what_the_settings_want_has_to_be_there(tiny: Sequences) -> None:
    lone: dict[str, Any] = {"sequences": tiny, "plain_ndcg": 0.5, "folder": None, "progress": Quiet()}
    with pytest.raises(ConfigError, match="queries are 'both', which needs thieves"):
        Protection(model(), model(1), settings=settings(queries="both"), **lone).run()
    with pytest.raises(ConfigError, match="the settings name 3 students; 1 are given"):
        Protection(model(), model(1), settings=settings(**ALL), **lone).run()


def test_the_settings_reach_the_protection(tiny: Sequences) -> None:
    given = settings(queries="thief", **ALL)
    trained = Training(model(), tiny, given, b"", None, Quiet())(PaperTraining())
    assert isinstance(trained.target, StateRecommender)
    assert set(trained.report) == {"student", "epoch", "valid"}
    again = Training(model(), tiny, given, b"", None, Quiet())(PaperTraining())
    assert torch.equal(flat(trained.target), flat(*again.members))
