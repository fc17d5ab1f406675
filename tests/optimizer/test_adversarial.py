from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from gro.config import TrainingSettings
from gro.data import Sequences
from gro.data.windows import Windows, batches
from gro.errors import ArtifactError
from gro.models import StateRecommender, build
from gro.optimizer.adversarial import AdversarialSettings, differentiate, fit_adversarial, perturbation, perturbed
from gro.training import Log, Quiet

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
OWN = AdversarialSettings(epochs=3, epsilon=0.5)


def settings(name: str = "SASRec", **changes: float) -> TrainingSettings:
    small: dict[str, object] = {"model": name, "hidden_size": 8, "inner_size": 16, "max_length": 10, "dropout": 0.3}
    return TrainingSettings.model_validate(small | {"k": 5} | changes)


def model(name: str = "SASRec", seed: int = 0) -> StateRecommender:
    return build(settings(name), 20, seed=seed).double().train()


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def gradients(module: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().clone() for p in module.parameters() if p.grad is not None])


class Interrupted(Quiet):
    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        raise KeyboardInterrupt


def fit(target: StateRecommender, sequences: Sequences, folder: Path | None = None, seed: int = 0) -> Log:
    own = settings(seed=seed)
    return fit_adversarial(target, sequences, own, OWN, folder=folder, progress=Quiet())


@pytest.fixture
def batch(tiny: Sequences) -> Windows:
    return next(batch for batch in batches(tiny, 10, 16, seed=0, stride=5) if batch.items.shape[1] > 8)


def test_the_perturbation_has_the_norm_and_the_direction() -> None:
    gradient = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, -4.0]], dtype=torch.float64)
    wanted = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, -0.4]], dtype=torch.float64)
    torch.testing.assert_close(perturbation(gradient, 0.5), wanted)
    assert perturbation(torch.randn(50, 8), 2.5).norm().item() == pytest.approx(2.5)
    assert not perturbation(torch.zeros(3, 2), 0.5).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_equation_6(name: str, batch: Windows) -> None:
    ours, copied = model(name), model(name)
    torch.manual_seed(7)
    differentiate(ours, *batch, AdversarialSettings(epsilon=0.5, weight=3.0))

    torch.manual_seed(7)
    copied.loss(*batch).backward()
    gradient = gradients(copied)
    table = copied.item_embedding.weight
    assert table.grad is not None
    change = 0.5 * table.grad / table.grad.square().sum().sqrt()
    assert change.norm().item() == pytest.approx(0.5)
    table.data += change
    copied.zero_grad()
    torch.manual_seed(7)
    copied.loss(*batch).backward()
    torch.testing.assert_close(gradients(ours), gradient + 3 * gradients(copied), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_perturbed_loss_is_the_higher_one(name: str, batch: Windows) -> None:
    target = model(name).eval()

    def loss() -> Tensor:
        torch.manual_seed(0)
        return target.loss(*batch)

    plain = loss()
    plain.backward()
    assert target.item_embedding.weight.grad is not None
    for sign in (1, -1):
        with perturbed(target.item_embedding.weight, sign * perturbation(target.item_embedding.weight.grad, 0.01)):
            assert sign * (loss() - plain) > 0


def test_the_weights_are_what_they_were(batch: Windows) -> None:
    target = model().float()
    before = flat(target)
    differentiate(target, *batch, AdversarialSettings(epsilon=100.0))
    assert torch.equal(flat(target), before)


def test_the_weights_are_what_they_were_after_an_error() -> None:
    table = nn.Parameter(torch.randn(5, 3))
    before = table.detach().clone()

    def interrupted() -> None:
        with perturbed(table, torch.full((5, 3), 1e6)):
            assert (table > 1e5).all()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(table, before)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_weight_the_steps_are_plain(name: str, batch: Windows) -> None:
    ours, plain = model(name), model(name)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (ours, plain)]
    torch.manual_seed(7)
    for _ in range(3):
        differentiate(ours, *batch, AdversarialSettings(weight=0))
        optimizers[0].step()
    torch.manual_seed(7)
    for _ in range(3):
        plain.zero_grad()
        plain.loss(*batch).backward()
        optimizers[1].step()
    assert torch.equal(flat(ours), flat(plain))
    assert (flat(ours) - flat(model(name))).norm() > 1e-3


def test_a_seed_is_a_training(tiny: Sequences) -> None:
    ends = []
    for seed in (0, 0, 1):
        target = model().float()
        log = fit(target, tiny, seed=seed)
        ends.append(flat(target))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert len(log.figures) == 3
    assert log.best["valid_ndcg"] == max(figures["valid_ndcg"] for figures in log.figures)


def test_a_resumed_run_ends_like_another(tiny: Sequences, tmp_path: Path) -> None:
    whole, parts = model().float(), model().float()
    log = fit(whole, tiny)
    with pytest.raises(KeyboardInterrupt):
        fit_adversarial(parts, tiny, settings(), OWN, folder=tmp_path, progress=Interrupted())
    parts = model().float()
    assert fit(parts, tiny, tmp_path) == log
    assert torch.equal(flat(parts), flat(whole))


def test_a_state_belongs_to_its_settings_and_its_plain_model(tiny: Sequences, tmp_path: Path) -> None:
    fit(model().float(), tiny, tmp_path)
    with pytest.raises(ArtifactError, match="other settings"):
        fit(model().float(), tiny, tmp_path, seed=1)
    with pytest.raises(ArtifactError, match="other settings"):
        fit(model(seed=1).float(), tiny, tmp_path)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"epsilon": 0}, {"weight": -1}, {"kind": "nasty"}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AdversarialSettings.model_validate(wrong)
