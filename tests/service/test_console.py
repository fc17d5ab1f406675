from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.middleware import Middleware

from gro.service.asgi import GuardMiddleware
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.playbook import State

Service = Any
OPERATE, AUDIT, RANK = Role.OPERATE, Role.AUDIT, Role.RANK
PATHS = [
    ("GET", "overview", OPERATE),
    ("GET", "accounts", OPERATE),
    ("GET", "account?name=anna", OPERATE),
    ("GET", "events", AUDIT),
    ("GET", "metrics", AUDIT),
]
ORDERS = [("release", {"account": "anna", "why": "x"}), ("hold", {"account": "anna", "state": "watch", "why": "x"})]


@pytest.fixture
def operator(service: Service) -> dict[str, str]:
    return {"X-API-Key": service.key("otto", OPERATE)}


@pytest.fixture
def auditor(service: Service) -> dict[str, str]:
    return {"X-API-Key": service.key("alma", AUDIT)}


def ask(client: httpx.Client, headers: dict[str, str], *history: int) -> httpx.Response:
    return client.post("/rank", json={"histories": [list(history) or [1]]}, headers=headers)


@pytest.mark.parametrize(("method", "path", "role"), PATHS)
def test_each_path_takes_its_role_and_no_other(
    service: Service, client: httpx.Client, method: str, path: str, role: Role
) -> None:
    url = f"/guard/{path}"
    assert client.request(method, url).status_code == 401
    for other in Role:
        answer = client.request(method, url, headers={"X-API-Key": service.key("x", other)})
        assert answer.status_code == (200 if other is role else 403)
    assert client.put(url, headers={"X-API-Key": service.key("x", role)}).status_code == 405
    assert client.put(url).status_code == 401


@pytest.mark.parametrize(("path", "order"), ORDERS)
def test_orders_are_operators(
    service: Service, guard: Guard, client: httpx.Client, path: str, order: dict[str, str]
) -> None:
    guard.responses.hold("anna", State.SUSPEND, "b", "w")
    for role in (None, RANK, AUDIT):
        headers = {} if role is None else {"X-API-Key": service.key("x", role)}
        assert client.post(f"/guard/{path}", json=order, headers=headers).status_code == (403 if role else 401)
    assert guard.responses.response("anna").state is State.SUSPEND


def test_an_operator_suspends_an_account_and_releases_it(
    service: Service, guard: Guard, client: httpx.Client, operator: dict[str, str]
) -> None:
    anna = {"X-API-Key": service.key("anna")}
    order = {"account": "anna", "state": "suspend", "why": "called us names", "seconds": 60}
    held = client.post("/guard/hold", json=order, headers=operator).json()
    assert (held["state"], held["holds"][0]["by"], held["holds"][0]["why"]) == ("suspend", "otto", "called us names")
    assert ask(client, anna).json()["error"] == "account_suspended"
    assert client.get("/guard/accounts", headers=operator).json() == {"accounts": [held], "all": 1}
    released = client.post("/guard/release", json={"account": "anna", "why": "sorry"}, headers=operator).json()
    assert (released["state"], released["holds"]) == ("normal", [])
    assert ask(client, anna).status_code == 200
    assert client.get("/guard/accounts", headers=operator).json() == {"accounts": [], "all": 0}
    noted = [json.loads(line) for line in (service.folder / "audit.jsonl").read_text().splitlines()]
    actions = [entry["event"]["event"]["action"] for entry in noted if "event" in entry.get("event", {})]
    assert actions == [
        "service-started",
        "operator-hold",
        "playbook-transition",
        "operator-release",
        "playbook-transition",
    ]


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"account": "anna", "state": "suspended", "why": "x"},
        {"account": "anna", "state": "normal", "why": "x"},
        {"account": "anna", "state": "suspend", "why": ""},
        {"account": "anna", "state": "suspend", "why": "x", "seconds": -1},
        {"account": "anna", "state": "throttle", "why": "x", "factor": 2},
        {"account": "an\nna", "state": "suspend", "why": "x"},
        {"account": "anna", "state": "challenge", "why": "x"},
        {"account": "anna", "state": "suspend", "why": "x", "more": 1},
        [],
    ],
)
def test_an_order_that_cannot_be_meant_changes_nothing(
    guard: Guard, client: httpx.Client, operator: dict[str, str], order: object
) -> None:
    answer = client.post("/guard/hold", json=order, headers=operator)
    assert (answer.status_code, answer.json()["error"]) == (400, "order_malformed")
    assert len(guard.responses) == 0


def test_an_order_has_a_size(client: httpx.Client, operator: dict[str, str]) -> None:
    answer = client.post("/guard/release", content=b" " * (1 << 17), headers=operator)
    assert answer.status_code == 413


def test_what_is_known_of_an_account_is_told_with_its_reasons(
    service: Service, guard: Guard, client: httpx.Client, operator: dict[str, str]
) -> None:
    key = {"X-API-Key": service.key("thief")}
    assert client.get("/guard/account?name=thief", headers=operator).json()["score"] is None
    while guard.watchman is not None and not guard.watchman.alarms:
        assert ask(client, key, *service.world.rng.integers(1, 301, 20).tolist()).status_code == 200
    told = client.get("/guard/account?name=thief", headers=operator).json()
    assert (told["account"], told["state"], told["alarm"]) == ("thief", "decoy", True)
    assert told["score"] > 1
    assert all(reason["text"].startswith(("share", "different", "place", "how", "even")) for reason in told["reasons"])
    overview = client.get("/guard/overview", headers=operator).json()
    assert (overview["accounts_watched"], overview["accounts_listed"], overview["trouble"]) == (1, 1, [])
    assert overview["counts"]["gro_alarms_total"] == 1
    assert overview["counts"]['gro_transitions_total{state="decoy"}'] == 1


def test_sessions_are_opened_used_and_ended(service: Service, client: httpx.Client) -> None:
    key = {"X-API-Key": service.key("anna")}
    opened = client.post("/guard/session", headers=key)
    assert (opened.status_code, opened.headers["cache-control"]) == (201, "no-store")
    session = {"Authorization": f"Bearer {opened.json()['session']}"}
    assert ask(client, session).status_code == 200
    assert client.post("/guard/session", headers=session).json()["error"] == "session_from_session"
    assert client.delete("/guard/session", headers=key).json()["error"] == "session_missing"
    assert client.delete("/guard/session", headers=session).status_code == 204
    assert ask(client, session).status_code == 401
    assert ask(client, key).status_code == 200


def test_who_is_suspended_has_no_session_left(service: Service, client: httpx.Client, operator: dict[str, str]) -> None:
    key = {"X-API-Key": service.key("anna")}
    session = {"Authorization": f"Bearer {client.post('/guard/session', headers=key).json()['session']}"}
    client.post("/guard/hold", json={"account": "anna", "state": "suspend", "why": "x"}, headers=operator)
    assert ask(client, session).status_code == 401


def test_events_and_metrics_are_auditors(service: Service, client: httpx.Client, auditor: dict[str, str]) -> None:
    ask(client, {"X-API-Key": service.key("anna")})
    ask(client, {"X-API-Key": "gro_wrong"})
    events = client.get("/guard/events", headers=auditor).json()["events"]
    assert [event["event"]["action"] for event in events] == ["service-started", "authentication-failed"]
    answer = client.get("/guard/metrics", headers=auditor)
    assert answer.headers["content-type"].startswith("text/plain")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["gro_requests_total", "refused"] == 1
    assert found["gro_refusals_total", "key_malformed"] == 1
    assert found["gro_calls_total",] == 1
    assert found["gro_accounts_watched",] == 1


def test_the_console_can_be_elsewhere_or_nowhere(service: Service, operator: dict[str, str]) -> None:
    for console, path, status in (("", "/guard/overview", 404), ("/admin", "/admin/overview", 200)):
        guard = Guard(service.settings().model_copy(update={"console": console, "audit": None}))
        with service.served(GuardMiddleware(service.app(), guard, ("/rank",))) as url:
            assert httpx.get(url + path, headers=operator).status_code == status


def test_inside_an_application_refusals_are_the_guard_s(service: Service, operator: dict[str, str]) -> None:
    """Not errors that the application would answer with 500."""
    guarding = Middleware(GuardMiddleware, guard=Guard(service.settings()), paths=("/rank",))
    app, anna = Starlette(routes=service.app().routes, middleware=[guarding]), {"X-API-Key": service.key("anna")}
    with service.served(app) as url, httpx.Client(base_url=url) as client:
        assert client.get("/guard/release", headers=operator).status_code == 405
        assert client.post("/guard/release", headers=operator).status_code == 400
        assert client.get("/rank").status_code == 401
        assert client.get("/rank", headers=anna).status_code == 405
        assert ask(client, anna).status_code == 200
        assert client.get("/health").text == "well"
    assert service.events("service-stopped")
