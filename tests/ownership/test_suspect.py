from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor

from gro.errors import ConfigError
from gro.ownership.suspect import Inconclusive, Suspect
from gro.ownership.wire import Endpoint

N, KEY = 30, "a-key"


def following(histories: Tensor, k: int = 10) -> Tensor:
    """The items after the first one of a history, in a ring."""
    return (histories[:, :1] + torch.arange(k)) % N + 1


def asked(count: int) -> Tensor:
    return torch.randint(1, N + 1, (count, 4))


def test_answers_come_back_in_the_order_of_the_questions_however_they_were_sent() -> None:
    histories, sent = asked(600), []

    def answer(part: Tensor) -> Tensor:
        sent.append(part)
        return following(part, 12)

    suspect = Suspect(answer, N)
    assert torch.equal(suspect(histories), following(histories))
    assert not torch.equal(torch.cat(sent)[:600], histories)


def test_one_question_in_twenty_is_asked_again_and_paid_for() -> None:
    suspect = Suspect(following, N)
    for _ in range(50):
        suspect(asked(10))
    assert 500 + 25 <= suspect.calls <= 500 + 30


def test_nothing_is_sent_beyond_the_budget() -> None:
    suspect = Suspect(following, N, budget=50)
    suspect(asked(40))
    with pytest.raises(Inconclusive, match="50 calls"):
        suspect(asked(20))
    assert suspect.calls == 42


def failing(histories: Tensor) -> Tensor:
    raise RuntimeError("no\nmore")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (failing, "fails: RuntimeError: no more"),
        (lambda h: following(h)[:-1], "answers"),
        (lambda h: following(h).float(), "float32"),
        (lambda h: following(h, 9), "have 9 items"),
        (lambda h: following(h).masked_fill(torch.arange(10) == 9, 0), "fewer than 10"),
        (lambda h: following(h) + 1, "outside the owner's catalogue of 30"),
        (lambda h: torch.full((len(h), 10), 3), "twice"),
        (lambda h: torch.rand(len(h), N).argsort(dim=1)[:, :10] + 1, "vary"),
        (lambda h: [["a"]], "fails"),
    ],
)
def test_what_may_not_be_used_is_no_evidence(answer: Callable[[Tensor], Any], told: str) -> None:
    with pytest.raises(Inconclusive, match=told):
        Suspect(answer, N)(asked(200))


def test_a_little_difference_between_two_answers_is_let_pass() -> None:
    times = iter(range(10_000))

    def answer(histories: Tensor) -> Tensor:
        lists = following(histories)
        return lists if next(times) % 2 else lists[:, [1, 0, *range(2, 10)]]  # two items in the other order

    suspect = Suspect(answer, N)
    for _ in range(20):
        suspect(asked(20))
    assert suspect.calls == 420


@contextmanager
def serving(
    status: int, reply: Callable[[dict[str, Any]], bytes], limited: int = 0
) -> Iterator[tuple[str, list[str | None]]]:
    """A service; the first ``limited`` questions come too early."""
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            keys.append(self.headers["X-API-Key"])
            content = reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            early = len(keys) <= limited
            self.send_response(429 if early else status)
            if early:
                self.send_header("Retry-After", "1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/rank", keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ring(question: dict[str, Any]) -> bytes:
    lists = [[(history[0] + place) % N + 1 for place in range(question["k"])] for history in question["histories"]]
    return json.dumps({"lists": lists}).encode()


def test_a_service_is_asked_over_http_with_its_key() -> None:
    histories = asked(300)
    histories[::2, 2:] = 0
    with serving(200, ring) as (url, keys):
        assert torch.equal(Suspect(Endpoint(url, KEY, 10), N)(histories), following(histories))
    assert set(keys) == {KEY}


@pytest.mark.parametrize(
    ("status", "reply", "told"),
    [
        (429, b"", "limits how often"),
        (503, b"", "refuses .503."),
        (302, b"", "refuses .302."),
        (200, b"<html>", "no JSON"),
        (200, b'{"lists": 3}', "no JSON"),
        (200, b'{"lists": [[1.5, 2]]}', "no JSON"),
        (200, b'{"lists": [["1"]]}', "no JSON"),
        (200, b'{"lists": [[99999999999999999999999]]}', "no JSON"),
        (200, b'{"lists": [1]}', "no JSON"),
        (200, b'{"lists": []}', "5 histories by 0 lists"),
        (200, b'{"lists": [[1, 2, 3]]}', "5 histories by 1 lists"),
    ],
)
def test_a_service_that_limits_fails_or_lies_gets_no_verdict(status: int, reply: bytes, told: str) -> None:
    with serving(status, lambda question: reply) as (url, _), pytest.raises(Inconclusive, match=told):
        Suspect(Endpoint(url, None, 10), N)(asked(5))


def test_a_service_that_limits_is_waited_for_as_long_as_there_is_patience() -> None:
    histories = asked(5)
    with serving(200, ring, limited=1) as (url, keys):
        endpoint = Endpoint(url, None, 10, patience=1.5)
        assert torch.equal(Suspect(endpoint, N)(histories), following(histories))
    assert len(keys) == 2
    assert endpoint.patience == 0.5
    with serving(200, ring, limited=2) as (url, keys), pytest.raises(Inconclusive, match="Retry-After is 1"):
        Suspect(Endpoint(url, None, 10, patience=1.5), N)(histories)
    assert len(keys) == 2


def test_a_service_that_is_not_there_gets_no_verdict() -> None:
    with serving(200, ring) as (url, _):
        pass
    with pytest.raises(Inconclusive, match="cannot be reached"):
        Suspect(Endpoint(url, None, 10), N)(asked(5))


@pytest.mark.parametrize("url", ["ftp://host/rank", "http:///rank", "http://example.org/rank"])
def test_a_key_goes_nowhere_in_the_clear(url: str) -> None:
    with pytest.raises(ConfigError):
        Endpoint(url, KEY, 10)
