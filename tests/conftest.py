from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import torch

from gro.data import Sequences

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
