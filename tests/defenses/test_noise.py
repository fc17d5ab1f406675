"""Noise from keys: uniform, normal, independent, the same for the same history and nobody's without the secret."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gro.defenses import noise
from gro.defenses.noise import fresh_keys, history_keys, keyed_generator, normal, uniform

KEYS = fresh_keys(400, torch.Generator().manual_seed(0))


def splitmix64(key: int, counter: int) -> int:
    """The generator in plain integers."""
    mask = 2**64 - 1
    z = (key + counter * noise.GOLDEN) & mask
    z = ((z ^ (z >> 30)) * noise.FIRST) & mask
    z = ((z ^ (z >> 27)) * noise.SECOND) & mask
    return z ^ (z >> 31)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 40), st.integers(0, 9))
def test_the_numbers_are_those_of_splitmix64(key: int, width: int, stream: int) -> None:
    found = uniform(torch.tensor([key]), width, stream)[0]
    for column in range(width):
        word = splitmix64(key % 2**64, (stream << 32) + column + 1)
        assert float(found[column]) == ((word >> (64 - noise.BITS)) + 0.5) / 2**noise.BITS


def test_uniform_and_normal_are_what_they_are_called() -> None:
    assert stats.kstest(uniform(KEYS, 50, 0).flatten().numpy(), "uniform").pvalue > 0.001
    assert stats.kstest(normal(KEYS, 50, 1).flatten().numpy(), "norm").pvalue > 0.001


def test_streams_columns_and_keys_are_independent() -> None:
    first, second = uniform(KEYS, 50, 0), uniform(KEYS, 50, 1)
    for a, b in ((first, second), (first[:, :-1], first[:, 1:]), (first[:-1], first[1:])):
        assert abs(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1]) < 0.03


@pytest.mark.parametrize("word", [0, -1, 2**63 - 1, -(2**63)])
def test_the_ends_of_the_range_are_finite(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        noise, "_shifted", lambda z, bits: (torch.full_like(z, word) >> bits) & ((1 << (64 - bits)) - 1)
    )
    drawn = uniform(torch.tensor([1]), 3, 0)
    assert bool(((drawn > 0) & (drawn < 1)).all())
    assert bool(normal(torch.tensor([1]), 3, 0).isfinite().all())


def test_a_history_has_one_key_however_it_is_padded_and_whatever_the_model_does_not_read() -> None:
    secret = b"owner"
    key = history_keys(torch.tensor([[3, 4, 5]]), 3, secret)
    assert torch.equal(history_keys(torch.tensor([[3, 4, 5, 0, 0]]), 3, secret), key)
    assert torch.equal(history_keys(torch.tensor([[9, 8, 3, 4, 5]]), 3, secret), key)
    others = [[3, 5, 4], [4, 5, 0], [3, 4, 6]]
    assert not (history_keys(torch.tensor(others), 3, secret) == key).any()
    assert history_keys(torch.tensor([[3, 4, 5]]), 3, b"other") != key


def test_what_is_drawn_once_hangs_on_the_purpose_and_the_secret_alone() -> None:
    state = torch.get_rng_state()
    made = [keyed_generator(*key) for key in ((b"names", b"a"), (b"names", b"b"), (b"others", b"a"), (b"names", b"a"))]
    one, secret, purpose, again = (torch.rand(8, generator=generator) for generator in made)
    assert torch.equal(one, again)
    assert not torch.equal(one, secret)
    assert not torch.equal(one, purpose)
    assert torch.equal(torch.get_rng_state(), state)
