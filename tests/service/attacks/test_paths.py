"""Ways around the door: requests within requests, other spellings of a path, other methods, other protocols."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gro.service.asgi import GuardMiddleware
from gro.service.core import Role

Door = Any
GOOD = b'{"histories":[[1,2,3]]}'
CHUNKED = b"Transfer-Encoding: chunked"
WHOLE = b"17\r\n" + GOOD + b"\r\n0\r\n\r\n"
METHODS = (b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"PATCH", b"DELETE", b"CONNECT", b"PROPFIND", b"post")
GUARDED = (b"/rank", b"/stats", b"/nowhere", b"/guard/overview", b"/guard/hold", b"/guard/metrics", b"/", b"*")


@pytest.mark.parametrize("start", [b"POST /rank", b"GET /health", b"POST /guard/session"])
def test_a_request_within_a_request_is_never_seen(door: Door, start: bytes) -> None:
    """A proxy that goes by Content-Length takes what follows the last chunk for a body; it is nobody's request."""
    within = door.request(start=b"POST /rank")
    asked = door.service.asked
    for coded in (b"Transfer-Encoding: chunked", b"transfer-encoding:\tChunked", b"TRANSFER-ENCODING: CHUNKED"):
        both = door.request(WHOLE + within, coded, start=start)
        assert door.statuses(both) == [400]
        assert door.ask(both).said["error"] == "length_ambiguous"
    assert door.service.asked == asked
    assert door.guard.telemetry.counts()['gro_refusals_total{code="length_ambiguous"}'] == 6
    assert door.good().status == 200


@pytest.mark.parametrize(
    ("lines", "length", "body"),
    [
        ((CHUNKED, b"Transfer-Encoding: identity"), None, WHOLE),
        ((CHUNKED, CHUNKED), None, WHOLE),
        ((b"Transfer-Encoding: xchunked",), None, WHOLE),
        ((b"Transfer-Encoding: chunked, identity",), None, WHOLE),
        ((b"Transfer-Encoding: \x0bchunked",), None, WHOLE),
        ((b"Transfer-Encoding : chunked",), None, WHOLE),
        ((CHUNKED,), None, b"zz\r\n" + GOOD),
        ((CHUNKED,), None, b"-17\r\n" + GOOD),
        ((CHUNKED,), None, b"0x17\r\n" + GOOD),
        ((CHUNKED,), None, b"F" * 40 + b"\r\n" + GOOD),
        ((b"Content-Length: 5",), b"23", GOOD),
        ((), b"-23", GOOD),
        ((), b"+23", GOOD),
        ((), b"0x17", GOOD),
        ((), b"23, 24", GOOD),
        ((), b"", GOOD),
        ((b"X-A: a\x00b",), b"23", GOOD),
        ((b"X A: b",), b"23", GOOD),
        ((b": b",), b"23", GOOD),
    ],
)
def test_a_request_that_can_be_read_in_two_ways_is_read_in_none(
    door: Door, lines: tuple[bytes, ...], length: bytes | None, body: bytes
) -> None:
    """What follows it on the connection is not read either."""
    asked = door.service.asked
    assert door.statuses(door.request(body, *lines, length=length) + door.request()) == [400]
    assert door.service.asked == asked
    assert door.good().status == 200


def test_what_is_no_http_is_not_answered_as_if_it_were(door: Door) -> None:
    asked, hello = door.service.asked, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    for begin in (b"", b"HTP/1.1", b"HTTP/1.1\x00", b"HTTP/1", b"HTTP/1.1 HTTP/1.1", b"SPDY/3"):
        assert door.statuses(door.request().replace(b"HTTP/1.1", begin, 1)) == [400], begin
    for begin, statuses in ((hello, [400]), (b"GET /health\r\n\r\n", [400]), (b"PRI * HTTP/2.0\r\n\r\nSM", [401, 400])):
        assert door.statuses(begin, b"\r\n\r\n") == statuses, begin
    assert door.service.asked == asked
    assert door.good().status == 200


def test_a_header_that_never_ends_is_cut_short(door: Door) -> None:
    asked = door.service.asked
    assert door.statuses(door.request(GOOD, b"X-A: " + b"a" * (1 << 21))) == [400]
    assert door.service.asked == asked


def test_each_request_of_a_connection_shows_its_own_credential(door: Door) -> None:
    asked = door.service.asked
    second = door.request(GOOD, b"Connection: close", key=b"")
    assert door.statuses(door.request(), second) == [200, 401]
    assert door.service.asked == asked + 1


def test_another_protocol_is_not_gone_over_to(door: Door) -> None:
    upgrade = (b"Connection: Upgrade", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    lines = (*upgrade, b"Upgrade: websocket")
    for path, status in ((b"/rank", 405), (b"/guard/overview", 403), (b"/health", 200)):
        assert door.ask(door.request(b"", *lines, start=b"GET " + path)).status == status
        anybody = door.ask(door.request(b"", *lines, start=b"GET " + path, key=b""))
        assert anybody.status == (200 if status == 200 else 401)
    clear = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
    assert door.ask(door.request(GOOD, *clear, key=b"")).status == 401


@pytest.mark.parametrize("path", ["/rank", "/health", "/guard/overview"])
def test_a_websocket_is_closed_before_it_is_open(service: Any, guard: Any, path: str) -> None:
    """Where the server speaks WebSocket."""
    sent: list[Any] = []

    async def connect() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"x-api-key", service.key("anna", *Role).encode())]
        await GuardMiddleware(service.app(), guard, ("/rank",))(
            {"type": "websocket", "path": path, "headers": headers}, receive, send
        )

    asyncio.run(connect())
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("name", [b"rank", b"guard/overview", b"stats", b"RANK"])
def test_no_other_spelling_of_a_path_leads_in(door: Door, name: bytes) -> None:
    """A path is what it says when it is decoded once, to the guard and to the service alike."""
    asked, methods = door.service.asked, b"GET" if name in {b"guard/overview", b"stats"} else b"POST"
    begins = (b"/", b"//", b"/./", b"/x/../", b"/health/../", b"/health/%2e%2e/", b"/%2f", b"/;/")
    ends = (b"", b"/", b"//", b";x", b"%00", b"%20", b".json", b"%3fa", b"%23a", b"/.", b"\\")
    for path in {begin + name + end for begin in begins for end in ends} - {b"/rank", b"/guard/overview", b"/stats"}:
        start = methods + b" " + path
        assert door.ask(door.request(start=start, key=b"")).status == 401, path
        found = door.ask(door.request(start=start)).status
        assert found == (403 if path.startswith(b"/stats/") else 404), path
    assert door.service.asked == asked


def test_a_path_in_other_letters_is_the_path(door: Door) -> None:
    """Percent-encoded or with a query or a host, it is counted, watched and guarded as itself."""
    operator = door.service.key("otto", Role.OPERATE).encode()
    for path in (b"/%72ank", b"/ran%6B", b"/rank?path=/health", b"/rank?/health"):
        answered = door.ask(door.request(start=b"POST " + path))
        assert (answered.status, "ratelimit" in answered.headers) == (200, True)
        assert door.ask(door.request(start=b"POST " + path, key=b"")).status == 401
    for path in (b"/%67uard/overview", b"/guard/%6fverview", b"/guard/overview?/health"):
        for key, status in ((None, 403), (b"", 401), (operator, 200)):
            assert door.ask(door.request(b"", start=b"GET " + path, key=key)).status == status
    for host in (b"http://service/rank", b"http://localhost/health", b"https://service/guard/overview"):
        assert door.ask(door.request(start=b"POST " + host)).status == 404


def test_no_other_method_leads_in(door: Door) -> None:
    asked = door.service.asked
    for path in GUARDED:
        for method in METHODS:
            sent = method + b" " + path
            assert door.ask(door.request(start=sent, key=b""), method=method.decode()).status == 401, sent
            found = door.ask(door.request(start=sent), method=method.decode())
            assert found.status in {403, 404, 405}, sent
            assert not [name for name in found.headers if name.startswith("access-control")], sent
            assert found.status != 405 or found.headers["allow"], sent
            assert door.key not in str(found.said), sent
    for method in METHODS[2:]:
        assert door.ask(door.request(start=method + b" /health", key=b""), method=method.decode()).status == 405
    assert door.service.asked == asked
    assert door.good().status == 200


def test_no_header_changes_the_method_or_the_path(door: Door) -> None:
    asked = door.service.asked
    for line in (b"X-HTTP-Method-Override: POST", b"X-Original-URL: /health", b"X-Rewrite-URL: /health"):
        assert door.ask(door.request(GOOD, line, start=b"GET /rank")).status == 405
        assert door.ask(door.request(GOOD, line, start=b"POST /rank", key=b"")).status == 401
        assert door.ask(door.request(GOOD, line, start=b"GET /guard/overview")).status == 403
    assert door.service.asked == asked
