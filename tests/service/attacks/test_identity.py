"""Keys that look right, credentials shown twice or elsewhere or again, and addresses that a caller made up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gro.service.access.keys import KeySettings, KeyStore, start_key_file
from gro.service.access.network import NetworkSettings
from gro.service.access.tokens import TokenSettings
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.limits import LimitSettings

Door = Any
Service = Any
WIDE = str.maketrans({chr(at): chr(at + 0xFEE0) for at in range(0x21, 0x7F)})
TRICKS: dict[str, Callable[[str], str]] = {
    "full width": lambda key: key.translate(WIDE),
    "one wide letter": lambda key: key[:-1] + key[-1].translate(WIDE),
    "a wide line": lambda key: key.replace("_", "\uff3f", 1),
    "a zero-width space": lambda key: f"{key[:9]}\u200b{key[9:]}",
    "a zero-width joiner at the end": lambda key: f"{key}\u200d",
    "a soft hyphen": lambda key: f"{key[:9]}\xad{key[9:]}",
    "a byte-order mark": lambda key: f"\ufeff{key}",
    "a Kelvin sign": lambda key: f"gro_\u212a{key[5:]}",
    "a long s": lambda key: f"gro_\u017f{key[5:]}",
    "a Cyrillic o": lambda key: f"gr\u043e{key[3:]}",
    "a combining accent": lambda key: f"{key}\u0301",
    "another direction": lambda key: f"\u202e{key}",
    "a no-break space": lambda key: f"{key}\xa0",
    "a next line": lambda key: f"{key}\x85",
    "a large prefix": lambda key: f"GRO{key[3:]}",
    "a mixed prefix": lambda key: f"Gro{key[3:]}",
    "other case": str.swapcase,
    "percent": lambda key: key.replace("_", "%5F"),
    "an entity": lambda key: key.replace("_", "&#95;"),
    "an escape": lambda key: key.replace("_", r"\u005f"),
    "a line's end in letters": lambda key: key + r"\n",
    "quotes": lambda key: f'"{key}"',
    "twice": lambda key: f"{key}, {key}",
    "something behind": lambda key: f"{key};x",
    "a space within": lambda key: f"{key[:9]} {key[9:]}",
    "a tab within": lambda key: f"{key[:9]}\t{key[9:]}",
    "all but its end": lambda key: key[:-1],
    "a wildcard": lambda key: f"{key[:-1]}%",
    "a control character": lambda key: f"{key}\x7f",
    "a very long one": lambda key: key + "A" * 50_000,
}


@pytest.mark.parametrize("line", [b"X-API-Key: ", b"Authorization: Bearer "])
def test_no_spelling_of_a_key_but_its_own_is_the_key(door: Door, line: bytes) -> None:
    told = set()
    for why, trick in TRICKS.items():
        asked = door.service.asked
        refused = door.ask(door.request(b'{"histories":[[1]]}', line + trick(door.key).encode(), key=b""))
        assert (refused.status, refused.said["error"]) == (401, "unauthorized"), why
        told.add(refused.said["detail"])
        assert door.service.asked == asked, why
    assert told <= {"the credential is not valid", "a credential is required"}
    assert door.ask(door.request(b'{"histories":[[1]]}', line + door.key.encode(), key=b"")).status == 200
    assert len([event for event in door.guard.logs.recent if "code" in event["event"]]) == len(TRICKS)


def test_what_http_leaves_out_around_a_key_is_not_part_of_it_and_what_it_forbids_is_refused(door: Door) -> None:
    key = door.key.encode()
    for around in (b"X-API-Key:%b", b"X-API-Key:  \t%b\t ", b"x-api-KEY: %b"):
        assert door.ask(door.request(b'{"histories":[[1]]}', around % key, key=b"")).status == 200
    asked = door.service.asked
    for end in (b"\x00", b"\x0b", b"\x0c", b"\rX", b"\r"):
        assert door.statuses(door.request(b'{"histories":[[1]]}', b"X-API-Key: " + key + end, key=b"")) == [400], end
    assert door.service.asked == asked


def test_one_credential_is_shown_and_once(door: Door) -> None:
    """Whichever of two the service took, something in front might have taken the other."""
    other = door.service.key("bob")
    for lines in (
        (f"X-API-Key: {door.key}",) * 2,
        (f"X-API-Key: {door.key}", f"x-api-key: {other}"),
        (f"X-API-Key: {door.key}", f"Authorization: Bearer {door.key}"),
        (f"X-API-Key: {door.key}", "Authorization: Bearer"),
        ("X-API-Key:", f"Authorization: Bearer {door.key}"),
        (f"Authorization: Bearer {door.key}", f"authorization: bearer {other}"),
    ):
        sent = door.request(b'{"histories":[[1]]}', *(line.encode() for line in lines), key=b"")
        door.shut(sent, status=400, code="credentials_several", why=lines)


def test_a_credential_anywhere_else_is_none(door: Door) -> None:
    key = door.key
    for line in (
        f"Cookie: X-API-Key={key}; Authorization=Bearer {key}; session={key}",
        f"X_API_Key: {key}",
        f"X-Api-Key2: {key}",
        f"Proxy-Authorization: Bearer {key}",
        f"Authorization: Basic {key}",
        f"Authorization: {key}",
        f"Authorization: Bearer Bearer {key}",
        f"Authorization: Bearer: {key}",
        f"Referer: http://service/?X-API-Key={key}",
    ):
        answer = door.ask(door.request(b'{"histories":[[1]]}', line.encode(), key=b""))
        assert answer.status == 401, line
        assert "set-cookie" not in answer.headers
    for start in (f"POST /rank?X-API-Key={key}", f"POST /rank?access_token={key}", f"POST http://{key}@service/rank"):
        assert door.ask(door.request(b'{"histories":[[1]]}', start=start.encode(), key=b"")).status == 401
    named = json.dumps({"histories": [[1]], "X-API-Key": key}).encode()
    door.shut(door.request(named, key=b""), status=401, code="credential_missing")


def test_no_answer_sets_a_cookie(door: Door) -> None:
    """There is nothing that a browser would send along by itself."""
    for start, key in ((b"POST /rank", None), (b"GET /guard/dashboard", b""), (b"POST /guard/session", None)):
        answer = door.ask(door.request(b'{"histories":[[1]]}', b"Cookie: a=b", start=start, key=key))
        assert answer.status in {200, 201}
        assert "set-cookie" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_session_that_was_ended_is_not_opened_again(door: Door) -> None:
    session = door.ask(door.request(b"", start=b"POST /guard/session")).said["session"]
    shown = f"Authorization: Bearer {session}".encode()
    sent = door.request(b'{"histories":[[1]]}', shown, key=b"")
    assert door.ask(sent).status == 200
    assert door.ask(door.request(b"", f"X-API-Key: {session}".encode(), key=b"")).status == 401
    assert door.ask(door.request(b"", shown, start=b"DELETE /guard/session", key=b"")).status == 204
    for _ in range(2):
        door.shut(sent, status=401, code="session_unknown")
    assert door.ask(door.request(b"", shown, start=b"DELETE /guard/session", key=b"")).status == 401


@pytest.fixture
def issued(service: Service) -> tuple[Guard, Callable[[float], str], list[float]]:
    """A guard that takes tokens once, how they are made, and its clock."""
    key, issuer, clock = ed25519.Ed25519PrivateKey.generate(), "https://issuer.test/", [time.time()]
    path = Path(service.folder / "issuer.pem")
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    tokens = TokenSettings.make(
        {"issuer": issuer, "audience": "ranking", "algorithms": ["EdDSA"], "keys": path, "one_time": True}
    )
    settings = service.settings().model_copy(update={"tokens": tokens, "monitor": None})

    def token(now: float) -> str:
        claims = {"iss": issuer, "aud": "ranking", "sub": "anna", "roles": ["rank"], "iat": now, "exp": now + 600}
        return jwt.encode({**claims, "jti": f"token-{now}"}, key, "EdDSA", {"typ": "at+jwt"})

    return Guard(settings, clock=lambda: clock[0]), token, clock


def test_a_token_is_good_once_however_the_clock_is_set(service: Service, issued: Any, opened: Any) -> None:
    guard, token, clock = issued
    start = clock[0] + 60  # tokens from before the guard stood may have been used
    with opened(service, guard) as door:

        def asked(shown: str, at: float) -> tuple[int, str]:
            clock[0] = start + at
            sent = door.request(b'{"histories":[[1]]}', f"Authorization: Bearer {shown}".encode(), key=b"")
            return door.ask(sent).status, guard.logs.recent[-1]["event"].get("code", "")

        known = token(start)
        assert asked(known, 1) == (200, "")
        assert asked(known, 1) == (401, "token_replayed")
        assert asked(known, -5) == (401, "token_replayed")
        assert asked(known, 700) == (401, "token_expired")
        assert asked(token(start + 700), 700)[0] == 200, "by now the first one is forgotten"
        assert asked(known, 1) == (401, "token_replay_unknown")
        assert asked(token(start + 2), 2) == (401, "token_replay_unknown")
    assert service.asked == 2


NETWORK = LimitSettings.make({"policy": "POLICY", "per_network": {"calls_per_day": 2}})


@pytest.mark.parametrize(
    ("proxies", "spoof", "passed"),
    [
        ([], "X-Forwarded-For: 198.51.100.{n}", 2),
        ([], "X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 198.51.100.{n}\r\nForwarded: for=198.51.100.{n}", 2),
        (["10.0.0.0/8"], "X-Forwarded-For: 198.51.100.{n}, 10.0.0.1", 2),
        (["127.0.0.0/8"], "X-Forwarded-For: 198.51.100.{n}, 203.0.113.7", 2),
        (["127.0.0.0/8"], "X-Forwarded-For: 198.51.100.{n}\r\nX-Forwarded-For: 203.0.113.7", 2),
        (["127.0.0.0/8"], "X-Forwarded-For: 198.51.100.{n}, 203.0.113.7, 127.0.0.9", 2),
        (["127.0.0.0/8"], "X-Forwarded-For: 198.51.100.{n}, nonsense", 2),
        (["127.0.0.0/8"], "Forwarded: for=198.51.100.{n}", 2),
        (["127.0.0.0/8"], "X-Forwarded-For: 2001:db8:0:1::{n}", 2),
        (["127.0.0.0/8"], "X-Forwarded-For: 198.51.100.{n}", 6),
    ],
)
def test_a_network_is_what_declared_proxies_say_it_is(
    service: Service, opened: Any, proxies: list[str], spoof: str, passed: int
) -> None:
    """The last row is a proxy's own word; whatever a caller wrote before it changes nothing."""
    settings = service.settings()
    limits = settings.limits.model_copy(update={"per_network": NETWORK.per_network})
    network = NetworkSettings.make({"proxies": proxies})
    guard = Guard(settings.model_copy(update={"monitor": None, "limits": limits, "network": network}))
    with opened(service, guard) as door:
        keys = [service.key(f"user-{n}").encode() for n in range(6)]  # a network is one, whoever the accounts are
        statuses = []
        for n, key in enumerate(keys):
            lines = spoof.format(n=n + 1).encode()
            statuses.append(door.ask(door.request(b'{"histories":[[1]]}', lines, key=key)).status)
        assert statuses == [200] * passed + [429] * (6 - passed)
        assert service.asked == passed
        codes = [event["event"]["code"] for event in guard.logs.recent if "code" in event["event"]]
    assert codes == ["network_calls_per_day"] * (6 - passed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path, other: path.write_bytes(b"{"),
        lambda path, other: path.write_bytes(b""),
        lambda path, other: path.write_bytes(b"[" * 100_000),
        lambda path, other: path.write_bytes(other[:-9]),
        lambda path, other: path.unlink(),
        lambda path, other: (path.write_bytes(other), path.chmod(0o644)),
        lambda path, other: (path.write_bytes(other), path.chmod(0o620)),
        lambda path, other: (path.unlink(), path.mkdir()),
        lambda path, other: (path.unlink(), path.symlink_to("/dev/zero")),
    ],
)
def test_a_key_file_that_is_damaged_while_it_serves_lets_nobody_new_in(
    door: Door, tmp_path_factory: pytest.TempPathFactory, damage: Callable[[Path, bytes], object]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "keys.json"
    start_key_file(elsewhere)
    newcomer = KeyStore(KeySettings(path=elsewhere)).create("anna", tuple(Role), 3600.0, time.time())[1]
    operator = door.service.key("otto", Role.OPERATE).encode()
    assert door.good().status == 200
    damage(door.service.folder / "keys.json", elsewhere.read_bytes())
    door.shut(door.request(key=newcomer.encode()), status=401, code="key_unknown")
    trouble = door.ask(door.request(b"", start=b"GET /guard/overview", key=operator)).said["trouble"]
    assert len(trouble) == 1
    assert "keys.json" in trouble[0]
