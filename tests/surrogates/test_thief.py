"""A theft that goes on does not ask again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gro.errors import ArtifactError
from gro.training import ANSWERS_FILE
from gro_surrogates.thief import Thief, ThiefSettings

N_ITEMS, CALLS = 30, 120
SETTINGS = ThiefSettings(max_length=6, hidden_size=8, inner_size=8, epochs=1)


class Counter:
    """A target that counts its calls and may break off."""

    def __init__(self, budget: int = CALLS) -> None:
        self.calls, self.budget = 0, budget

    def __call__(self, histories: Tensor) -> Tensor:
        self.calls += len(histories)
        if self.calls > self.budget:
            raise KeyboardInterrupt
        return (histories[:, :1] + torch.arange(5)) % N_ITEMS + 1


def weights(thief: Thief, target: Counter) -> Tensor:
    return torch.cat([p.flatten() for p in thief(target, N_ITEMS, CALLS, seed=0).surrogate.parameters()])


def test_recorded_answers_are_kept_and_give_the_same_copy(tmp_path: Path) -> None:
    thief = Thief(SETTINGS, folder=tmp_path)
    answers = thief.ask(Counter(), N_ITEMS, CALLS, seed=0)
    expected = weights(Thief(SETTINGS), Counter())
    first, again = Counter(), Counter(budget=0)
    assert torch.equal(weights(thief, first), expected)
    (tmp_path / "training.safetensors").unlink()
    assert torch.equal(weights(thief, again), expected)
    assert (first.calls, again.calls) == (answers.calls, 0)


@pytest.mark.parametrize(("victim", "seed"), [("a", 1), ("b", 0)])
def test_answers_of_another_theft_are_refused(tmp_path: Path, victim: str, seed: int) -> None:
    Thief(SETTINGS, folder=tmp_path, victim="a")(Counter(), N_ITEMS, CALLS, seed=0)
    with pytest.raises(ArtifactError, match=rf"{ANSWERS_FILE}: begun with other settings"):
        Thief(SETTINGS, folder=tmp_path, victim=victim)(Counter(), N_ITEMS, CALLS, seed=seed)


def test_damaged_answers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / ANSWERS_FILE
    Thief(SETTINGS, folder=tmp_path)(Counter(), N_ITEMS, CALLS, seed=0)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        Thief(SETTINGS, folder=tmp_path)(Counter(), N_ITEMS, CALLS, seed=0)


def test_nothing_is_kept_of_a_questioning_that_broke_off(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        Thief(SETTINGS, folder=tmp_path)(Counter(budget=CALLS // 2), N_ITEMS, CALLS, seed=0)
    assert not list(tmp_path.iterdir())
