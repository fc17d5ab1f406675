"""The ways in, each with the real thing behind it: one credential gets in, and every refusal looks alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gro.service.access.authenticate import Authenticator, require
from gro.service.access.keys import KeySettings, KeyStore, start_key_file
from gro.service.access.sessions import Sessions, SessionSettings
from gro.service.access.tokens import Tokens, TokenSettings
from gro.service.core import Principal, Refused, Role

Refusing = Callable[..., AbstractContextManager[None]]
ISSUER = Ed25519PrivateKey.generate()
NOW = 1_800_000_000.0
RANK = frozenset({Role.RANK})


class Service:
    """Everything that authenticates, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.now = NOW
        start_key_file(folder / "keys.json")
        self.keys = KeyStore(KeySettings(path=folder / "keys.json"))
        pem = ISSUER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / "issuer.pem").write_bytes(pem)
        (folder / "issuer.pem").chmod(0o644)
        issuer = {"issuer": "https://issuer.test", "audience": "ranking", "algorithms": ["EdDSA"], "type": "JWT"}
        self.tokens = Tokens(TokenSettings.make({**issuer, "keys": folder / "issuer.pem"}), NOW)
        self.sessions = Sessions(SessionSettings())
        self.authenticate = Authenticator(self.keys, self.tokens, self.sessions, lambda: self.now).authenticate

    def token(self, **claims: object) -> str:
        known = {"iss": "https://issuer.test", "aud": "ranking", "sub": "acme", "iat": self.now, "exp": self.now + 60}
        return jwt.encode({**known, **claims}, ISSUER, "EdDSA")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return Service(tmp_path_factory.mktemp("service"))


def bearer(credential: str) -> tuple[bytes, bytes]:
    return b"authorization", f"Bearer {credential}".encode()


def key_header(credential: str) -> tuple[bytes, bytes]:
    return b"x-api-key", credential.encode()


def test_a_key_gets_in_by_either_header(service: Service) -> None:
    key, presented = service.keys.create("acme", RANK, 60, NOW)
    for header in (bearer(presented), key_header(presented)):
        principal = service.authenticate([(b"host", b"x"), header])
        assert principal == Principal("acme", RANK, f"key:{key.id}")


def test_a_token_gets_in(service: Service) -> None:
    principal = service.authenticate([bearer(service.token(roles=["rank"], jti="1"))])
    assert principal == Principal("acme", RANK, "token:1")


def test_a_session_gets_in_until_it_is_closed(service: Service, refusing: Refusing) -> None:
    opener = service.authenticate([bearer(service.token(roles=["rank"]))])
    token = service.sessions.open(opener, NOW)
    principal = service.authenticate([bearer(token)])
    assert (principal.account, principal.roles) == ("acme", RANK)
    service.sessions.close(token)
    with refusing("session_unknown"):
        service.authenticate([bearer(token)])


def test_a_session_falls_with_the_key_that_opened_it(service: Service, refusing: Refusing) -> None:
    for end in ("revoked", "expired"):
        key, presented = service.keys.create("acme", RANK, 60, service.now)
        token = service.sessions.open(service.authenticate([bearer(presented)]), service.now)
        service.authenticate([bearer(token)])
        if end == "revoked":
            service.keys.revoke(key.id, service.now)
        else:
            service.now += 60
        with refusing("session_key_ended"):
            service.authenticate([bearer(token)])
        with refusing("session_unknown"):
            service.authenticate([bearer(token)])
        service.now = NOW


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
def test_the_scheme_is_in_any_case(service: Service, scheme: str) -> None:
    header = (b"Authorization", (scheme + service.token()).encode())
    assert service.authenticate([header]).account == "acme"


def challenge(refusal: Refused) -> str:
    return refusal.headers["WWW-Authenticate"]


def test_a_request_without_a_credential_is_asked_for_one(service: Service) -> None:
    for headers in ([], [(b"cookie", b"session=gros_1")], [(b"x_api_key", b"x")], [(b"proxy-authorization", b"x")]):
        with pytest.raises(Refused) as refusal:
            service.authenticate(headers)
        assert (refusal.value.status, refusal.value.code) == (401, "credential_missing")
        assert challenge(refusal.value) == 'Bearer realm="gro"'  # without an error, RFC 6750, section 3


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic dTpw",
        b"Bearer\tx",
        b" Bearer x",
        b"Bearer x y",
        b"Bearer x,Bearer y",
        b"Bearer \xff",
        b"Bearer x\n",
        b"Bearer =",
        b"Bearerx",
        b"Token x",
        b'Bearer "x"',
    ],
)
def test_what_is_not_a_bearer_token_is_asked_for_one(service: Service, refusing: Refusing, value: bytes) -> None:
    with refusing("scheme_unknown"):
        service.authenticate([(b"authorization", value)])


def test_one_credential_at_a_time(service: Service) -> None:
    good = service.keys.create("acme", RANK, 60, NOW)[1]
    token = service.token()
    for headers in (
        [bearer(good), bearer(good)],
        [key_header(good), key_header(good)],
        [bearer(token), key_header(good)],
        [bearer(good), key_header(good)],
        [key_header(good), key_header("")],
        [bearer(good), (b"AUTHORIZATION", b"")],
        [(b"authorization", b"Basic dTpw"), key_header(good)],
    ):
        with pytest.raises(Refused) as refusal:
            service.authenticate(headers)
        assert (refusal.value.status, refusal.value.code) == (400, "credentials_several")
        assert challenge(refusal.value) == 'Bearer realm="gro", error="invalid_request"'


def test_every_invalid_credential_gets_the_same_answer(service: Service) -> None:
    key, expired = service.keys.create("acme", RANK, 60, NOW - 60)
    revoked, gone = service.keys.create("acme", RANK, 60, NOW)
    service.keys.revoke(revoked.id, NOW)
    session = service.sessions.open(service.authenticate([bearer(service.token())]), NOW)
    service.sessions.close(session)
    codes, answers = set(), set()
    for header in (
        key_header(expired),
        bearer(gone),
        key_header(gone),
        key_header(""),
        key_header("x"),
        key_header(service.token()),
        key_header(session),
        bearer(session),
        bearer("gros_x"),
        bearer("gro_x"),
        bearer("x.y.z"),
        bearer(service.token(aud="other")),
        bearer(service.token(exp=NOW - 60, iat=NOW - 90)),
        (b"x-api-key", b"\xff\xfe"),
    ):
        with pytest.raises(Refused) as refusal:
            service.authenticate([header])
        codes.add(refusal.value.code)
        answers.add((refusal.value.status, refusal.value.detail, challenge(refusal.value)))
        assert "acme" not in str(refusal.value)
        assert key.id not in str(refusal.value)
    assert answers == {(401, "the credential is not valid", 'Bearer realm="gro", error="invalid_token"')}
    assert codes == {
        *("key_expired", "key_revoked", "key_malformed", "session_unknown", "session_malformed"),
        *("token_audience", "token_expired", "token_malformed"),
    }


def test_what_is_not_set_up_is_not_taken(service: Service, refusing: Refusing) -> None:
    presented = service.keys.create("acme", RANK, 60, NOW)[1]
    opener = service.authenticate([bearer(presented)])
    session = service.sessions.open(opener, NOW)
    nothing = Authenticator(None, None, None, lambda: NOW)
    for header, code in (
        (bearer(presented), "keys_not_taken"),
        (key_header(presented), "keys_not_taken"),
        (bearer(session), "sessions_not_taken"),
        (bearer(service.token()), "tokens_not_taken"),
    ):
        with refusing(code):
            nothing.authenticate([header])
    with refusing("session_key_ended"):
        Authenticator(None, None, service.sessions, lambda: NOW).authenticate([bearer(session)])


NAMES = st.sampled_from([b"authorization", b"x-api-key", b"cookie", b"Authorization"]) | st.binary(max_size=12)
VALUES = st.binary(max_size=60) | st.binary(max_size=60).map(b"Bearer ".__add__)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_no_headers_are_more_than_a_refusal(service: Service, headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Refused) as refusal:
        service.authenticate(headers)
    assert refusal.value.status in {400, 401}
    assert challenge(refusal.value).startswith('Bearer realm="gro"')
    refusal.value.detail.encode("ascii")


def test_a_role_allows_one_thing() -> None:
    for held in Role:
        for needed in Role:
            principal = Principal("acme", frozenset({held}), "key:0")
            if held == needed:
                require(principal, needed)
                continue
            with pytest.raises(Refused) as refusal:
                require(principal, needed)
            assert (refusal.value.status, refusal.value.code) == (403, "role_missing")
            assert f'error="insufficient_scope", scope="{needed}"' in challenge(refusal.value)


def test_without_a_role_nothing_is_allowed(service: Service, refusing: Refusing) -> None:
    principal = service.authenticate([bearer(service.token(roles=["root"]))])
    for role in Role:
        with refusing("role_missing", 403):
            require(principal, role)


def test_the_machines_clock_is_not_asked(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here lives in 2027; this one would notice a clock that is only now and then the machine's."""
    presented, token = service.keys.create("acme", RANK, 60, NOW)[1], service.token()
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the machine's clock was read"))
    for header in (key_header(presented), bearer(token)):
        assert service.authenticate([header]).account == "acme"
