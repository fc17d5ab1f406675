from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

from gro.cli import main
from gro.data import Sequences

USERS, ITEMS, LENGTH = 60, 40, 9
TINY = ("--hidden-size", "8", "--inner-size", "8", "--n-layers", "1", "--n-heads", "1", "--k", "5")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line of an error; fails where there is more."""
        assert self.err.count("\n") == 1
        assert self.err.startswith("gro: ")
        assert self.out == ""
        return self.err.strip()


Gro = Callable[..., Answer]

torch.set_num_threads(1)
hypothesis.settings.register_profile("gro", deadline=None)  # other work on the machine is no failure
hypothesis.settings.load_profile("gro")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny() -> Sequences:
    """48 users of 5..19 items: each item is followed by the next of a ring of 20, one time in ten by any."""
    rng = np.random.default_rng(0)
    n_items, lengths = 20, rng.integers(5, 20, 48)
    items = np.empty(lengths.sum(), dtype=np.int32)
    indptr = np.cumsum([0, *lengths], dtype=np.int64)
    for i in range(len(items)):
        jump = i in indptr or rng.random() < 0.1
        items[i] = rng.integers(1, n_items + 1) if jump else items[i - 1] % n_items + 1
    tokens = np.array(["[PAD]", *(f"i{item}" for item in range(1, n_items + 1))])
    return Sequences("tiny", indptr, items, tokens, np.array([f"u{user}" for user in range(len(lengths))]))


@pytest.fixture(scope="session")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset "tiny", in which an item is mostly followed by the next one."""
    return walks(tmp_path_factory.mktemp("data"), LENGTH)


@pytest.fixture(scope="session")
def long_data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with histories that are long enough for the default defence."""
    return walks(tmp_path_factory.mktemp("long"), 2 * LENGTH)


def walks(folder: Path, length: int) -> Path:
    """Write the dataset "tiny" with so many items a user."""
    generator = np.random.default_rng(0)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(USERS):
        start, steps = generator.integers(ITEMS), generator.permutation(length)
        items = (start + np.where(steps == 0, 7, np.arange(length))) % ITEMS
        rows += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(items)]
    (folder / "tiny").mkdir()
    (folder / "tiny" / "tiny.inter").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def gro(capfd: pytest.CaptureFixture[str]) -> Gro:
    """Run the command line in this process."""

    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def plain(data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished plain run."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    arguments = ["train", "--dataset", "tiny", "--data-path", str(data_path), "--out", str(out), "--epochs", "1"]
    assert main([*arguments, "--quiet", *TINY]) == 0
    return out


@pytest.fixture(scope="session")
def learnt(data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished plain run that is worth stealing."""
    out = tmp_path_factory.mktemp("runs") / "learnt"
    arguments = ["train", "--dataset", "tiny", "--data-path", str(data_path), "--out", str(out), "--epochs", "10"]
    assert main([*arguments, "--quiet", "--learning-rate", "0.01", "--patience", "0", *TINY]) == 0
    return out


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a TOML file and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write
