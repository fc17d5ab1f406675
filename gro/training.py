"""The loop that every training shares: epochs, validation, best checkpoint, early stop, resume.

The randomness of an epoch depends on the seed and the number of the epoch alone, so a run that was interrupted and
resumed ends in the weights of one that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from gro.errors import ArtifactError

STATE_FILE = "training.safetensors"
RISE = 0.02
"""Share of a run in which a linear schedule rises, unless it is told otherwise."""


class Progress(Protocol):
    """What a training tells whoever watches it; see :mod:`gro.cli.progress` for the terminal's."""

    def step(self, epoch: int, fraction: float) -> None:
        """Report that a ``fraction`` of ``epoch`` is done."""
        ...

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Report what validation after ``epoch`` found."""
        ...


class Quiet:
    """Reports nothing."""

    def step(self, epoch: int, fraction: float) -> None:
        """See :class:`Progress`."""

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """See :class:`Progress`."""


@dataclass
class Log:
    """How far a training has come: its epochs' figures, and which of them is the best."""

    figures: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1

    @property
    def best(self) -> dict[str, float]:
        """Figures of the best epoch."""
        return self.figures[self.best_epoch]


@dataclass(frozen=True)
class Trainer:
    """Runs epochs over ``modules`` until the score has not risen for ``patience`` of them.

    Attributes:
        modules: what is trained and checkpointed, by name.
        optimizers: their optimizers.
        epochs: most epochs to run.
        patience: epochs without a better score before the run stops; 0 never stops early.
        seed: seed of all randomness inside the epochs.
        schedule: of the learning rate over all the epochs; linear rises to the optimizer's own, then falls to 0.
        rise: share of the run in which a linear schedule rises.
        folder: where the resumable state is kept; ``None`` keeps none.
        settings: settings the state belongs to; a state of other settings is refused.
        progress: receives steps and epochs as they end.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Sequence[Optimizer]
    epochs: int
    patience: int
    seed: int
    schedule: Literal["constant", "linear"] = "constant"
    rise: float = RISE
    folder: Path | None = None
    settings: str = ""
    progress: Progress = field(default_factory=Quiet)

    def run(
        self, epoch: Callable[[Log, int], Iterable[float]], validate: Callable[[Log], tuple[float, dict[str, float]]]
    ) -> Log:
        """Train, then leave the best epoch's weights in the modules.

        Args:
            epoch: ``(log so far, seed) -> fractions done``; trains one epoch step by step.
            validate: ``log so far -> (score to maximise, figures to report)``.

        Raises:
            ArtifactError: the folder holds a state of other settings or a damaged one.
        """
        log, best = self._resume()
        with torch.random.fork_rng():
            for number in range(len(log.figures), self.epochs):
                if self.patience and number - log.best_epoch > self.patience and log.figures:
                    break
                seed = self.seed * 1_000_003 + number
                torch.manual_seed(seed)
                self._train(True)
                self._anneal(number / self.epochs)
                for fraction in epoch(log, seed):
                    self._anneal((number + fraction) / self.epochs)
                    self.progress.step(number, fraction)
                self._train(False)
                score, figures = validate(log)
                log.figures.append({"score": score, **figures})
                if log.best_epoch < 0 or score > log.best["score"]:
                    log.best_epoch, best = number, self._weights()
                self._save(log, best)
                self.progress.epoch(number, log.figures[-1])
        self._restore(best)
        self._train(False)
        return log

    def _anneal(self, done: float) -> None:
        share = 1.0 if self.schedule == "constant" else min(done / self.rise, (1 - done) / (1 - self.rise))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * share

    def _train(self, mode: bool) -> None:
        for module in self.modules.values():
            module.train(mode)

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value.detach().clone()
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }

    def _restore(self, weights: Mapping[str, Tensor]) -> None:
        for name, module in self.modules.items():
            prefix = f"{name}."
            module.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})

    def _save(self, log: Log, best: Mapping[str, Tensor]) -> None:
        if self.folder is None:
            return
        tensors = {f"now.{key}": value for key, value in self._weights().items()}
        tensors |= {f"best.{key}": value.clone() for key, value in best.items()}
        for i, optimizer in enumerate(self.optimizers):
            for j, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{key}": value.clone() for key, value in state.items()}
        metadata = {"settings": self.settings, "log": json.dumps(asdict(log))}
        write_state(self.folder / STATE_FILE, tensors, metadata)

    def _resume(self) -> tuple[Log, dict[str, Tensor]]:
        path = self.folder and self.folder / STATE_FILE
        if path is None or not path.exists():
            return Log(), self._weights()
        metadata, tensors = read_state(path, self.settings)
        try:
            self._restore(_below(tensors, "now."))
            for i, optimizer in enumerate(self.optimizers):
                _restore_optimizer(optimizer, _below(tensors, f"optimizer.{i}."))
            return Log(**json.loads(metadata["log"])), _below(tensors, "best.")
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise _damaged(path, error) from None


def write_state(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors to resume from, whole or not at all; ``metadata`` says in "settings" what run they belong to.

    Raises:
        ArtifactError: they cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), temporary, {**metadata, "sha256": _digest(tensors)})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path.parent}: the training state cannot be written: {_one_line(error)}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_state(path: Path, settings: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read what :func:`write_state` wrote for a run of these ``settings``: its metadata and tensors.

    Raises:
        ArtifactError: it is damaged or belongs to other settings.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata())
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata["settings"] != settings:
            raise ArtifactError(
                f"{path}: begun with other settings; give those again, or another --out, or delete the folder"
            )
        if metadata["sha256"] != _digest(tensors):
            raise ValueError("its tensors are not those that were written")
    except (SafetensorError, OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise _damaged(path, error) from None
    return metadata, tensors


def _damaged(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path}: damaged training state ({_one_line(error)}); delete it to start again")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and bytes, whatever their order."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode() + tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
