from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.service.batching import WAITING, Batcher
from gro.service.core import Refused


class Model:
    """Answers a history with its own items backwards, and is never asked twice at once."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[int] = []
        self._seconds = seconds
        self._free = threading.Lock()

    def __call__(self, histories: Sequence[Sequence[int]]) -> list[list[int]]:
        assert self._free.acquire(blocking=False)
        with self._free_again():
            time.sleep(self._seconds)
            self.batches.append(len(histories))
            if any(0 in history for history in histories):
                raise ValueError("no such item")
            return [list(reversed(history)) for history in histories]

    def _free_again(self) -> _Release:
        return _Release(self._free)


class _Release:
    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._lock.release()


questions = st.lists(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=5), max_size=12)


@given(questions, st.integers(1, 7))
def test_everybody_gets_the_answers_to_what_they_asked(asked: list[list[list[int]]], most: int) -> None:
    async def ask() -> list[list[list[int]]]:
        batcher = Batcher(Model(), most)
        found = await asyncio.gather(*(batcher.ask(each) for each in asked))
        await batcher.close()
        return found

    assert asyncio.run(ask()) == [[list(reversed(history)) for history in each] for each in asked]


def test_what_comes_while_the_model_works_is_answered_together() -> None:
    model = Model(0.05)

    async def ask() -> None:
        batcher = Batcher(model, 8)
        first = asyncio.create_task(batcher.ask([[1]]))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, *(batcher.ask([[n]]) for n in range(1, 11)))
        await batcher.close()

    asyncio.run(ask())
    assert model.batches == [1, 8, 2]


def test_a_failure_is_everybodys_of_that_batch_and_nobody_elses() -> None:
    async def ask() -> list[object]:
        batcher = Batcher(Model(0.02), 2)
        asked = (batcher.ask([[n]]) for n in (1, 2, 0, 3, 4))
        found = await asyncio.gather(*asked, return_exceptions=True)
        await batcher.close()
        return list(found)

    found = asyncio.run(ask())
    assert found[:2] == [[[1]], [[2]]]
    assert [type(each) for each in found[2:4]] == [ValueError, ValueError]
    assert found[4] == [[4]]


def test_a_caller_who_left_does_not_stop_the_others() -> None:
    async def ask() -> list[list[int]]:
        batcher = Batcher(Model(0.05), 4)
        gone = asyncio.create_task(batcher.ask([[1]]))
        await asyncio.sleep(0.01)
        gone.cancel()
        found = await batcher.ask([[2, 3]])
        await batcher.close()
        return found

    assert asyncio.run(ask()) == [[3, 2]]


def test_more_than_can_wait_is_refused_at_once() -> None:
    async def ask() -> int:
        batcher = Batcher(Model(0.2), 1)
        waiting = [asyncio.create_task(batcher.ask([[1]])) for _ in range(WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await batcher.ask([[1]])
        for each in waiting:
            each.cancel()
        return refused.value.status

    assert asyncio.run(ask()) == 503


def test_nobody_is_answered_who_has_gone() -> None:
    model = Model(0.05)

    async def ask() -> None:
        batcher = Batcher(model, 4)
        first, gone, last = (asyncio.create_task(batcher.ask([[n]])) for n in (1, 2, 3))
        await asyncio.sleep(0.01)
        gone.cancel()
        late = asyncio.create_task(batcher.ask([[4]]))
        late_and_gone = asyncio.create_task(batcher.ask([[5]]))
        await asyncio.sleep(0)
        late_and_gone.cancel()
        assert tuple(await asyncio.gather(first, last, late)) == ([[1]], [[3]], [[4]])
        await batcher.close()

    asyncio.run(ask())
    assert model.batches == [3, 1]


def test_what_waits_is_answered_before_the_end_and_nothing_is_taken_in_after_it() -> None:
    async def ask() -> tuple[list[list[list[int]]], int]:
        batcher = Batcher(Model(0.02), 1)
        waiting = [asyncio.create_task(batcher.ask([[n]])) for n in range(1, 5)]
        await asyncio.sleep(0)
        ending = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await batcher.ask([[9]])
        await ending
        return await asyncio.gather(*waiting), refused.value.status

    assert asyncio.run(ask()) == ([[[n]] for n in range(1, 5)], 503)
