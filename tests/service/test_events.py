"""Events: each is what the Elastic Common Schema says it is, tells of people what it may, and cannot break a line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gro.service import events
from gro.service.core import Principal, Refused, Role
from gro.service.ecs import Events
from gro.service.events import Event, Request
from gro.service.lines import LONGEST
from gro.service.link import StoreChange
from gro.service.monitor.detector import Judgement, Reason
from gro.service.playbook import State
from gro.service.privacy import Privacy, PrivacySettings
from gro.service.responses import PLAYBOOK, Transition

NOW = 1_795_726_616.5
KEY = b"k" * 32
ALICE = Principal("alice", frozenset({Role.RANK, Role.AUDIT}), "alice-key-1")
REQUEST = Request("POST", "/rank", "203.0.113.7", "0af7651916cd43dd8448eb211c80319c")
REFUSED = Refused(401, "key_expired", "show a valid key")
JUDGEMENT = Judgement(9.1, 6.5, (Reason("pace", 0.1, 3.2, -4.5), Reason("listed", 0.9, 0.2, 3.0)))
BY_PLAYBOOK = Transition(
    account="alice",
    before=State.NORMAL,
    after=State.THROTTLE,
    factor=0.2,
    why="score 9.1",
    rule="slow-down",
    by=PLAYBOOK,
    at=NOW,
    until=NOW + 60,
    dry_run=False,
)
BY_OPERATOR = Transition(
    account="alice",
    before=State.SUSPEND,
    after=State.NORMAL,
    factor=1.0,
    why="a mistake",
    rule="",
    by="olga",
    at=NOW,
    until=None,
    dry_run=True,
)
EVENTS: Mapping[str, Event] = {
    "authentication-failed": events.authentication_failed(REFUSED, REQUEST),
    "access-denied": events.access_denied(ALICE, REFUSED, REQUEST),
    "request-limited": events.request_limited(ALICE, REFUSED, REQUEST),
    "store-degraded": events.store_changed(StoreChange("gone", "connection refused")),
    "store-recovered": events.store_changed(StoreChange("back", "it answers")),
    "store-emptied": events.store_changed(StoreChange("emptied", "restarted")),
    "account-alarm": events.alarm("alice", JUDGEMENT, REQUEST),
    "playbook-transition": events.transition(BY_PLAYBOOK),
    "operator-release": events.operator_action(ALICE, "release", REQUEST, account="bob", reason="asked to"),
    "service-started": events.service_started(),
    "service-stopped": events.service_stopped(),
    "configuration-loaded": events.configuration_loaded(Path("guard.toml"), "ab" * 32),
    "audit-failed": events.audit_failed("no space left on device"),
    "lines-lost": events.lines_lost("queries", 12),
}
FIELDS: Mapping[str, type] = {
    "@timestamp": datetime,
    "message": str,
    "log.level": str,
    "ecs.version": str,
    "service.name": str,
    "service.version": str,
    "event.kind": str,
    "event.category": list,
    "event.type": list,
    "event.action": str,
    "event.outcome": str,
    "event.severity": int,
    "event.code": str,
    "event.reason": str,
    "event.module": str,
    "event.dataset": str,
    "event.risk_score": float,
    "user.id": str,
    "user.hash": str,
    "user.roles": list,
    "user.target.id": str,
    "user.target.hash": str,
    "source.address": str,
    "source.ip": ip_address,  # type: ignore[dict-item]
    "http.request.method": str,
    "http.response.status_code": int,
    "url.path": str,
    "rule.name": str,
    "trace.id": str,
    "file.path": str,
    "file.hash.sha256": str,
}
"""Fields of ECS 9.4 that the guard uses, with what they hold."""
TYPES: Mapping[str, set[str]] = {
    "api": {"access", "admin", "allowed", "change", "creation", "deletion", "denied", "end", "info", "start", "user"},
    "authentication": {"start", "end", "info"},
    "configuration": {"access", "change", "creation", "deletion", "info"},
    "database": {"access", "change", "info", "error"},
    "file": {"access", "change", "creation", "deletion", "info"},
    "iam": {"admin", "change", "creation", "deletion", "group", "info", "user"},
    "intrusion_detection": {"allowed", "denied", "info"},
    "process": {"access", "change", "end", "info", "start"},
}
"""Values of event.type that ECS 9.4 expects with those of event.category."""


def documents(privacy: Privacy | None = None) -> Events:
    made = Events(
        os.open(os.devnull, os.O_WRONLY),
        clock=lambda: NOW,
        privacy=privacy or Privacy(PrivacySettings()),
        service={"name": "ranking", "version": "1.2"},
    )
    made.close()
    return made


def flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping) and not f"{prefix}{name}".startswith("gro"):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize("action", EVENTS)
def test_each_event_is_of_the_schema(action: str) -> None:
    found = dict(flat(json.loads(json.dumps(documents().document(EVENTS[action])))))
    found.pop("gro", None)
    assert found.keys() <= FIELDS.keys()
    for name, value in found.items():
        if FIELDS[name] is datetime:
            assert datetime.fromisoformat(value) == datetime.fromtimestamp(NOW, UTC)
        elif FIELDS[name] is ip_address:
            assert ip_address(value)
        else:
            assert type(value) is FIELDS[name], name
    assert found["event.action"] == action
    assert found["event.kind"] in {"event", "alert", "pipeline_error"}
    assert found.get("event.outcome") in {"success", "failure", None}
    assert found["event.category"]
    assert found["event.type"]
    for category in found["event.category"]:
        assert set(found["event.type"]) <= TYPES[category]
    assert {"@timestamp", "message", "log.level", "ecs.version", "event.severity", "service.name"} <= found.keys()


def test_every_kind_of_event_is_looked_at() -> None:
    makers = {
        name for name, made in vars(events).items() if getattr(made, "__annotations__", {}).get("return") == "Event"
    }
    assert len(makers) == len(EVENTS) - 2  # the store's three come from one


def test_an_alarm_says_why() -> None:
    document = documents().document(EVENTS["account-alarm"])
    assert document["event"]["kind"] == "alert"
    assert document["event"]["risk_score"] == 9.1
    assert document["gro"]["threshold"] == 6.5
    assert document["gro"]["reasons"][0] == {"feature": "pace", "value": 0.1, "usual": 3.2, "deviations": -4.5}
    assert document["event"]["reason"] == "; ".join(map(str, JUDGEMENT.reasons))
    assert document["user"] == {"id": "alice"}


def test_a_transition_says_who_did_it_to_whom() -> None:
    document = documents().document(EVENTS["playbook-transition"])
    assert document["user"] == {"id": "alice"}
    assert document["rule"] == {"name": "slow-down"}
    state = {"before": "normal", "after": "throttle", "until": NOW + 60}
    assert document["gro"] == {"state": state, "factor": 0.2, "dry_run": False}
    assert "change" in document["event"]["type"]
    document = documents().document(events.transition(BY_OPERATOR))
    assert document["user"] == {"id": "olga", "target": {"id": "alice"}}
    assert document["gro"] == {"state": {"before": "suspend", "after": "normal"}, "factor": 1.0, "dry_run": True}
    assert "change" not in document["event"]["type"]
    assert document["message"] == "An account would go from suspend to normal."


def test_who_and_where_from_are_told() -> None:
    document = documents(Privacy(PrivacySettings(addresses="full"))).document(EVENTS["operator-release"])
    assert document["user"] == {"id": "alice", "roles": ["audit", "rank"], "target": {"id": "bob"}}
    assert document["gro"] == {"credential": "alice-key-1"}
    assert document["source"] == {"address": "203.0.113.7", "ip": "203.0.113.7"}
    assert document["trace"] == {"id": REQUEST.trace}
    assert document["event"]["reason"] == "asked to"
    document = documents().document(EVENTS["access-denied"])
    assert document["http"] == {"request": {"method": "POST"}, "response": {"status_code": 401}}
    assert document["event"]["code"] == "key_expired"


@pytest.mark.parametrize("action", EVENTS)
def test_pseudonyms_leave_no_name_and_absent_addresses_no_address(action: str) -> None:
    private = Privacy(PrivacySettings(accounts="pseudonym", addresses="absent"), KEY)
    written = json.dumps(documents(private).document(EVENTS[action]))
    for name in ("alice", "bob", "olga", "203.0.113"):
        assert name not in written
    if action == "access-denied":
        assert private.account("alice") == json.loads(written)["user"]["hash"]


def test_truncated_addresses_are_networks() -> None:
    found = documents().document(EVENTS["authentication-failed"])["source"]
    assert found == {"address": "203.0.113.0/24", "ip": "203.0.113.0"}


NASTY = st.text(st.characters(codec=None), max_size=30) | st.sampled_from(
    ['"}\n{"event":{"action":"operator-release"}}', "\r\n\x00\x1b[2J\x7f\u2028\u2029\x85", "\ud800", "x" * 10**6]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(account=NASTY, path=NASTY, method=NASTY, address=NASTY, reason=NASTY, score=st.floats())
def test_nothing_that_callers_send_breaks_a_line(
    tmp_path: Path, account: str, path: str, method: str, address: str, reason: str, score: float
) -> None:
    target = tmp_path / "events"
    target.unlink(missing_ok=True)
    log = Events(target, clock=lambda: NOW, privacy=Privacy(PrivacySettings(addresses="full")), service={"name": "r"})
    principal = Principal(account, frozenset(), account)
    request = Request(method, path, address)
    log.emit(events.operator_action(principal, "release", request, account=account, reason=reason))
    log.emit(events.alarm(account, Judgement(score, math.inf), request))
    log.close()
    lines = target.read_bytes().splitlines()
    assert [json.loads(line)["event"]["action"] for line in lines] == ["operator-release", "account-alarm"]
    assert all(0x20 <= byte < 0x7F for line in lines for byte in line)
    assert all(len(line) < 12 * 7 * LONGEST for line in lines)


def test_what_is_emitted_is_written_and_returned(tmp_path: Path) -> None:
    log = Events(tmp_path / "log", clock=lambda: NOW, privacy=Privacy(PrivacySettings()), service={"name": "r"})
    returned = [log.emit(event) for event in EVENTS.values()]
    assert log.flush()
    written = [json.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert written == json.loads(json.dumps(returned))
    log.close()


def test_events_that_are_lost_are_an_event() -> None:
    reader, writer = os.pipe()
    told: list[int] = []
    log = Events(
        writer,
        clock=lambda: NOW,
        privacy=Privacy(PrivacySettings()),
        service={"name": "r"},
        lost=told.append,
        most=100_000,
    )
    for _ in range(1000):
        log.emit(events.service_started())
    with os.fdopen(reader, "rb") as file:
        os.set_blocking(reader, False)
        found: list[Mapping[str, Any]] = []
        rest = b""
        while not log.flush(0.0) or rest:
            rest += file.read() or b""
            *lines, rest = rest.split(b"\n")
            found += map(json.loads, lines)
        log.close()
        found += map(json.loads, (file.read() or b"").splitlines())
    os.close(writer)
    lost = [event["gro"] for event in found if event["event"]["action"] == "lines-lost"]
    assert sum(one["lines"] for one in lost) == sum(told) == 1000 - (len(found) - len(lost)) > 300
    assert {one["log"] for one in lost} == {"events"}


@pytest.mark.parametrize("make", [events.service_started, events.service_stopped])
def test_events_cannot_be_changed(make: Callable[[], Event]) -> None:
    with pytest.raises(AttributeError):
        make().action = "other"  # type: ignore[misc]
