from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from gro.service.access.keys import KeySettings, KeyStore, start_key_file
from gro.service.asgi import GuardMiddleware
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.monitor.calibration import Calibration
from gro.service.monitor.files import write
from gro.service.playbook import State
from gro.service.settings import GuardSettings, read_guard

World = Any
SECRET = "0123456789abcdef" * 4
CONFIG = """
[keys]
path = "{folder}/keys.json"

[limits]
policy = "{folder}/policy.toml"

[wire]
n_items = 300
most_k = 30
most_histories = 4

[monitor]
calibration = "{folder}/calibration.safetensors"
answers = 4096

[responses]
playbook = "{folder}/playbook.toml"

[privacy]
key_file = "{folder}/secret"

[events]
to = "{folder}/events.jsonl"

[audit]
path = "{folder}/audit.jsonl"
key_file = "{folder}/secret"
"""
PLAYBOOK = """
[[rule]]
name = "alarm"
when = { alarm = true }
then = "decoy"
for = "1h"

[[rule]]
name = "long alarm"
when = { score = 1.0, for_calls = 15 }
then = "suspend"
for = "1h"
"""
POLICY = "[limits]\ncalls_per_day = 500\n"


class Service:
    """A guarded service, and what goes on in it."""

    def __init__(self, folder: Path, calibration: Calibration, world: World) -> None:
        self.folder, self.world = folder, world
        for name, content in (("playbook.toml", PLAYBOOK), ("policy.toml", POLICY), ("guard.toml", CONFIG)):
            (folder / name).write_text(content.replace("{folder}", str(folder)))
        (folder / "secret").write_text(SECRET)
        (folder / "secret").chmod(0o600)
        write(folder / "calibration.safetensors", calibration)
        start_key_file(folder / "keys.json")
        self._keys = KeyStore(KeySettings(path=folder / "keys.json"))
        self.asked = 0

    def settings(self) -> GuardSettings:
        return read_guard(self.folder / "guard.toml")

    def key(self, account: str, *roles: Role) -> str:
        return self._keys.create(account, roles or (Role.RANK,), 3600.0, time.time())[1]

    def app(self) -> Starlette:
        """The team's own service, which knows nothing of a guard."""

        async def rank(request: Request) -> JSONResponse:
            body = await request.json()
            self.asked += 1
            lists = [self.world.answer(np.array(history)).tolist() for history in body["histories"]]
            return JSONResponse({"lists": lists, "model": "m"})

        async def whoever(request: Request) -> PlainTextResponse:
            return PlainTextResponse("well")

        routes = [Route("/rank", rank, methods=["POST"]), Route("/health", whoever), Route("/stats", whoever)]
        return Starlette(routes=routes)

    def events(self, action: str) -> list[dict[str, Any]]:
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"]["action"] == action]


@contextmanager
def served(app: Any) -> Iterator[str]:
    """A real server on a free loopback port."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def service(tmp_path: Path, calibration: Calibration, world: Callable[[int], World]) -> Service:
    return Service(tmp_path, calibration, world(30))


@pytest.fixture
def guard(service: Service) -> Guard:
    return Guard(service.settings())


@pytest.fixture
def client(service: Service, guard: Guard) -> Iterator[httpx.Client]:
    app = GuardMiddleware(service.app(), guard, ("/rank",), {"/stats": Role.AUDIT})
    with served(app) as url, httpx.Client(base_url=url) as client:
        yield client
    asyncio.run(guard.close())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_question_with_a_key_is_answered_by_the_service(service: Service, client: httpx.Client) -> None:
    answer = client.post("/rank", json={"histories": [[1, 2, 3]]}, headers=bearer(service.key("anna")))
    assert answer.status_code == 200
    assert answer.json() == {"lists": [service.world.answer(np.array([1, 2, 3])).tolist()], "model": "m"}
    assert answer.headers["ratelimit"].startswith('"account_calls_per_day";r=499')


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"X-API-Key": "gro_x_y"}])
def test_nobody_gets_in_without_a_credential(service: Service, client: httpx.Client, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/rank"),
        ("GET", "/rank"),
        ("GET", "/stats"),
        ("GET", "/nowhere"),
        ("PUT", "/health2"),
    ):
        assert client.request(method, path, headers=headers).status_code == 401
    assert service.asked == 0


def test_open_paths_are_anybodys_and_only_those(client: httpx.Client) -> None:
    assert client.get("/health").text == "well"
    for path in ("/health/", "//health", "/HEALTH", "/health%2f"):
        assert client.get(path).status_code == 401


def test_a_role_is_needed_for_each_path(service: Service, client: httpx.Client) -> None:
    ranks, audits = service.key("anna"), service.key("otto", Role.AUDIT)
    question = {"histories": [[1]]}
    assert client.get("/stats", headers=bearer(ranks)).status_code == 403
    assert client.get("/stats", headers=bearer(audits)).text == "well"
    assert client.post("/rank", json=question, headers=bearer(audits)).status_code == 403
    assert client.post("/rank", json=question, headers=bearer(ranks)).status_code == 200


def test_what_is_no_question_never_reaches_the_service(service: Service, client: httpx.Client) -> None:
    key = bearer(service.key("anna"))
    for body in (b"", b"{", b'{"histories": [0]}', b'{"histories": [301]}', b'{"histories": [[1]], "k": 31}'):
        answer = client.post("/rank", content=body, headers=key)
        assert answer.status_code == 400
        assert set(answer.json()) == {"error", "detail"}
    huge = b'{"histories": [' + b"1," * (1 << 20) + b"1]}"
    assert client.post("/rank", content=huge, headers=key).status_code == 413
    assert service.asked == 0


def test_a_batch_is_charged_by_its_histories_and_refused_whole(service: Service) -> None:
    (service.folder / "policy.toml").write_text("[limits]\ncalls_per_day = 7\n")
    key = bearer(service.key("anna"))
    with served(GuardMiddleware(service.app(), Guard(service.settings()), ("/rank",))) as url:
        asked = [httpx.post(f"{url}/rank", json={"histories": [[1]] * n}, headers=key) for n in (4, 4, 3, 1)]
    assert [answer.status_code for answer in asked] == [200, 429, 200, 429]
    assert asked[1].json()["error"] == "account_calls_per_day"
    assert int(asked[1].headers["retry-after"]) > 0
    assert service.asked == 2
    assert len(service.events("request-limited")) == 2


def test_a_thief_is_flagged_fed_decoys_suspended_and_released(
    service: Service, guard: Guard, client: httpx.Client
) -> None:
    key, rng = bearer(service.key("thief")), service.world.rng
    states, history, error = [], [service.world.anything()], None
    for turn in range(300):
        answer = client.post("/rank", json={"histories": [history]}, headers=key)
        states.append(guard.responses.response("thief").state)
        if answer.status_code == 403:
            error = answer.json()["error"]
            break
        listed = answer.json()["lists"][0]
        true = service.world.answer(np.array(history)).tolist()
        assert (listed == true) is (turn == 0 or states[-2] is State.NORMAL)
        history = [service.world.anything()] if len(history) == 50 else [*history, int(rng.choice(listed))]
    assert error == "account_suspended"
    assert states.index(State.DECOY) < 200
    alarm = service.events("account-alarm")[0]
    assert alarm["event"]["kind"] == "alert"
    assert alarm["gro"]["reasons"]
    operator = guard.identify(
        [(b"x-api-key", service.key("otto", Role.OPERATE).encode())], None, "POST", "/", Role.OPERATE
    )
    guard.release(operator, "thief", "a test of our own")
    assert client.post("/rank", json={"histories": [[1]]}, headers=key).status_code == 200
    moves = [event["gro"]["state"] for event in service.events("playbook-transition")]
    assert [move["after"] for move in moves] == ["decoy", "suspend", "normal"]


def test_people_are_answered_truly_to_the_end(service: Service, client: httpx.Client) -> None:
    for number in range(5):
        key = bearer(service.key(f"user-{number}"))
        for call in service.world.calls("x", 40, service.world.person(0.25)):
            answer = client.post("/rank", json={"histories": [call.history.tolist()]}, headers=key)
            assert answer.json()["lists"] == [call.listed.tolist()]


@pytest.mark.parametrize(
    "given", [{"oops": 1}, {"lists": {"1": 2}}, {"lists": None}, {"lists": [[1], [2]]}, {"lists": "12"}]
)
def test_a_service_that_gives_no_lists_is_not_passed_on(service: Service, guard: Guard, given: object) -> None:
    async def broken(request: Request) -> JSONResponse:
        return JSONResponse(given)

    app = Starlette(routes=[Route("/rank", broken, methods=["POST"])])
    with served(GuardMiddleware(app, guard, ("/rank",))) as url:
        answer = httpx.post(f"{url}/rank", json={"histories": [[1]]}, headers=bearer(service.key("anna")))
    assert (answer.status_code, answer.json()["error"]) == (502, "answer_unreadable")


def test_secrets_are_in_no_log(service: Service, client: httpx.Client, guard: Guard) -> None:
    key = service.key("anna")
    client.post("/rank", json={"histories": [[1]]}, headers=bearer(key))
    client.post("/rank", json={"histories": [[1]]}, headers=bearer(key + "x"))
    client.get("/stats", headers=bearer(key))
    asyncio.run(guard.close())
    for path in service.folder.glob("*.jsonl"):
        text = path.read_text()
        assert key.split("_")[2] not in text
        assert SECRET not in text
