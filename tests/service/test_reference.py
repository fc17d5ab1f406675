from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import jsonschema_rs
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.service.access.keys import KeySettings, KeyStore, start_key_file
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.reference import About, create_app, fitting
from gro.service.settings import read_guard
from gro.service.wire import WireSettings

N_ITEMS, K = 300, 10
ABOUT = About(dataset="synthetic", model="none", n_items=N_ITEMS, k=K)
CONFIG = """
open = {open}

[keys]
path = "{folder}/keys.json"

[limits]
policy = "{folder}/policy.toml"

[wire]
longest = 40
most_histories = 8
most_bytes = 4000

[events]
to = "{folder}/events.jsonl"
"""


def best(history: Sequence[int]) -> list[int]:
    """A list that tells which history it was made for."""
    return [(sum(history) + 7 * len(history) + place) % N_ITEMS + 1 for place in range(K)]


class Model:
    """Answers when it may, and counts its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.broken = False
        self.free = threading.Event()
        self.free.set()

    def __call__(self, histories: Sequence[Sequence[int]]) -> list[list[int]]:
        self.batches.append(len(histories))
        assert self.free.wait(30)
        if self.broken:
            raise ArithmeticError("the secret of the model")
        return [best(history) for history in histories]


class Service:
    """A folder of a guard's files, and what serves behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model = folder, Model()
        start_key_file(folder / "keys.json")
        self._keys = KeyStore(KeySettings(path=folder / "keys.json"))
        self.limit(1_000_000)
        self.configure('["/health", "/ready"]')

    def configure(self, opened: str) -> None:
        text = CONFIG.replace("{folder}", str(self.folder)).replace("{open}", opened)
        (self.folder / "guard.toml").write_text(text)

    def limit(self, calls: int) -> None:
        (self.folder / "policy.toml").write_text(f"[limits]\ncalls_per_day = {calls}\n")

    def key(self, *roles: Role) -> dict[str, str]:
        return {"X-API-Key": self._keys.create("anna", roles or (Role.RANK,), 3600.0, time.time())[1]}

    @contextmanager
    def served(self, lifespan: Any = "on") -> Iterator[Server]:
        app = create_app(self.model, ABOUT, Guard(read_guard(self.folder / "guard.toml")))
        with Server(app, lifespan) as server:
            yield server


class Server:
    """A real one on a free loopback port."""

    def __init__(self, app: Any, lifespan: Any) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._address = self._listening.getsockname()
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan=lifespan))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listening]})
        self.url = f"http://127.0.0.1:{self._address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def drain(self) -> None:
        """What SIGTERM does."""
        self._server.should_exit = True

    def in_flight(self) -> int:
        return len(self._server.server_state.tasks)

    def refuses(self) -> bool:
        try:
            socket.create_connection(self._address, 1).close()
        except ConnectionRefusedError:
            return True
        return False


def until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it never came true")


def ask(url: str, histories: list[list[int]], key: dict[str, str]) -> Any:
    return httpx.post(f"{url}/rank", json={"histories": histories}, headers=key, timeout=30).json()["lists"]


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with service.served() as server, httpx.Client(base_url=server.url, headers=service.key()) as client:
        yield client


def test_each_history_has_its_own_list_in_the_order_of_the_question(client: httpx.Client) -> None:
    histories = [[1, 2, 3], [9], [300] * 40, [3, 2, 1, 1]]
    answer = client.post("/rank", json={"histories": histories, "k": 4})
    assert answer.status_code == 200
    assert answer.json() == {"lists": [best(history)[:4] for history in histories]}


def test_one_history_needs_no_batch_and_no_k(client: httpx.Client) -> None:
    assert client.post("/rank", json={"histories": [5, 6]}).json() == {"lists": [best([5, 6])]}


def test_what_many_ask_meanwhile_is_answered_together_and_to_each_their_own(service: Service) -> None:
    service.model.free.clear()
    asked = [[[n, 1], [n, 2, 1]] for n in range(1, 17)]
    with service.served() as server, ThreadPoolExecutor(len(asked)) as callers:
        answers = [callers.submit(ask, server.url, each, service.key()) for each in asked]
        until(lambda: server.in_flight() == len(asked))
        service.model.free.set()
        found = [answer.result() for answer in answers]
    assert found == [[best(history) for history in each] for each in asked]
    assert sum(service.model.batches) == 32
    assert len(service.model.batches) < 16


REFUSED: dict[str, tuple[str, str, bytes, int, str]] = {
    "no JSON": ("POST", "/rank", b"{", 400, "not_json"),
    "no histories": ("POST", "/rank", b"{}", 400, "histories_missing"),
    "no item": ("POST", "/rank", b'{"histories": [0]}', 400, "question_malformed"),
    "unknown item": ("POST", "/rank", b'{"histories": [[301]]}', 400, "question_malformed"),
    "empty history": ("POST", "/rank", b'{"histories": [[1], []]}', 400, "question_malformed"),
    "no history": ("POST", "/rank", b'{"histories": []}', 400, "question_malformed"),
    "long history": ("POST", "/rank", json.dumps({"histories": [[1] * 41]}).encode(), 400, "question_malformed"),
    "many histories": ("POST", "/rank", json.dumps({"histories": [[1]] * 9}).encode(), 400, "question_malformed"),
    "long lists": ("POST", "/rank", b'{"histories": [1], "k": 11}', 400, "question_malformed"),
    "no list": ("POST", "/rank", b'{"histories": [1], "k": 0}', 400, "question_malformed"),
    "large": ("POST", "/rank", b" " * 4001, 413, "body_too_large"),
    "failing model": ("POST", "/rank", b'{"histories": [1]}', 500, "failed"),
    "method": ("DELETE", "/about", b"", 405, "method_not_allowed"),
    "method of a question": ("GET", "/rank", b"", 405, "method_unknown"),
    "path": ("GET", "/docs", b"", 404, "path_unknown"),
    "path with a slash": ("POST", "/rank/", b'{"histories": [1]}', 404, "path_unknown"),
}


@pytest.mark.parametrize(("method", "path", "content", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_whatever_is_refused_is_refused_in_one_shape(
    service: Service, client: httpx.Client, method: str, path: str, content: bytes, status: int, code: str
) -> None:
    service.model.broken = code == "failed"
    answer = client.request(method, path, content=content)
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert answer.json().keys() == {"error", "detail"}
    assert "secret" not in answer.text
    assert service.model.batches == ([1] if code == "failed" else [])


def test_who_may_not_ask_is_refused_in_that_shape_too(service: Service) -> None:
    service.limit(2)
    good, wrong = service.key(), service.key(Role.AUDIT)
    with service.served() as server, httpx.Client(base_url=server.url) as client:
        for path in ("/rank", "/about", "/openapi.json"):
            assert client.get(path).json().keys() == {"error", "detail"}
            assert client.get(path).status_code == 401
        asked = [client.post("/rank", json={"histories": [1]}, headers=key) for key in (wrong, good, good, good)]
    assert [answer.status_code for answer in asked] == [403, 200, 200, 429]
    assert asked[3].json().keys() == {"error", "detail"}
    assert int(asked[3].headers["retry-after"]) > 0


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(1, 12) | st.just(0.5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.sampled_from(["histories", "k", "x"]), inner),
)
history = st.lists(st.integers(0, 301) | st.integers(1, 300), max_size=42)
histories = history | st.lists(history, max_size=9) | st.lists(st.integers(1, 300), min_size=1) | anything
questions = st.fixed_dictionaries(
    {"histories": histories}, optional={"k": st.integers(0, 11) | anything, "x": anything}
)


def test_the_document_allows_what_is_answered_and_nothing_else(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/rank"]["post"]
    assert operation["responses"].keys() == {"200", "400", "401", "403", "413", "429", "502", "503"}
    question, answer = (
        jsonschema_rs.validator_for(part["content"]["application/json"]["schema"])
        for part in (operation["requestBody"], operation["responses"]["200"])
    )
    problem = jsonschema_rs.validator_for(document["components"]["schemas"]["Problem"])
    seen = set()

    @given(questions | anything)
    @settings(max_examples=100)
    def tried(sent: Any) -> None:
        got = client.post("/rank", json=sent)
        seen.add(got.status_code)
        assert got.status_code == (200 if question.is_valid(sent) else 400)
        assert (answer if got.status_code == 200 else problem).is_valid(got.json())

    tried()
    assert {200, 400} <= seen


def test_the_document_says_how_to_be_let_in(service: Service, client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    asks = {path: "security" in next(iter(methods.values())) for path, methods in document["paths"].items()}
    assert asks == {"/rank": True, "/about": True, "/health": False, "/ready": False}
    bearer = {"Authorization": f"Bearer {client.headers['x-api-key']}"}
    assert httpx.get(f"{client.base_url}/about", headers=bearer).json() == ABOUT.model_dump()


def test_a_path_that_is_not_open_is_documented_so_and_closed(service: Service) -> None:
    service.configure('["/openapi.json"]')
    with service.served() as server:
        document = httpx.get(f"{server.url}/openapi.json").json()
        assert all("security" in operation for path in document["paths"].values() for operation in path.values())
        assert [httpx.get(server.url + path).status_code for path in ("/health", "/ready")] == [401, 401]
        assert httpx.get(f"{server.url}/ready", headers=service.key()).status_code == 200


def test_ready_is_who_can_answer_and_the_reasons_are_for_the_log(
    service: Service, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    assert httpx.get(f"{client.base_url}/ready").status_code == 200
    keys = service.folder / "keys.json"
    good = keys.read_bytes()
    keys.write_text("{")
    client.get("/about")  # who reads the file finds out
    with caplog.at_level(logging.ERROR, "gro.service.reference"):
        found = [httpx.get(f"{client.base_url}/ready") for _ in range(2)]
    assert [answer.status_code for answer in found] == [503, 503]
    assert found[0].json()["error"] == "not_ready"
    assert str(keys) not in found[0].text
    assert [str(keys) in line for line in caplog.messages if line.startswith("not ready: ")] == [True]
    assert httpx.get(f"{client.base_url}/health").json() == {"status": "alive"}
    keys.write_bytes(good)
    assert client.get("/about").status_code == 200
    assert httpx.get(f"{client.base_url}/ready").json() == {"status": "ready"}


def test_a_service_that_did_not_start_is_not_ready(service: Service) -> None:
    with service.served(lifespan="off") as server:
        answer = httpx.get(f"{server.url}/ready")
    assert (answer.status_code, answer.json()["error"]) == (503, "not_ready")


def test_who_is_asked_to_end_answers_what_was_asked_and_takes_nothing_new(service: Service) -> None:
    service.model.free.clear()
    with service.served() as server, ThreadPoolExecutor(3) as callers:
        asked = [callers.submit(ask, server.url, [[n], [n, n]], service.key()) for n in (1, 2, 3)]
        until(lambda: server.in_flight() == 3)
        server.drain()
        until(server.refuses)
        service.model.free.set()
        assert [each.result() for each in asked] == [[best([n]), best([n, n])] for n in (1, 2, 3)]
    actions = [
        json.loads(line)["event"]["action"] for line in (service.folder / "events.jsonl").read_text().splitlines()
    ]
    assert actions[-1] == "service-stopped"


def test_the_wire_fits_what_is_served(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gro.service.reference")
    assert fitting(WireSettings(), ABOUT) == WireSettings(n_items=N_ITEMS, most_k=K)
    assert fitting(WireSettings(most_k=3, lists="ranked"), ABOUT) == WireSettings(
        n_items=N_ITEMS, most_k=3, lists="ranked"
    )
    assert caplog.messages == []
    assert fitting(WireSettings(most_k=50), ABOUT).most_k == K
    assert caplog.messages == ["[wire] most_k is 50; lists have 10 items, so that is the most"]
    with pytest.raises(ConfigError, match=r"\[wire\] n_items is 299; the model has 300 items"):
        fitting(WireSettings(n_items=299), ABOUT)
