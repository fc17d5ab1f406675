from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gro.config import TrainingSettings
from gro.data import Sequences
from gro.errors import ArtifactError
from gro.metrics import ndcg
from gro.models import build
from gro.optimizer.plain import fit
from gro.ranking import ranks
from gro.training import RISE, STATE_FILE, Log, Quiet, Trainer

STEPS = 3


def network(width: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.Dropout(0.5), nn.BatchNorm1d(width), nn.Linear(width, 1))


@dataclass
class Run:
    """A training of two modules with dropout, two optimizers and randomly drawn data; may be killed in a step."""

    folder: Path | None = None
    epochs: int = 6
    patience: int = 0
    seed: int = 3
    schedule: Literal["constant", "linear"] = "constant"
    rise: float = RISE
    settings: str = "these"
    scores: list[float] = field(default_factory=list)
    kill: tuple[int, int] | None = None
    width: int = 6
    progress: Quiet = field(default_factory=Quiet)
    epochs_run: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    after: list[dict[str, Tensor]] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.modules = {"target": network(self.width), "student": network(self.width)}
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(self.modules["target"].parameters(), lr=0.05),
            torch.optim.SGD(self.modules["student"].parameters(), lr=0.05, momentum=0.9),
        ]

    def __call__(self) -> Log:
        return Trainer(
            modules=self.modules,
            optimizers=self.optimizers,
            epochs=self.epochs,
            patience=self.patience,
            seed=self.seed,
            schedule=self.schedule,
            rise=self.rise,
            folder=self.folder,
            settings=self.settings,
            progress=self.progress,
        ).run(self._epoch, self._validate)

    def _epoch(self, log: Log, seed: int) -> Iterator[float]:
        number = len(log.figures)
        self.epochs_run.append(number)
        self.seeds.append(seed)
        for step in range(STEPS):
            self.rates += [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
            if self.kill == (number, step):
                raise KeyboardInterrupt
            for module, optimizer in zip(self.modules.values(), self.optimizers, strict=True):
                self.modes.append(module.training)
                optimizer.zero_grad()
                module(torch.randn(16, 4)).square().mean().backward()
                optimizer.step()
            yield (step + 1) / STEPS

    def _validate(self, log: Log) -> tuple[float, dict[str, float]]:
        number = len(log.figures)
        self.modes += [not module.training for module in self.modules.values()]
        self.after.append(self.weights())
        score = self.scores[number] if self.scores else float(number)
        return score, {"number": float(number)}

    def weights(self) -> dict[str, Tensor]:
        return {f"{n}.{k}": v.clone() for n, m in self.modules.items() for k, v in m.state_dict().items()}


def equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("best", [5, 2])
@pytest.mark.parametrize("kill", [(0, 1), (1, 0), (3, 2), (5, 0)])
def test_a_resumed_run_ends_in_the_weights_of_an_unbroken_one(tmp_path: Path, kill: tuple[int, int], best: int) -> None:
    scores = [-abs(best - number) for number in map(float, range(6))]
    unbroken = Run(scores=scores)
    log = unbroken()
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, scores=scores, kill=kill)()
    torch.manual_seed(99)
    resumed = Run(tmp_path, scores=scores)
    assert resumed() == log
    assert resumed.epochs_run == list(range(kill[0], 6))
    assert equal(resumed.weights(), unbroken.weights())
    assert equal(resumed.after[-1], unbroken.after[-1])
    assert equal(unbroken.weights(), unbroken.after[best])
    assert not equal(unbroken.after[2], unbroken.after[5])


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_run_may_be_broken_again_and_again(tmp_path: Path, schedule: Literal["constant", "linear"]) -> None:
    unbroken = Run(schedule=schedule)
    unbroken()
    for number in (1, 1, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            Run(tmp_path, kill=(number, 1), schedule=schedule)()
    resumed = Run(tmp_path, schedule=schedule)
    resumed()
    assert equal(resumed.weights(), unbroken.weights())


@pytest.mark.parametrize(("run", "risen"), [(Run(epochs=100), 2), (Run(epochs=100, rise=0.3), 30)])
def test_a_linear_schedule_rises_in_its_share_of_a_run_and_falls_to_0(run: Run, risen: int) -> None:
    linear, constant = replace(run, schedule="linear", rates=[]), Run(epochs=2)
    linear()
    constant()
    rates = np.array(linear.rates).reshape(100 * STEPS, 2)
    assert np.array_equal(rates[:, 0], rates[:, 1])
    assert rates[: risen * STEPS + 1, 0] == pytest.approx(np.linspace(0, 0.05, risen * STEPS + 1))
    assert rates[risen * STEPS :, 0] == pytest.approx(np.linspace(0.05, 0, (100 - risen) * STEPS + 1)[:-1])
    assert constant.rates == [0.05] * (2 * STEPS * 2)


def test_a_finished_run_restores_the_best_weights_at_once(tmp_path: Path) -> None:
    scores = [0.0, 3.0, 2.0, 1.0, 0.0, 0.0]
    first = Run(tmp_path, scores=scores)
    log = first()
    again = Run(tmp_path, scores=scores)
    assert again() == log
    assert again.epochs_run == []
    assert equal(again.weights(), first.after[1])


@pytest.mark.parametrize("name", ["SASRec", "BERT4Rec"])
def test_a_recommender_resumes_bit_for_bit(name: str, tiny: Sequences, tmp_path: Path) -> None:
    values = {"model": name, "hidden_size": 8, "max_length": 10, "dropout": 0.4, "epochs": 4, "learning_rate": 0.01}
    settings = TrainingSettings.model_validate(values)

    class Killer(Quiet):
        def step(self, epoch: int, fraction: float) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    unbroken, broken, resumed = (build(settings, tiny.n_items) for _ in range(3))
    log = fit(unbroken, tiny, settings, folder=None, progress=Quiet())
    with pytest.raises(KeyboardInterrupt):
        fit(broken, tiny, settings, folder=tmp_path, progress=Killer())
    assert fit(resumed, tiny, settings, folder=tmp_path, progress=Quiet()) == log
    assert equal(resumed.state_dict(), unbroken.state_dict())
    assert float(ndcg(ranks(unbroken, tiny.valid), tiny.n_items).mean()) == log.best["score"]


def test_the_best_epoch_is_restored_and_the_first_of_equals_kept() -> None:
    run = Run(scores=[1.0, 5.0, 2.0, 5.0, 0.0, 4.0])
    log = run()
    assert (log.best_epoch, log.best) == (1, {"score": 5.0, "number": 1.0})
    assert [figures["score"] for figures in log.figures] == run.scores
    assert equal(run.weights(), run.after[1])
    assert not any(module.training for module in run.modules.values())


def test_scores_below_zero_have_a_best_epoch_too() -> None:
    assert Run(scores=[-3.0, -1.0, -2.0], epochs=3)().best_epoch == 1


@pytest.mark.parametrize(("patience", "ran"), [(0, 8), (1, 3), (2, 6), (3, 8)])
def test_patience_counts_epochs_without_a_better_score(patience: int, ran: int, tmp_path: Path) -> None:
    scores = [1.0, 2.0, 1.5, 3.0, 0.0, 0.0, 3.5, 0.0]
    expected = {3: [0, 1, 2], 6: list(range(6)), 8: list(range(8))}[ran]
    run = Run(tmp_path, epochs=8, patience=patience, scores=scores)
    run()
    assert run.epochs_run == expected
    again = Run(tmp_path, epochs=8, patience=patience, scores=scores)
    again()
    assert again.epochs_run == []
    assert equal(again.weights(), run.weights())


def test_epochs_train_in_training_mode_and_validate_in_evaluation_mode() -> None:
    run = Run(epochs=2)
    run()
    assert len(run.modes) == 2 * (2 * STEPS + 2)
    assert all(run.modes)


def test_randomness_belongs_to_the_seed_and_the_epoch() -> None:
    runs = [Run(seed=seed, epochs=3) for seed in (1, 1, 2)]
    for noise, run in enumerate(runs):
        torch.manual_seed(noise)
        run()
    assert runs[0].seeds == runs[1].seeds
    assert len({*runs[1].seeds, *runs[2].seeds}) == 6
    assert equal(runs[0].weights(), runs[1].weights())
    assert not equal(runs[1].weights(), runs[2].weights())


def test_other_randomness_is_left_alone() -> None:
    run = Run()
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    run()
    assert torch.equal(torch.rand(2), expected)


def test_progress_is_told_every_step_and_epoch() -> None:
    told: list[object] = []

    class Teller(Quiet):
        def step(self, epoch: int, fraction: float) -> None:
            told.append((epoch, round(fraction, 2)))

        def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
            told.append((epoch, dict(figures)))

    Run(epochs=2, progress=Teller())()
    steps = [0.33, 0.67, 1.0]
    assert told == [
        item for e in (0, 1) for item in [*((e, s) for s in steps), (e, {"score": float(e), "number": float(e)})]
    ]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Run(epochs=1)()
    assert not list(tmp_path.iterdir())


def test_only_the_state_is_left_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with pytest.raises(KeyboardInterrupt):
        Run(folder, kill=(2, 1))()
    assert [path.name for path in folder.iterdir()] == [STATE_FILE]


def one_line(run: Run, path: Path, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as error:
        run()
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert run.epochs_run == []


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    Run(tmp_path, epochs=2)()
    before = (tmp_path / STATE_FILE).read_bytes()
    one_line(Run(tmp_path, settings="those"), tmp_path / STATE_FILE, "begun with other settings")
    assert (tmp_path / STATE_FILE).read_bytes() == before


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], **metadata: str) -> None:
    save_file(change(load_file(path)), path, {"settings": "these", "log": "{}"} | metadata)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "header cut": lambda path: path.write_bytes(path.read_bytes()[:5]),
    "one byte short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one byte long": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "header garbled": lambda path: path.write_bytes(path.read_bytes()[:8] + b"\xff" * 40 + path.read_bytes()[48:]),
    "text": lambda path: path.write_text("not a training state, but long enough to be taken for one"),
    "foreign tensors": lambda path: save_file({"weight": torch.ones(2)}, path),
    "log not JSON": lambda path: rewrite(path, dict, log="{"),
    "log of other keys": lambda path: rewrite(path, dict, log='{"loss": 1}'),
    "log without figures": lambda path: rewrite(path, dict, log="[]"),
    "folder": lambda path: path.rename(path.with_name("elsewhere")).parent.joinpath(path.name).mkdir(),
    "weight missing": lambda path: rewrite(path, lambda t: {k: v for k, v in t.items() if k != "now.target.0.bias"}),
    "best missing": lambda path: rewrite(path, lambda t: {k: v for k, v in t.items() if not k.startswith("best.")}),
    "optimizer missing": lambda path: rewrite(
        path, lambda t: {k: v for k, v in t.items() if not k.startswith("optimizer.")}
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_state_is_refused_in_one_line(damage: Callable[[Path], object], tmp_path: Path) -> None:
    Run(tmp_path, epochs=2)()
    damage(tmp_path / STATE_FILE)
    one_line(Run(tmp_path), tmp_path / STATE_FILE, "delete it to start again")


def test_a_flipped_weight_is_refused(tmp_path: Path) -> None:
    Run(tmp_path, epochs=2)()
    path = tmp_path / STATE_FILE
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40
    path.write_bytes(content)
    one_line(Run(tmp_path), path, "damaged")


def test_a_state_of_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    Run(tmp_path, epochs=2, width=5)()
    one_line(Run(tmp_path), tmp_path / STATE_FILE, "damaged")


def test_a_state_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="the training state cannot be written") as error:
        Run(tmp_path / "file" / "folder")()
    assert "\n" not in str(error.value)
