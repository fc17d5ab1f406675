from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gro.cli import main

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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset "tiny", in which an item is mostly followed by the next one."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(USERS):
        start, steps = generator.integers(ITEMS), generator.permutation(LENGTH)
        items = (start + np.where(steps == 0, 7, np.arange(LENGTH))) % ITEMS
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
