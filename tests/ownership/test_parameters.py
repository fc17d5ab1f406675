"""The mark in the item table: what it survives by mathematics, what innocents read, what writing costs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gro.config import Architecture, ModelSettings
from gro.errors import ConfigError, DataError
from gro.metrics import FloatArray
from gro.models import StateRecommender, build
from gro.ownership import parameters
from gro.ownership.calibration import weigh
from gro.ownership.parameters import DEPTH, ParameterMark, item_space, marked, read
from gro.ownership.suspect import Inconclusive, Inside, Suspect, in_hand, item_table
from tests.ownership.doubles import NEVER

N, D = 150, 8
TOKENS = [f"i{item}" for item in range(N)]
MARK = ParameterMark(bytes(range(32)), b"\x5a\x0f\xf1")
seeds = st.integers(0, 1 << 32)


def table(seed: int, n: int = N, d: int = D) -> FloatArray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * np.geomspace(1, 5, d) + rng.standard_normal(d)


def mark(seed: int, size: int = 2) -> ParameterMark:
    rng = np.random.default_rng(seed)
    return ParameterMark(rng.bytes(32), rng.bytes(size))


def model(architecture: Architecture) -> StateRecommender:
    settings = ModelSettings(model=architecture, max_length=6, hidden_size=D, inner_size=D, n_layers=1, n_heads=2)
    made = build(settings, N, seed=3).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(
                0.2 * torch.randn_like(weight)
            )  # SASRec's states span all dimensions once its norms have biases
    return made


@given(seeds)
def test_no_invertible_map_and_no_shift_changes_a_reading(seed: int) -> None:
    rng, own = np.random.default_rng(seed), table(seed)
    turned = np.linalg.qr(rng.standard_normal((D, D)))[0] * rng.uniform(0.1, 10, D)
    moved = own @ turned @ rng.permutation(np.eye(D)) + rng.standard_normal(D)
    before, after = (mark(seed).reading(each, TOKENS) for each in (own, moved))
    assert after.errors == before.errors
    assert after.lead == pytest.approx(before.lead)


@given(seeds)
def test_the_items_may_come_in_any_order(seed: int) -> None:
    own, order = table(seed), np.random.default_rng(seed).permutation(N)
    shuffled = MARK.reading(own[order], [TOKENS[place] for place in order])
    assert shuffled.lead == pytest.approx(MARK.reading(own, TOKENS).lead)


def test_innocents_read_fair_coins_whatever_the_table_and_the_message() -> None:
    own, bits, keys = table(0) ** 3, 16, 1500
    own[:20] = own[0]
    errors = [ParameterMark(mark(seed).key, b"\xff\xff").reading(own, TOKENS).errors for seed in range(keys)]
    seen = np.bincount(np.clip(errors, 4, 12), minlength=13)[4:]
    coins = stats.binom(bits, 0.5)
    wanted = keys * np.array([coins.cdf(4), *coins.pmf(range(5, 12)), coins.sf(11)])
    assert stats.chisquare(seen, wanted).pvalue > 0.01


def inspected(columns: FloatArray) -> Suspect:
    """A suspect that is not asked, whose weights are at hand."""
    return Suspect(lambda histories: histories, N, inside=Inside(columns, TOKENS))


@given(seeds)
def test_a_suspect_is_examined_by_the_share_of_right_bits_beside_coins(seed: int) -> None:
    own = mark(seed, 3)
    suspect = inspected(table(seed + 1))
    statistic, others = own.examine(suspect, draws=500)
    assert statistic == pytest.approx(1 - own.reading(table(seed + 1), TOKENS).bit_error_rate)
    assert {*others, statistic} <= {right / 24 for right in range(25)}  # to the last bit: ties are ties
    assert suspect.calls == own.calls == 0


def test_p_values_over_keys_are_exact_beside_coins_and_near_those_of_the_binomial() -> None:
    columns, plain, smooth = table(0) ** 3, [], []
    rng = np.random.default_rng(0)
    for _ in range(500):
        other = mark(0, 3).another(rng.bytes(32))
        ((statistic, null),) = weigh(inspected(columns), [other], draws=2000).values()
        plain.append(null.p_value(statistic))
        smooth.append(null.p_value(statistic, rng.random()))
        assert plain[-1] == pytest.approx(other.reading(columns, TOKENS).p_value, abs=0.06)
    assert stats.kstest(smooth, "uniform").pvalue > NEVER
    for level in (0.02, 0.1, 0.3):
        assert stats.binom.sf((np.array(plain) <= level).sum() - 1, len(plain), level) > NEVER


def test_nothing_is_said_of_a_suspect_whose_weights_are_not_at_hand_or_tell_nothing() -> None:
    plain = model("SASRec")
    with pytest.raises(Inconclusive, match="the suspect's weights are not at hand"):
        MARK.examine(in_hand(plain), draws=9)
    with pytest.raises(Inconclusive, match="the suspect: the item table holds a number that is nan"):
        MARK.examine(inspected(np.full((N, 2), np.nan)), draws=9)
    made = marked(plain, MARK, ["[PAD]", *TOKENS])
    assert MARK.examine(in_hand(made, tokens=TOKENS), draws=0)[0] == 1


@given(seeds, st.sampled_from([1.0, 2.0, 3.0]))
def test_what_was_written_is_read_with_the_lead_that_was_asked_for(seed: int, strength: float) -> None:
    own, secret = table(seed), mark(seed)
    written = secret.write(own, TOKENS, strength)
    reading = secret.reading(written, TOKENS)
    assert (reading.errors, reading.bit_error_rate) == (0, 0)
    assert reading.p_value == pytest.approx(2.0**-reading.bits)
    assert reading.lead >= 0.99 * strength
    assert mark(seed + 1).reading(written, TOKENS).errors > 0


def test_a_larger_lead_and_a_longer_message_cost_a_larger_change() -> None:
    def cost(size: int, strength: float) -> float:
        return float(np.linalg.norm(mark(1, size).write(table(0), TOKENS, strength) - table(0)))

    assert cost(1, 1.0) < cost(1, 2.0) < cost(3, 2.0) < 0.5 * float(np.linalg.norm(table(0)))


def test_the_change_is_the_least_that_does_it() -> None:
    """Against the pseudo-inverse of derivatives that were found by differences."""
    n, d = 14, 3
    own, secret = table(2, n, d), mark(2, 1)
    u, v = secret._directions(TOKENS[:n])
    space = item_space(own)
    out = (space.sizes[:, None] ** DEPTH) * space.axes  # a change of the table is measured before it goes through this
    tiny, before = 1e-6, parameters._leads(space, u, v)

    def moved(change: FloatArray) -> FloatArray:
        return parameters._leads(item_space(own + change @ out), u, v) - before

    slopes = np.array([moved(tiny * each.reshape(n, d)) / tiny for each in np.eye(n * d)]).T
    wanted = np.linspace(-1, 1, 8)
    least = (np.linalg.pinv(slopes, rcond=1e-4) @ wanted).reshape(n, d) @ out
    np.testing.assert_allclose(parameters._least_change(space, u, v, wanted), least, atol=1e-3 * np.abs(least).max())


@pytest.mark.parametrize("architecture", ["SASRec", "GRU4Rec", "NARM"])
def test_scores_tell_what_the_table_tells(architecture: Architecture) -> None:
    made = marked(model(architecture), MARK, ["[PAD]", *TOKENS])
    histories = torch.randint(1, N + 1, (100, 6))
    with torch.inference_mode():
        scores = made.scores(histories).double().numpy().T
    by_table, by_scores = MARK.reading(item_table(made), TOKENS), MARK.reading(scores, TOKENS)
    assert by_table.errors == by_scores.errors == 0
    assert by_scores.lead == pytest.approx(by_table.lead, rel=1e-3)


def test_only_the_items_are_marked_and_the_model_that_was_given_stays_as_it_was() -> None:
    plain = model("BERT4Rec")
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    made = marked(plain, MARK, ["[PAD]", *TOKENS])
    assert made.head.weight is made.item_embedding.weight
    changed = [name for name, value in made.state_dict().items() if not torch.equal(value, before[name])]
    assert set(changed) == {"item_embedding.weight", "head.weight"}
    assert torch.equal(made.head.weight[[0, N + 1]], before["head.weight"][[0, N + 1]])
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def test_another_mark_does_not_overwrite_the_first() -> None:
    others = [mark(seed, 1) for seed in range(4)]
    written = MARK.write(table(0), TOKENS)
    for other in others:
        written = other.write(written, TOKENS)
    assert MARK.reading(written, TOKENS).errors == 0
    assert others[-1].reading(written, TOKENS).errors == 0


def test_items_that_are_missing_or_new_do_not_hide_it() -> None:
    written = MARK.write(table(0), TOKENS)
    fewer = MARK.reading(written[: 3 * N // 4], TOKENS[: 3 * N // 4])
    more = MARK.reading(np.vstack([written, table(1, 40)]), [*TOKENS, *(f"new{item}" for item in range(40))])
    assert max(fewer.p_value, more.p_value) < 1e-4


def test_a_message_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="160 bits with a lead of 3 do not fit into a table of 20 items and 4 dim"):
        mark(0, 20).write(table(0, 20, 4), TOKENS[:20])


@pytest.mark.parametrize(("columns", "why"), [(np.full((N, 2), np.nan), "nan"), (np.full((N, 2), 0.1), "alike")])
def test_a_table_that_tells_nothing_is_refused(columns: FloatArray, why: str) -> None:
    with pytest.raises(DataError, match=why):
        MARK.reading(columns, TOKENS)


@pytest.mark.parametrize(("key", "message"), [(b"short", b"m"), (bytes(32), b"")])
def test_sizes_are_checked(key: bytes, message: bytes) -> None:
    with pytest.raises(ConfigError, match="needs 32 and at least 1"):
        ParameterMark(key, message)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=40))
def test_a_secret_makes_the_mark_again(key: bytes, message: bytes) -> None:
    made = ParameterMark(key, message)
    assert read(made.secret(), "mark.secret") == made
    assert read(made.secret(), "mark.secret", "parameters.b").name == "parameters.b"


@pytest.mark.parametrize("change", [{"key": "00"}, {"key": "xy"}, {"message": ""}, {"test": "triggers"}, {"more": 1}])
def test_a_malformed_secret_is_refused(change: dict[str, object]) -> None:
    content = json.dumps({**json.loads(MARK.secret()), **change}).encode()
    with pytest.raises(DataError, match=r"mark\.secret: holds no parameter mark"):
        read(content, "mark.secret")


@given(st.binary())
def test_noise_is_no_secret(content: bytes) -> None:
    with pytest.raises(DataError, match="holds no parameter mark"):
        read(content, "noise")
