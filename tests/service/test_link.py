"""What is made of answers and failures of a store, in whatever order they come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gro.service.link import Link, StoreChange, StoreGoneError
from gro.service.windows import Cost, Level, Quota

LEVELS = [Level(0, 1.0)]


class Scripted:
    """A store each of whose calls ends as the test says, when the test says."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[str]] = []

    async def charge(self, quotas: Sequence[Quota], cost: Cost) -> tuple[str, list[Level]]:
        self.calls.append(asyncio.get_running_loop().create_future())
        return await self.calls[-1], LEVELS


class Scene:
    def __init__(self) -> None:
        self.store, self.told, self.now = Scripted(), list[StoreChange](), 100.0
        self.link = Link(self.store, 1.0, lambda: self.now, self.told.append)

    async def call(self) -> asyncio.Task[list[Level] | None]:
        task = asyncio.create_task(self.link.charge([], (1, 0)))
        await asyncio.sleep(0)
        return task

    @property
    def states(self) -> list[str]:
        return [change.state for change in self.told]


def test_one_call_tries_a_store_that_is_gone_after_each_pause() -> None:
    async def play(scene: Scene) -> None:
        first = await scene.call()
        scene.store.calls[0].set_exception(StoreGoneError("no"))
        assert await first is None
        assert scene.link.gone
        for _ in range(3):
            assert await (await scene.call()) is None
        assert len(scene.store.calls) == 1
        scene.now += 1
        tries = [await scene.call() for _ in range(3)]
        assert len(scene.store.calls) == 2
        scene.store.calls[1].set_result("since")
        assert await asyncio.gather(*tries) == [LEVELS, None, None]
        assert not scene.link.gone

    scene = Scene()
    asyncio.run(play(scene))
    assert scene.told == [StoreChange("gone", "no"), StoreChange("back", "it answers again")]


def test_a_clock_that_goes_back_does_not_stretch_the_pause() -> None:
    async def play(scene: Scene) -> None:
        first = await scene.call()
        scene.store.calls[0].set_exception(StoreGoneError("no"))
        await first
        scene.now -= 1_000
        last = await scene.call()
        scene.store.calls[1].set_result("since")
        assert await last == LEVELS

    asyncio.run(play(Scene()))


def test_an_answer_to_an_earlier_question_changes_nothing() -> None:
    async def play(scene: Scene) -> None:
        early = [await scene.call() for _ in range(4)]
        scene.store.calls[0].set_result("old")
        assert await early[0] == LEVELS
        scene.store.calls[1].set_exception(StoreGoneError("no"))
        assert await early[1] is None
        scene.store.calls[2].set_result("old")
        assert await early[2] == LEVELS
        assert scene.link.gone, "it answered before it failed"
        scene.now += 1
        later = await scene.call()
        scene.store.calls[4].set_result("new")
        assert await later == LEVELS
        scene.store.calls[3].set_exception(StoreGoneError("no"))
        assert await early[3] is None
        assert not scene.link.gone, "it failed before it was back"

    scene = Scene()
    asyncio.run(play(scene))
    assert scene.states == ["gone", "back", "emptied"]
