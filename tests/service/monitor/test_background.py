from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import DataError
from gro.service.monitor.background import CONTEXT, Background

N, DIMENSIONS = 40, 4
_RNG = np.random.default_rng(0)
KNOWN = Background(
    np.arange(10, 10 + 3 * N, 3), _RNG.normal(size=(N, DIMENSIONS)).astype(np.float32), _RNG.permutation(N)[:16]
)


@given(st.lists(st.integers(8, 13 + 3 * N) | st.sampled_from(KNOWN.items.tolist()), max_size=50), st.data())
def test_plausibility_is_the_share_of_references_that_fit_worse(history: list[int], data: st.DataObject) -> None:
    new = data.draw(st.integers(0, len(history)))
    place = {int(item): at for at, item in enumerate(KNOWN.items)}
    shares = []
    for at in range(max(1, len(history) - new), len(history)):
        context = [place[item] for item in history[max(0, at - CONTEXT) : at] if item in place]
        if context and history[at] in place:
            own = place[history[at]]
            fit = KNOWN.vectors.astype(np.float64) @ KNOWN.vectors[context].astype(np.float64).sum(axis=0)
            worse = [0.5 if other == own else float(fit[other] < fit[own]) for other in KNOWN.references]
            shares.append(np.mean(worse))
    found = KNOWN.plausibility(np.array(history, np.int64), new)
    assert found == (pytest.approx(np.mean(shares), abs=1e-6) if shares else None)


def test_what_people_do_is_more_plausible_than_chance(world: Callable[[int], Any]) -> None:
    w = world(0)
    background = Background.fit(list(w.calls("u", 60, w.person(0.2)))[-1].history for _ in range(100))
    people = [list(w.calls("u", 40, w.person(0.2)))[-1].history for _ in range(30)]
    chance = [w.rng.permutation(history) for history in w.rng.integers(1, 301, (30, 40))]
    ours, theirs = (sum(background.plausibility(each, 39) or 0 for each in some) / 30 for some in (people, chance))
    assert ours > 0.65
    assert theirs == pytest.approx(0.5, abs=0.05)


def test_a_log_of_few_items_is_refused() -> None:
    with pytest.raises(DataError, match="holds 3 different items"):
        Background.fit([np.array([1, 2, 3])])
