"""What is sent in place of a question, over bare sockets: it is refused, noted, and costs nobody else anything."""

from __future__ import annotations

import gzip
import time
from contextlib import ExitStack, nullcontext
from typing import Any

import pytest

from gro.service import asgi
from gro.service.core import Refused
from gro.service.guard import Guard
from gro.service.wire import Wire, WireSettings

Door = Any
GOOD = b'{"histories":[[1,2,3]]}'
DEEP = 100_000
NOT_JSON = {
    "nothing": b"",
    "space": b" \r\n\t",
    "a torn object": GOOD[:-1],
    "two objects": GOOD + GOOD,
    "a null byte after": GOOD + b"\x00",
    "a null byte before": b"\x00" + GOOD,
    "a null byte within": b'{"histories":[[1\x00]]}',
    "a comma too many": b'{"histories":[[1,]]}',
    "a comment": GOOD + b"// really",
    "single quotes": b"{'histories':[[1]]}",
    "a leading zero": b'{"histories":[[01]]}',
    "a plus": b'{"histories":[[+1]]}',
    "hexadecimal": b'{"histories":[[0x1]]}',
    "other digits": '{"histories":[[\u0661]]}'.encode(),
    "NaN": b'{"histories":[[NaN]]}',
    "NaN elsewhere": b'{"histories":[[1]],"x":NaN}',
    "Infinity elsewhere": b'{"histories":[[1]],"x":[-Infinity]}',
    "a field twice": b'{"histories":[[1]],"histories":[[2]]}',
    "a field twice by an escape": rb'{"histories":[[1]],"\u0068istories":[[2]]}',
    "a length twice": b'{"histories":[[1]],"k":1,"k":30}',
    "a field twice within": b'{"histories":[[1]],"x":{"a":1,"a":2}}',
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-16 without a mark": GOOD.decode().encode("utf-16-le"),
    "UTF-32": GOOD.decode().encode("utf-32-be"),
    "a mark before": b"\xef\xbb\xbf" + GOOD,
    "Latin-1": '{"histories":[[1]],"x":"é"}'.encode("latin-1"),
    "a surrogate": b'{"histories":[[1]],"x":"\xed\xa0\x80"}',
    "an overlong slash": b'{"histories":[[1]],"x":"\xc0\xaf"}',
    "compressed": gzip.compress(GOOD),
    "a form": b"histories=1",
    "a list": b"[[1]]",
    "a string": b'"histories"',
    "null": b"null",
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep lists that never end": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep histories": b'{"histories":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "depth elsewhere": b'{"histories":[[1]],"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a number of 5,000 digits": b'{"histories":[[' + b"9" * 5_000 + b"]]}",
}
NO_QUESTION = {
    "an empty history": b'{"histories":[[1],[]]}',
    "no history": b'{"histories":[]}',
    "null for a history": b'{"histories":[null]}',
    "null for histories": b'{"histories":null}',
    "a string": b'{"histories":"1"}',
    "an object": b'{"histories":{"0":[1]}}',
    "lists too deep": b'{"histories":[[[1]]]}',
    "lists of two depths": b'{"histories":[[1],2]}',
    "item 0": b'{"histories":[[0]]}',
    "an item below": b'{"histories":[[-1]]}',
    "an unknown item": b'{"histories":[[301]]}',
    "an item of 64 bits": b'{"histories":[[18446744073709551617]]}',
    "half an item": b'{"histories":[[1.5]]}',
    "an item beyond floats": b'{"histories":[[1e999]]}',
    "an item in quotes": b'{"histories":[["1"]]}',
    "true for an item": b'{"histories":[[true]]}',
    "an object for an item": b'{"histories":[[{}]]}',
    "k of 0": b'{"histories":[[1]],"k":0}',
    "k below": b'{"histories":[[1]],"k":-30}',
    "k too large": b'{"histories":[[1]],"k":31}',
    "k beyond floats": b'{"histories":[[1]],"k":1e999}',
    "null for k": b'{"histories":[[1]],"k":null}',
    "true for k": b'{"histories":[[1]],"k":true}',
    "too many histories": b'{"histories":[[1],[1],[1],[1],[1]]}',
    "a million histories": b'{"histories":[' + b"[]," * 300_000 + b"[]]}",
}
MILLION = b'{"histories":[[' + b"1," * 999_999 + b"1]]}"


def chunked(body: bytes, size: int) -> bytes:
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(("bodies", "code"), [(NOT_JSON, "not_json"), (NO_QUESTION, "question_malformed")])
def test_what_is_no_question_is_refused_and_noted(door: Door, bodies: dict[str, bytes], code: str) -> None:
    for why, body in bodies.items():
        refused = door.shut(door.request(body), status=400, code=code, why=why)
        assert refused.headers["content-type"] == "application/json"
        assert set(refused.said) == {"error", "detail"}


def test_fields_under_other_names_are_not_read(door: Door) -> None:
    for body in (b"{}", b'{"Histories":[[1]]}', '{"\uff48istories":[[1]]}'.encode(), b'{"histories ":[[1]]}'):
        door.shut(door.request(body), status=400, code="histories_missing")


def test_a_million_items_are_too_large_however_they_are_sent(door: Door) -> None:
    coded = b"Transfer-Encoding: chunked"
    door.shut(door.request(MILLION), status=413, code="body_too_large")
    for size in (1_000, 1 << 20):
        door.shut(door.request(b"", coded, length=None), chunked(MILLION, size), status=413, code="body_too_large")


def test_a_million_items_are_too_many_where_they_are_not_too_large(service: Any, opened: Any) -> None:
    settings = service.settings()
    wire = settings.wire.model_copy(update={"most_bytes": 1 << 22})
    with opened(service, Guard(settings.model_copy(update={"wire": wire, "monitor": None}))) as door:
        refused = door.shut(door.request(MILLION), status=400, code="question_malformed")
    assert "at most 1000 items" in refused.said["detail"]


@pytest.mark.parametrize("wrong", [b"0", b'""'])
def test_what_is_wrong_a_hundred_thousand_times_is_refused_for_the_first(wrong: bytes) -> None:
    """Whoever asks waits for that: to list every error took three seconds."""
    wire = Wire(WireSettings(n_items=300))

    def fastest(item: bytes) -> float:
        body = b'{"histories":[' + b",".join([b"[" + b",".join([item] * 600) + b"]"] * 250) + b"]}"
        took = []
        for _ in range(3):
            start = time.perf_counter()
            with nullcontext() if item == b"300" else pytest.raises(Refused, match="question_malformed"):
                wire.question(body)
            took.append(time.perf_counter() - start)
        return min(took)

    assert fastest(wrong) < 10 * fastest(b"300")


def test_a_length_that_is_too_short_ends_the_request(door: Door) -> None:
    """What follows is another request, and none."""
    asked = door.service.asked
    assert door.statuses(door.request(GOOD, length=b"9"), b"\r\n\r\n") == [400, 400]
    assert door.service.asked == asked
    assert door.good().status == 200


@pytest.mark.parametrize("length", [b"24", b"1000000", b"99999999999999999"])
def test_a_length_that_is_too_long_is_waited_for_and_no_longer(
    door: Door, monkeypatch: pytest.MonkeyPatch, length: bytes
) -> None:
    monkeypatch.setattr(asgi, "PATIENCE", 0.3)
    refused = door.shut(door.request(GOOD, length=length), status=408, code="body_too_slow")
    assert refused.headers["connection"] == "close"
    assert door.statuses(door.request(GOOD, length=length)) == [408]


@pytest.mark.parametrize("size", [b"18", b"FFFFFFFFFFFFFFF"])
def test_a_part_that_never_comes_is_waited_for_and_no_longer(
    door: Door, monkeypatch: pytest.MonkeyPatch, size: bytes
) -> None:
    monkeypatch.setattr(asgi, "PATIENCE", 0.3)
    begun = door.request(b"", b"Transfer-Encoding: chunked", length=None) + size + b"\r\n" + GOOD
    door.shut(begun, status=408, code="body_too_slow")


def test_a_body_that_comes_a_byte_at_a_time_is_read_while_there_is_patience(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert door.ask(door.request(b"", length=b"23"), *(bytes([byte]) for byte in GOOD)).status == 200
    monkeypatch.setattr(asgi, "PATIENCE", 0.3)
    asked = door.service.asked
    with door.connected() as peer:
        peer.sendall(door.request(b"", length=b"1000000"))
        peer.settimeout(0.02)
        for _ in range(1_000):
            try:
                if peer.recv(1, 2):  # MSG_PEEK
                    break
            except TimeoutError:
                peer.sendall(b" ")
        peer.settimeout(30)
        assert door.answer(peer).status == 408
    assert door.service.asked == asked
    assert door.good().status == 200


def test_slow_callers_hold_nobody_else_up(door: Door) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(door.connected()) for _ in range(50)]
        for peer in slow:
            peer.sendall(door.request(GOOD[:-1], length=b"23"))
        assert door.good().status == 200
        for peer in slow:
            peer.sendall(GOOD[-1:])
            assert door.answer(peer).status == 200


def test_who_leaves_in_the_middle_is_noted_and_not_answered(door: Door, until: Any) -> None:
    asked = door.service.asked
    with door.connected() as peer:
        peer.sendall(door.request(GOOD, length=b"1000"))
    until(lambda: door.guard.logs.recent[-1]["event"].get("code") == "client_gone")
    assert door.service.asked == asked
    assert door.good().status == 200


def test_without_a_credential_no_body_is_read(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "PATIENCE", 60.0)
    door.shut(door.request(b"", key=b"", length=b"1000000"), status=401, code="credential_missing")
