from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from gro.config import TrainingSettings
from gro.data import Sequences
from gro.data.windows import Windows, batches
from gro.errors import ArtifactError, GroError
from gro.models import StateRecommender, build
from gro.models.base import TrainableRecommender
from gro.optimizer.gro import sample_ends
from gro.optimizer.nasty import NastySettings, divergence, fit_nasty, held_out_divergence, nasty_loss
from gro.optimizer.plain import fit as fit_plain
from gro.training import Log, Quiet

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
OWN = NastySettings(epochs=4, weight=0.1, positions=4)


def settings(name: str = "SASRec", **changes: float) -> TrainingSettings:
    small: dict[str, object] = {"model": name, "hidden_size": 8, "inner_size": 16, "max_length": 10, "dropout": 0.0}
    return TrainingSettings.model_validate(small | {"k": 5, "batch_size": 16} | changes)


def model(name: str = "SASRec", seed: int = 0) -> StateRecommender:
    return build(settings(name), 20, seed=seed).double().train()


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


class Interrupted(Quiet):
    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        if epoch == 1:
            raise KeyboardInterrupt


def fit(target: StateRecommender, sequences: Sequences, folder: Path | None = None, seed: int = 0) -> Log:
    return fit_nasty(target, sequences, settings(seed=seed), OWN, folder=folder, progress=Quiet())


@pytest.fixture
def batch(tiny: Sequences) -> Windows:
    return next(batch for batch in batches(tiny, 10, 16, seed=0, stride=5) if batch.items.shape[1] > 8)


@pytest.fixture(scope="module")
def trained(tiny: Sequences) -> StateRecommender:
    plain = build(settings(), 20)
    fit_plain(plain, tiny, settings(epochs=5, learning_rate=0.01), folder=None, progress=Quiet())
    return plain


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_that_of_kullback_and_leibler(temperature: float) -> None:
    ours, theirs = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    p, q = ((each / temperature).softmax(-1) for each in (ours, theirs))
    found = divergence(ours, theirs, temperature)
    assert found.shape == (3, 5)
    torch.testing.assert_close(found, (p * (p / q).log()).sum(-1))
    torch.testing.assert_close(found.mean(), F.kl_div(q.log(), p, reduction="none").sum(-1).mean())
    torch.testing.assert_close(divergence(ours, ours, temperature), torch.zeros(3, 5, dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_that_of_equation_2(name: str, batch: Windows) -> None:
    target, plain = reseeded(model(name)), model(name, seed=1).eval()
    own = NastySettings(weight=0.3, temperature=2.0, positions=4)
    torch.manual_seed(7)
    found = nasty_loss(target, plain, *batch, own)
    torch.manual_seed(7)
    ends = sample_ends(batch.items, 4 if target.one_pass else 1)
    ours, theirs = (
        torch.stack([each.prefix_scores(batch.items[:, :-1], end[:, None])[:, 0] for end in ends.T], 1) / 2
        for each in (target, plain)
    )
    apart = F.kl_div(theirs.log_softmax(-1), ours.softmax(-1), reduction="none").sum(-1).mean()
    torch.testing.assert_close(found, target.loss(*batch) - 0.3 * 4 * apart, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_weight_the_loss_is_plain(name: str, batch: Windows) -> None:
    target = reseeded(model(name))
    nasty_loss(target, model(name, seed=1).eval(), *batch, NastySettings(weight=0)).backward()
    found = [p.grad.clone() for p in target.parameters() if p.grad is not None]
    target.zero_grad()
    target.loss(*batch).backward()
    wanted = [p.grad for p in target.parameters() if p.grad is not None]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    assert any(gradient.any() for gradient in wanted)


def test_the_plain_copy_does_not_learn(batch: Windows) -> None:
    target = model()
    plain = deepcopy(target).eval().requires_grad_(False)
    before = flat(plain)
    optimizer = torch.optim.SGD(target.parameters(), lr=0.1)
    for _ in range(3):
        nasty_loss(target, plain, *batch, OWN).backward()
        optimizer.step()
    assert torch.equal(flat(plain), before)
    assert all(parameter.grad is None for parameter in plain.parameters())
    assert not torch.equal(flat(target), before)


def test_the_divergence_grows_with_the_weight(trained: StateRecommender, tiny: Sequences) -> None:
    apart = []
    for weight in (0.0, 3.0):
        target = deepcopy(trained)
        own = OWN.model_copy(update={"weight": weight, "utility_budget": 1.0})
        fit_nasty(target, tiny, settings(learning_rate=5e-3), own, folder=None, progress=Quiet())
        apart.append(held_out_divergence(target, trained, tiny.valid, own.temperature))
    assert apart[1] > 2 * apart[0]


def test_the_held_out_divergence_is_the_mean_over_users(trained: StateRecommender, tiny: Sequences) -> None:
    other = model(seed=1).float().eval()
    rows = [torch.from_numpy(tiny.valid.histories([user], 10)) for user in range(tiny.n_users)]
    with torch.inference_mode():
        wanted = torch.stack([divergence(other.scores(row), trained.scores(row), 2.0)[0] for row in rows]).mean()
    assert held_out_divergence(other, trained, tiny.valid, 2.0) == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize("budget", [1e-9, 0.05, 1.0])
def test_the_epoch_is_the_one_of_the_declared_trade_off(
    budget: float, trained: StateRecommender, tiny: Sequences
) -> None:
    own = OWN.model_copy(update={"weight": 1.0, "utility_budget": budget})
    target = deepcopy(trained)
    log = fit_nasty(target, tiny, settings(learning_rate=0.01), own, folder=None, progress=Quiet())
    within = [each for each in log.figures if each["utility_loss"] <= budget]
    wanted = max(within, key=lambda f: f["divergence"]) if within else min(log.figures, key=lambda f: f["utility_loss"])
    assert log.best == wanted
    left = held_out_divergence(target, trained, tiny.valid, own.temperature)
    assert left == pytest.approx(log.best["divergence"], rel=1e-5)


def test_a_seed_is_a_training(trained: StateRecommender, tiny: Sequences) -> None:
    ends = []
    for seed in (0, 0, 1):
        target = deepcopy(trained)
        fit(target, tiny, seed=seed)
        ends.append(flat(target))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_a_resumed_run_ends_like_another(trained: StateRecommender, tiny: Sequences, tmp_path: Path) -> None:
    whole, parts, resumed = (deepcopy(trained) for _ in range(3))
    log = fit(whole, tiny)
    with pytest.raises(KeyboardInterrupt):
        fit_nasty(parts, tiny, settings(), OWN, folder=tmp_path, progress=Interrupted())
    assert fit(resumed, tiny, tmp_path) == log
    assert torch.equal(flat(resumed), flat(whole))
    with pytest.raises(ArtifactError, match="other settings"):
        fit(deepcopy(trained), tiny, tmp_path, seed=1)


def test_an_untrained_model_cannot_be_made_nasty(tiny: Sequences) -> None:
    target = model().float()
    with torch.no_grad():
        target.item_embedding.weight.zero_()
    late = deepcopy(tiny)
    late.items[late.indptr[1:] - 2] = 20
    with pytest.raises(GroError, match="tiny: the plain target ranks no validation item among its 10 best"):
        fit(target, late)


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"temperature": 0}, {"positions": 0}, {"utility_budget": 0}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        NastySettings.model_validate(wrong)
