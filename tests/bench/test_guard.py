"""The guard's benchmark: that its figures are about what they say, on real servers; never what they are."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from array import array
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gro.bench import guard
from gro.bench.guard import soak
from gro.bench.guard.stopwatch import TIMES, Around, Within
from gro.bench.guard.world import LENGTH, N_ITEMS, Asker, Catalogue, K
from gro.errors import MissingExtraError

Gro = Any


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """The whole benchmark, as short as can be."""
    return guard.run(seconds=0.5, accounts=3_000, minutes=0.05)


def test_the_load_of_all_three_sides(measured: dict[str, Any]) -> None:
    load = measured["load"]
    assert list(load) == ["plain", "slowapi", "guard"]
    for side in load.values():
        assert side["statuses"] == {200: side["sent"]}
        assert side["timed"] == side["sent"] > 0
        assert 0 < side["overhead"]["p50"] <= side["overhead"]["p99"]
        assert side["connections"] in [step["connections"] for step in side["steps"]]
        assert len(side["turns"]) == 5


def test_the_memory_of_accounts(measured: dict[str, Any]) -> None:
    memory = measured["memory"]
    assert memory["accounts"] == 3_000
    assert memory["per_account"] == memory["bytes"] / 3_000 > 600
    assert memory["total"] > memory["bytes"]
    assert memory["limits_when_fullest"] > 0


def test_a_soak_ends_in_order_with_every_request_answered_that_was_taken(measured: dict[str, Any]) -> None:
    soaked = measured["soak"]
    end, memory = soaked["end"], soaked["memory"]
    assert soaked["rate"] == measured["load"]["guard"]["throughput"] / 2
    assert end["taken"] == end["answered"] == end["received"] == sum(soaked["statuses"].values())
    assert soaked["sent"] == end["taken"] + end["unread"]
    assert soaked["statuses"].keys() >= {200, 400, 401}
    assert soaked["statuses"].keys() <= {200, 400, 401, 403, 429}
    assert end["after"] > 0, "nothing was being asked when the signal came"
    assert end["exit_code"] == -signal.SIGTERM
    for least, most in (soaked["descriptors"], soaked["threads"], memory["interval"]):
        assert least <= most
    assert memory["interval"][0] <= memory["slope"] <= memory["interval"][1]


def test_growth_is_found_where_there_is_some() -> None:
    seconds, noise = np.arange(300.0), np.random.default_rng(0).normal(0, 0.01, 300)
    for slope in (0.0, 0.1):
        looks = np.stack([seconds, 100 + slope * seconds + noise, np.full(300, 9), np.full(300, 4)], axis=1)
        grown = soak._grown(looks)
        low, high = grown["memory"]["interval"]
        assert low < 3600 * slope < high
        assert (low > 0) == (slope > 0)
        assert (grown["descriptors"], grown["threads"]) == ([9, 9], [4, 4])


def test_the_stopwatch_runs_in_the_middleware_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    class Middleware:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def told(message: Message) -> None:
                work(1)
                await send(message)
                work(2)

            work(4)
            await receive()
            work(8)
            await self._app(scope, receive, told)
            work(16)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        work(100)
        await receive()
        work(100)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        work(1000)
        return {"type": "http.request"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        work(1000)
        sent.append(message)

    async def asked() -> array[float]:
        watched = Around(Middleware(Within(app)))
        for path in ("/", "/", TIMES):
            sent.clear()
            await watched({"type": "http", "path": path}, receive, send)
        return array("d", sent[-1]["body"])

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert asyncio.run(asked()).tolist() == [4 + 8 + 16 + 2 * (1 + 2)] * 2


def test_people_go_on_with_a_history_and_thieves_begin_anew() -> None:
    catalogue = Catalogue()
    for thief in (False, True):
        asker = Asker(catalogue, "key", Random(0), thief=thief)
        before, lengths = list(asker.history), []
        for _ in range(2 * LENGTH):
            asker.go_on()
            history = list(asker.history)
            if len(history) > 1:
                assert history[-len(before) - 1 : -1] == before[-LENGTH + 1 :]
            assert len(asker.listed) == len(set(asker.listed)) == K
            assert all(1 <= item <= N_ITEMS for item in history)
            before = history
            lengths.append(len(history))
        assert lengths[-1] == (1 if thief else LENGTH)


def test_a_request_is_http_with_the_history() -> None:
    asker = Asker(Catalogue(), "the-key", Random(0), past=3)
    head, _, body = asker.ask().partition(b"\r\n\r\n")
    assert b"\r\nX-API-Key: the-key" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"histories": [list(asker.history)]}


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=r"slowapi: pip install gro\[service\] slowapi$"):
        guard.run(1.0, 1, 1.0)


def test_the_command_writes_what_it_prints(
    gro: Gro, tmp_path: Path, measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def run(*settings: object) -> dict[str, Any]:
        asked.append(settings[:3])
        return measured

    monkeypatch.setattr("gro.cli.guard.bench.run", run)
    out = tmp_path / "bench.json"
    arguments = ("guard", "bench", "--seconds", 7, "--accounts", 8, "--minutes", 9, "--out", out)
    answer = gro(*arguments, "--json")
    assert answer.code == 0
    assert asked == [(7.0, 8, 9.0)]
    assert answer.json == json.loads(out.read_text())
    assert answer.json.keys() == {"load", "memory", "soak", "cores", "date", "machine", "versions"}
    assert answer.json["versions"].keys() >= {"gro", "python", "slowapi", "uvicorn"}
    title, header, *rows = gro(*arguments).out.splitlines()
    assert "measured in this run" in title
    assert header.split() == ["plain", "slowapi", "guard", "guard", "/", "slowapi"]
    assert len(rows) == 15


def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(gro: Gro, tmp_path: Path) -> None:
    answer = gro("guard", "bench", "--out", tmp_path / "nowhere" / "bench.json")
    assert answer.code == 2
    assert "there is no folder" in answer.err
