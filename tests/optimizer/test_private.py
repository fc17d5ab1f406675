from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gro.config import TrainingSettings
from gro.data import Sequences
from gro.data.windows import batches
from gro.errors import ArtifactError, ConfigError, DataError, GroError, MissingExtraError
from gro.models import CausalRecommender, build
from gro.optimizer import per_sample
from gro.optimizer.per_sample import check_per_sample_norms, hookable, hooked, opacus, row_losses
from gro.optimizer.private import (
    PrivateSettings,
    draw_windows,
    fit_private,
    privacy_spent,
    private_optimizer,
    private_step,
)
from gro.training import Quiet


class StoppedError(Exception):
    pass


class Interrupting(Quiet):
    """Stops a training after its second epoch."""

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        if epoch == 1:
            raise StoppedError


def settings(name: str = "SASRec", **changes: Any) -> TrainingSettings:
    small = {"model": name, "hidden_size": 8, "inner_size": 16, "max_length": 10, "n_layers": 1, "dropout": 0.3}
    return TrainingSettings.model_validate(small | changes)


def private(**changes: Any) -> PrivateSettings:
    return PrivateSettings.model_validate({"epochs": 4, "users_per_step": 12, "noise_multiplier": 1.0} | changes)


def model(seed: int = 0, **changes: Any) -> CausalRecommender:
    return hookable(build(settings(**changes), 20, seed=seed))


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


def fit(sequences: Sequences, folder: Path | None = None, **changes: Any) -> tuple[CausalRecommender, Any, Any]:
    trained = model()
    log, spent = fit_private(trained, sequences, settings(), private(**changes), folder=folder, progress=Quiet())
    return trained, log, spent


@contextmanager
def descending(module: CausalRecommender, **changes: Any) -> Iterator[Any]:
    """A private optimizer that descends plainly, at rate 1, of a hooked model."""
    with hooked(module):
        yield private_optimizer(torch.optim.SGD(module.parameters(), lr=1.0), private(**changes), 48)


@pytest.fixture
def windows(tiny: Sequences) -> Tensor:
    return next(batch.items for batch in batches(tiny, 10, 16, seed=0) if (batch.items == 0).any())


def test_per_sample_gradients_are_those_of_every_row_alone(windows: Tensor) -> None:
    ours = model(dropout=0.0).double().train()
    with hooked(ours):
        row_losses(ours, windows).sum().backward()
        samples = {name: p.grad_sample.clone() for name, p in ours.named_parameters()}  # type: ignore[attr-defined]
    assert samples["item_embedding.weight"].shape == (len(windows), 21, 8)
    for i, row in enumerate(windows):
        ours.zero_grad()
        ours.loss(row[None]).backward()
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(samples[name][i], parameter.grad, rtol=1e-9, atol=1e-12)


def test_a_row_with_nothing_to_predict_has_no_loss() -> None:
    losses = row_losses(model(), torch.tensor([[3, 0, 0], [3, 4, 0]]))
    assert losses[0] == 0
    assert losses[1] > 0


@pytest.mark.parametrize("bound", [1e-3, 0.1])
def test_a_users_contribution_is_bounded(bound: float, windows: Tensor) -> None:
    ends = []
    for rows in (windows, windows[1:]):
        ours = model(dropout=0.0).double().train()
        with descending(ours, noise_multiplier=1e-12, max_grad_norm=bound) as optimizer:
            private_step(ours, optimizer, rows)
        ends.append(flat(ours))
    assert 12 * (ends[0] - ends[1]).norm().item() == pytest.approx(bound, rel=2e-3)


def test_a_step_is_the_mean_of_clipped_gradients_over_the_expected_number_of_users(
    windows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows are held at a time."""
    monkeypatch.setattr("gro.optimizer.private.TOGETHER", 3)
    ours = model(dropout=0.0).double().train()
    before, wanted = flat(ours), torch.zeros_like(flat(ours))
    for row in windows:
        ours.zero_grad()
        ours.loss(row[None]).backward()
        gradient = torch.cat([p.grad.flatten() for p in ours.parameters() if p.grad is not None])
        wanted += gradient * (0.5 / gradient.norm()).clamp(max=1.0)
    with descending(ours, noise_multiplier=1e-12, max_grad_norm=0.5) as optimizer:
        private_step(ours, optimizer, windows)
    torch.testing.assert_close(flat(ours), before - wanted / 12, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [0, 5])
def test_noise_has_the_promised_deviation(rows: int, windows: Tensor) -> None:
    """A step that no user was drawn for is noise alone."""
    ours = model(dropout=0.0, hidden_size=32).train()
    before = flat(ours)
    with descending(ours, noise_multiplier=30.0, max_grad_norm=0.2) as optimizer:
        private_step(ours, optimizer, windows[:rows])
    moved = flat(ours) - before
    assert moved.std().item() == pytest.approx(30 * 0.2 / 12, rel=0.05)
    assert abs(moved.mean().item()) < 0.05


def test_epsilon_is_the_accountants_and_falls_with_noise() -> None:
    found = [privacy_spent(private(noise_multiplier=noise), 48) for noise in (0.5, 1.0, 2.0, 4.0)]
    assert sorted((spent["epsilon"] for spent in found), reverse=True) == [spent["epsilon"] for spent in found]
    accountant = opacus("accountants").RDPAccountant()
    for _ in range(16):
        accountant.step(noise_multiplier=1.0, sample_rate=0.25)
    assert found[1] == {
        "epsilon": pytest.approx(accountant.get_epsilon(48**-1.1)),
        "delta": 48**-1.1,
        "noise_multiplier": 1.0,
        "sample_rate": 0.25,
        "steps": 16,
    }


def test_delta_is_taken_and_a_step_has_at_most_all_users() -> None:
    spent = privacy_spent(private(delta=1e-6, users_per_step=1000), 48)
    assert (spent["delta"], spent["sample_rate"], spent["steps"]) == (1e-6, 1.0, 4)


def test_users_are_drawn_independently_and_windows_everywhere(tiny: Sequences) -> None:
    drawn = [draw_windows(tiny, 0.25, 4) for _ in range(2000)]
    counts = np.array([len(windows) for windows in drawn])
    assert counts.mean() == pytest.approx(12, rel=0.05)
    assert counts.std() == pytest.approx((48 * 0.25 * 0.75) ** 0.5, rel=0.1)
    assert all(windows.shape[1] == 5 for windows in drawn)
    longest = int(np.diff(tiny.indptr).argmax())
    items = tiny.history(longest)
    alone = Sequences("one", np.array([0, len(items)]), items, tiny.item_tokens, tiny.user_tokens[:1])
    expected = {tuple(items[i : i + 5].tolist()) for i in range(len(items) - 4)}
    assert {tuple(draw_windows(alone, 1.0, 4)[0].tolist()) for _ in range(500)} == expected
    assert draw_windows(alone, 1.0, 30)[0].tolist() == [*items.tolist(), *[0] * (31 - len(items))]


def test_a_seed_is_a_training(tiny: Sequences) -> None:
    ends = []
    for seed in (0, 0, 1):
        trained = model()
        fit_private(trained, tiny, settings(seed=seed), private(epochs=2), folder=None, progress=Quiet())
        ends.append(flat(trained))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_a_resumed_training_ends_in_the_same_weights(tiny: Sequences, tmp_path: Path) -> None:
    whole, log, _ = fit(tiny)
    interrupted = model()
    with pytest.raises(StoppedError):
        fit_private(interrupted, tiny, settings(), private(), folder=tmp_path, progress=Interrupting())
    resumed, resumed_log, _ = fit(tiny, tmp_path)
    assert torch.equal(flat(whole), flat(resumed))
    assert log == resumed_log
    with pytest.raises(ArtifactError, match="other settings"):
        fit(tiny, tmp_path, noise_multiplier=2.0)


def test_the_last_epoch_is_kept_whatever_validation_says(tiny: Sequences) -> None:
    _, log, spent = fit(tiny, epochs=5)
    assert log.best_epoch == 4
    assert len(log.figures) == 5
    assert spent == privacy_spent(private(epochs=5), 48)


def test_it_learns_where_there_is_little_noise(tiny: Sequences) -> None:
    _, log, _ = fit(tiny, epochs=60, noise_multiplier=0.05, learning_rate=0.02)
    assert log.best["valid_ndcg@10"] > 0.6


@pytest.mark.parametrize(
    ("name", "reason"), [("GRU4Rec", "hook its GRU"), ("NARM", "hook its GRU"), ("BERT4Rec", "left to right")]
)
def test_what_cannot_be_hooked_is_refused_before_training(name: str, reason: str, tiny: Sequences) -> None:
    refused = build(settings(name), 20)
    before = flat(refused)
    with pytest.raises(ConfigError, match=f"^{name} cannot be trained .*{reason}; use SASRec$"):
        fit_private(refused, tiny, settings(name), private(), folder=None, progress=Quiet())
    assert torch.equal(flat(refused), before)


@pytest.mark.parametrize("training", [True, False])
def test_the_check_passes_and_leaves_the_model(training: bool, windows: Tensor) -> None:
    ours = model(attention_dropout=0.3).train(training)
    check_per_sample_norms(ours, windows)
    assert {module.training for module in ours.modules()} == {training}
    assert all(parameter.grad is None for parameter in ours.parameters())


@pytest.mark.parametrize("layer", [nn.Linear, nn.Embedding, nn.LayerNorm])
def test_the_check_finds_a_broken_hook(
    layer: type[nn.Module], windows: Tensor, tiny: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers = opacus("grad_sample").GradSampleModule.GRAD_SAMPLERS
    right = samplers[layer]

    def wrong(*arguments: Any) -> dict[nn.Parameter, Tensor]:
        return {parameter: 1.01 * sample for parameter, sample in right(*arguments).items()}

    monkeypatch.setitem(samplers, layer, wrong)
    with pytest.raises(GroError, match="no privacy can be promised"):
        check_per_sample_norms(model(), windows)
    with pytest.raises(GroError, match="no privacy can be promised"):
        fit(tiny)


@pytest.mark.parametrize("layer", [nn.Linear, nn.Embedding, nn.LayerNorm])
def test_the_check_finds_one_gradient_that_is_no_number(
    layer: type[nn.Module], windows: Tensor, tiny: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers = opacus("grad_sample").GradSampleModule.GRAD_SAMPLERS
    right = samplers[layer]

    def broken(*arguments: Any) -> dict[nn.Parameter, Tensor]:
        found: dict[nn.Parameter, Tensor] = right(*arguments)
        for sample in found.values():
            sample[-1].flatten()[-1] = torch.nan
        return found

    monkeypatch.setitem(samplers, layer, broken)
    with pytest.raises(GroError, match="no privacy can be promised"):
        check_per_sample_norms(model(), windows)
    with pytest.raises(GroError, match="no privacy can be promised"):
        fit(tiny)


def test_the_check_finds_gradients_that_are_no_numbers_on_both_sides(windows: Tensor) -> None:
    ours = model()
    with torch.no_grad():
        ours.item_embedding.weight[windows[0, 0], 0] = torch.nan
    with pytest.raises(GroError, match="no privacy can be promised"):
        check_per_sample_norms(ours, windows)


@pytest.mark.parametrize("rows", [10, 16])
def test_the_check_finds_positions_that_the_rows_share(
    rows: int, tiny: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there are as many of them as rows."""

    @contextmanager
    def nothing(*_: object) -> Iterator[None]:
        yield

    windows = next(batch.items for batch in batches(tiny, 10, 16, seed=0) if batch.items.shape[1] == 11)
    monkeypatch.setattr(per_sample, "_shared_indices_per_row", nothing)
    with pytest.raises(GroError, match="no privacy can be promised"):
        check_per_sample_norms(model(), windows[:rows])


def test_the_check_finds_a_use_of_the_table_that_is_not_hooked(
    windows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own loss reads the table past the head."""

    def around(module: CausalRecommender, rows: Tensor) -> Tensor:
        return torch.stack([module.loss(row[None]) for row in rows]) + 0 * row_losses(module, rows)

    monkeypatch.setattr(per_sample, "row_losses", around)
    with pytest.raises(GroError, match="no privacy can be promised"):
        check_per_sample_norms(model(), windows)


def test_the_check_finds_norms_that_miss_how_the_uses_of_the_table_add_up(
    windows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of ghost clipping do: the root of the sum of the uses' squared norms."""
    ours, hooked_norms = model(), per_sample._hooked_norms
    uses: list[Tensor] = []
    samplers = opacus("grad_sample").GradSampleModule.GRAD_SAMPLERS

    def noted(sampler: Any) -> Any:
        def sample(*arguments: Any) -> dict[nn.Parameter, Tensor]:
            found: dict[nn.Parameter, Tensor] = sampler(*arguments)
            uses.extend(each.flatten(1).norm(dim=1) for p, each in found.items() if p is ours.head.weight)
            return found

        return sample

    def ghost(module: CausalRecommender, rows: Tensor) -> Tensor:
        norms = hooked_norms(module, rows)
        assert norms is not None
        norms[[p is ours.head.weight for p in ours.parameters()].index(True)] = torch.stack(uses).norm(dim=0)
        return norms

    for layer in (nn.Linear, nn.Embedding):
        monkeypatch.setitem(samplers, layer, noted(samplers[layer]))
    check_per_sample_norms(ours, windows)
    uses.clear()
    monkeypatch.setattr(per_sample, "_hooked_norms", ghost)
    with pytest.raises(GroError, match="no privacy can be promised"):
        check_per_sample_norms(ours, windows)
    assert len(uses) == 2


def test_nothing_is_left_on_the_model(tiny: Sequences) -> None:
    untouched = model()
    trained, _, _ = fit(tiny, epochs=1)
    for ours, theirs in zip(trained.modules(), untouched.modules(), strict=True):
        assert vars(ours).keys() == vars(theirs).keys()
        assert not any((ours._forward_hooks, ours._forward_pre_hooks, ours._backward_hooks))
    assert not any(vars(parameter) for parameter in trained.parameters())
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert trained.state_dict().keys() == untouched.state_dict().keys()
    assert trained.head.weight is trained.item_embedding.weight
    assert torch.equal(flat(copy.deepcopy(trained)), flat(trained))
    trained.train().loss(torch.tensor([[1, 2, 3]])).backward()


def test_a_user_with_one_item_is_no_problem(tiny: Sequences) -> None:
    short = np.minimum(np.diff(tiny.indptr), np.where(np.arange(48) % 2, 3, 19))
    rows = np.concatenate([tiny.history(user)[:size] for user, size in enumerate(short)])
    few = Sequences("few", np.concatenate([[0], short.cumsum()]), rows, tiny.item_tokens, tiny.user_tokens)
    trained, _, _ = fit(few, epochs=1)
    assert flat(trained).isfinite().all()


def test_nothing_to_predict_is_refused(tiny: Sequences) -> None:
    rows = np.concatenate([tiny.history(user)[:3] for user in range(48)])
    short = Sequences("short", np.arange(0, len(rows) + 1, 3), rows, tiny.item_tokens, tiny.user_tokens)
    with pytest.raises(DataError, match="short: nothing to predict"):
        fit(short)


def test_opacus_is_an_extra(monkeypatch: pytest.MonkeyPatch, tiny: Sequences) -> None:
    monkeypatch.setitem(sys.modules, "opacus.grad_sample", None)
    with pytest.raises(MissingExtraError, match=r"pip install gro\[dp\]"):
        fit(tiny)


def test_opacus_leaves_the_logs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = logging.root.handlers[:]
    monkeypatch.delitem(sys.modules, "opacus.utils.module_utils", raising=False)
    opacus("utils.module_utils")
    assert logging.root.handlers == before
