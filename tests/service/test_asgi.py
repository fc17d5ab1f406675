from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gro.errors import ConfigError
from gro.service.asgi import GuardMiddleware
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.monitor.calibration import calibrate
from gro.service.monitor.files import write
from gro.service.playbook import State
from gro.service.privacy import Privacy, PrivacySettings
from gro.service.querylog import Call, QueryLog
from gro.service.settings import QuerySettings
from gro.service.wire import WireSettings

Service = Any
World = Any
SECRET = "0123456789abcdef" * 4


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


def test_what_is_not_named_is_not_there(service: Service, client: httpx.Client) -> None:
    """Another way to the lists than the one that is watched is none."""
    key = bearer(service.key("anna"))
    for path in ("/rank/", "/Rank", "//rank", "/nowhere"):
        answer = client.post(path, json={"histories": [[1]]}, headers=key)
        assert (answer.status_code, answer.json()["error"]) == (404, "path_unknown")
    answer = client.get("/rank", headers=key)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert service.asked == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [("/stats", 200), ("/stats/", 307), ("/statsX", 404), ("/stats/%2e%2e/rank", 404)],
)
def test_a_role_is_for_a_path_and_what_is_below(service: Service, client: httpx.Client, path: str, status: int) -> None:
    request = client.build_request("GET", client.base_url, headers=bearer(service.key("otto", Role.AUDIT)))
    request.url = request.url.copy_with(raw_path=path.encode())
    assert client.send(request).status_code == status


def test_every_refusal_is_an_event(service: Service, guard: Guard, client: httpx.Client) -> None:
    anna, question = bearer(service.key("anna")), {"histories": [[1]]}
    client.post("/rank", json=question)
    client.post("/rank", json=question, headers=bearer(service.key("otto", Role.AUDIT)))
    client.post("/rank", content=b"{", headers=anna)
    client.post("/rank", content=b" " * (1 << 21), headers=anna)
    client.post("/nowhere", headers=anna)
    client.get("/rank", headers=anna)
    guard.responses.hold("anna", State.SUSPEND, "otto", "x")
    client.post("/rank", json=question, headers=anna)
    assert guard.logs.flush()
    refused = [(event["event"]["code"], event["http"]["response"]["status_code"]) for event in service.refusals()]
    assert refused == [
        ("credential_missing", 401),
        ("role_missing", 403),
        ("not_json", 400),
        ("body_too_large", 413),
        ("path_unknown", 404),
        ("method_unknown", 405),
        ("account_suspended", 403),
    ]


def test_an_answer_that_would_be_compressed_is_read_all_the_same(service: Service, guard: Guard) -> None:
    app = GZipMiddleware(service.app(), minimum_size=1)
    with service.served(GuardMiddleware(app, guard, ("/rank",))) as url:
        answer = httpx.post(f"{url}/rank", json={"histories": [[7]]}, headers=bearer(service.key("anna")))
    assert answer.json()["lists"] == [service.world.answer(np.array([7])).tolist()]


def test_padding_is_no_item(service: Service, guard: Guard) -> None:
    async def short(request: Request) -> JSONResponse:
        return JSONResponse({"lists": [[5, 6, 0, 0]]})

    settings = service.settings().model_copy(update={"queries": QuerySettings(path=service.folder / "queries.jsonl")})
    app = Starlette(routes=[Route("/rank", short, methods=["POST"])])
    with service.served(GuardMiddleware(app, Guard(settings), ("/rank",))) as url:
        answer = httpx.post(f"{url}/rank", json={"histories": [[7]]}, headers=bearer(service.key("anna")))
    assert answer.json() == {"lists": [[5, 6, 0, 0]]}
    [call] = QueryLog(service.folder / "queries.jsonl")
    assert (call.account, len(call.history), len(call.listed)) == ("anna", 1, 2)


def test_the_guard_s_time_is_not_the_service_s(service: Service, guard: Guard) -> None:
    async def slow(request: Request) -> JSONResponse:
        await asyncio.sleep(0.2)
        return JSONResponse({"lists": [[1]]})

    app = Starlette(routes=[Route("/rank", slow, methods=["POST"])])
    with service.served(GuardMiddleware(app, guard, ("/rank",))) as url:
        httpx.post(f"{url}/rank", json={"histories": [[7]]}, headers=bearer(service.key("anna")))
    [overhead] = [
        sample.value
        for family in guard.telemetry.registry.collect()
        for sample in family.samples
        if sample.name == "gro_overhead_seconds_sum"
    ]
    assert 0 < overhead < 0.2


def test_a_log_with_hashed_items_calibrates_the_guard_that_wrote_it(service: Service, world: type[World]) -> None:
    """What the monitor says is the same as with the ids themselves, and another secret is told at the start."""
    people = world(0).people(260)
    hashed = Privacy(PrivacySettings(), SECRET.encode()).items()
    named = [
        replace(call, history=np.array(hashed(call.history)), listed=np.array(hashed(call.listed))) for call in people
    ]
    scores = []
    for log in (people, named):
        write(service.folder / "calibration.safetensors", calibrate(log))
        guard = Guard(service.settings().model_copy(update={"audit": None}))
        assert guard.watchman is not None
        random = np.random.default_rng(3)
        calls = [(random.integers(1, 301, 12), random.integers(1, 301, 30)) for _ in range(30)]
        scores.append([guard.watchman.observe(Call(60.0 * at, "x", *ids))[0].score for at, ids in enumerate(calls)])
        assert guard.watchman.alarms == ("x",)
    assert np.mean(scores[0]) == pytest.approx(np.mean(scores[1]), rel=0.2)
    (service.folder / "secret").write_text("another" * 10)
    with pytest.raises(ConfigError, match="hashed with another secret"):
        Guard(service.settings().model_copy(update={"audit": None}))


@pytest.mark.parametrize("missing", ["wire", "privacy"])
def test_a_playbook_with_decoys_is_refused_where_there_can_be_none(service: Service, missing: str) -> None:
    settings = service.settings()
    without = {"wire": WireSettings(most_k=30), "privacy": PrivacySettings(items="given")}[missing]
    with pytest.raises(ConfigError, match="answers with decoys: they take 'n_items'"):
        Guard(settings.model_copy(update={missing: without, "audit": None}))


def test_a_batch_is_charged_by_its_histories_and_refused_whole(service: Service) -> None:
    (service.folder / "policy.toml").write_text("[limits]\ncalls_per_day = 7\n")
    key = bearer(service.key("anna"))
    with service.served(GuardMiddleware(service.app(), Guard(service.settings()), ("/rank",))) as url:
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
    asyncio.run(guard.release(operator, "thief", "a test of our own"))
    assert client.post("/rank", json={"histories": [[1]]}, headers=key).status_code == 200
    assert guard.logs.flush()
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
    with service.served(GuardMiddleware(app, guard, ("/rank",))) as url:
        answer = httpx.post(f"{url}/rank", json={"histories": [[1]]}, headers=bearer(service.key("anna")))
    assert (answer.status_code, answer.json()["error"]) == (502, "answer_unreadable")


def test_secrets_are_in_no_log(service: Service, client: httpx.Client, guard: Guard) -> None:
    key = service.key("anna")
    client.post("/rank", json={"histories": [[1]]}, headers=bearer(key))
    client.post("/rank", json={"histories": [[1]]}, headers=bearer(key + "x"))
    client.get("/stats", headers=bearer(key))

    for path in service.folder.glob("*.jsonl"):
        text = path.read_text()
        assert key.split("_")[2] not in text
        assert SECRET not in text
