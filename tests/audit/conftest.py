from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

SIZE = "hidden_size = 8\ninner_size = 8\nn_layers = 1\nn_heads = 1\n"
CARD = SIZE + "sequence_length = 8\nlearning_rate = 0.02\nepochs = {}\n"
THIEVES = {
    "walker": CARD.format(12),
    "dunce": CARD.format(1),
    "holder": CARD.format(3) + 'queries = "replay"\nknown = 0.1\n',
}


@pytest.fixture(scope="session")
def thief_cards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cards of three thieves: one who learns, one who hardly does, one who holds histories."""
    folder = tmp_path_factory.mktemp("cards")
    for name, text in THIEVES.items():
        (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def suite(thief_cards: Path) -> Callable[..., str]:
    """Write a suite of thieves; a word after a name is the loss by which he learns instead."""

    def write(*thieves: str, calls: int = 400, curve: str = "[]") -> str:
        entries = []
        for thief in thieves:
            name, _, loss = thief.partition(" ")
            entries.append(f'{{ card = "{thief_cards / name}.toml"{f", loss = {loss!r}" if loss else ""} }}')
        path = thief_cards / f"suite-{abs(hash((thieves, calls, curve)))}.toml"
        path.write_text(f"calls = {calls}\ncurve = {curve}\nthieves = [{', '.join(entries)}]\n")
        return str(path)

    return write


@pytest.fixture
def run(learnt: Path, tmp_path: Path) -> Path:
    """A target that nobody has robbed yet."""
    return Path(shutil.copytree(learnt, tmp_path / "target"))
