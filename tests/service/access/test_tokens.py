"""JWTs: whose are taken, and the ways to forge, stretch or replay one that must not work."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.service.access.tokens import Tokens, TokenSettings
from gro.service.core import Principal, Refused, Role

Refusing = Callable[..., AbstractContextManager[None]]
NOW = 1_800_000_000.0
KEY, OTHER = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
CURVE = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
CLAIMS = {"iss": "https://issuer.test/", "aud": "ranking", "sub": "acme", "iat": NOW, "exp": NOW + 600}
SETTINGS = {"issuer": CLAIMS["iss"], "audience": "ranking", "algorithms": ["EdDSA"]}


def pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def jwks(**keys: Any) -> bytes:
    rows = []
    for kid, key in keys.items():
        name = "EdDSA" if isinstance(key, ed25519.Ed25519PrivateKey) else "ES256"
        rows.append({**jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True), "kid": kid})
    return json.dumps({"keys": rows}).encode()


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def token(key: Any = KEY, algorithm: str = "EdDSA", header: dict[str, Any] | None = None, **claims: Any) -> str:
    """A token, good unless something is changed; a claim that is ``...`` is left out."""
    said = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not ...}
    signing = f"{part({'alg': algorithm, 'typ': 'at+jwt', **(header or {})})}.{part(said)}"
    signature = jwt.get_algorithm_by_name(algorithm).sign(signing.encode(), key)
    return f"{signing}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


Make = Callable[..., Tokens]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    def make(content: bytes = pem(KEY), started: float = NOW - 100, **settings: Any) -> Tokens:
        path = tmp_path_factory.mktemp("issuer") / "keys"
        path.write_bytes(content)
        path.chmod(0o644)
        return Tokens(TokenSettings.make({**SETTINGS, "keys": path, **settings}), started)

    return make


@pytest.fixture(scope="module")
def tokens(make: Make) -> Tokens:
    return make()


def test_the_issuer_says_who_calls_and_what_for(tokens: Tokens) -> None:
    principal = tokens.verify(token(roles=["rank", "audit"], jti="t-1"), NOW)
    assert principal == Principal("acme", frozenset({Role.RANK, Role.AUDIT}), "token:t-1")


def test_a_token_without_a_name_is_known_by_its_hash(tokens: Tokens) -> None:
    first, second = token(), token(sub="other")
    credentials = {tokens.verify(text, NOW).credential for text in (first, first, second)}
    assert len(credentials) == 2
    assert not any(text[-16:] in credential for text in (first, second) for credential in credentials)


@pytest.mark.parametrize(
    ("claim", "roles"),
    [
        (..., set()),
        (None, set()),
        ([], set()),
        ("", set()),
        ("rank", {Role.RANK}),
        ("openid rank operate", {Role.RANK, Role.OPERATE}),
        (["rank", "root", "RANK", " audit", "operate\n"], {Role.RANK}),
        ("rank\u00a0operate", set()),
        ("Rank RANK r\u0430nk", set()),
        ({"rank": True}, set()),
        (True, set()),
        ([["rank"], {"rank": 1}, None, 1], set()),
        ("*", set()),
    ],
)
def test_only_roles_that_are_known_count(tokens: Tokens, claim: object, roles: set[Role]) -> None:
    assert tokens.verify(token(roles=claim), NOW).roles == roles


def test_roles_come_from_the_claim_that_was_named(make: Make) -> None:
    tokens = make(roles_claim="scope")
    assert tokens.verify(token(scope="rank", roles=["operate"]), NOW).roles == {Role.RANK}


def hmac_signed(secret: bytes, header: dict[str, Any]) -> str:
    signing = f"{part({'typ': 'at+jwt', **header})}.{part(CLAIMS)}"
    signature = hmac.new(secret, signing.encode(), hashlib.sha256).digest()
    return f"{signing}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", "eddsa", "EDDSA", "HS256", "ES256", "RS256", "x"])
def test_no_header_talks_the_verifier_into_another_algorithm(tokens: Tokens, refusing: Refusing, alg: str) -> None:
    good = token()
    unsigned = f"{part({'alg': alg, 'typ': 'at+jwt'})}.{part(CLAIMS)}"
    for text in (f"{unsigned}.", f"{unsigned}.{good.split('.')[2]}"):
        with refusing("token_algorithm"):
            tokens.verify(text, NOW)


@pytest.mark.parametrize("alg", [None, 1, ["EdDSA"], {"EdDSA": 1}, True, ...])
def test_an_algorithm_that_is_no_name_is_refused(tokens: Tokens, refusing: Refusing, alg: object) -> None:
    header = {"typ": "at+jwt"} if alg is ... else {"alg": alg, "typ": "at+jwt"}
    with refusing("token_algorithm"):
        tokens.verify(f"{part(header)}.{part(CLAIMS)}.", NOW)


def test_the_public_key_is_no_hmac_secret(make: Make, refusing: Refusing) -> None:
    raw = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    der = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = pem(KEY)
    for content in (text, jwks(a=KEY)):
        tokens = make(content)
        for secret in (text, text.strip(), der, raw, content, b""):
            for kid in ({}, {"kid": "a"}):
                with refusing("token_algorithm"):
                    tokens.verify(hmac_signed(secret, {"alg": "HS256", **kid}), NOW)


@pytest.mark.parametrize("alg", ["HS256", "none", "ES256K", "RSA-OAEP", "*"])
def test_neither_hmac_nor_none_can_be_configured(make: Make, alg: str) -> None:
    for algorithms in ([alg], ["EdDSA", alg]):
        with pytest.raises(ConfigError, match=r"algorithms\.[01]"):
            make(algorithms=algorithms)
    with pytest.raises(ConfigError, match="algorithms"):
        make(algorithms=[])


def test_a_key_verifies_only_with_allowed_algorithms(make: Make, refusing: Refusing) -> None:
    tokens = make(pem(RSA), algorithms=["PS256"])
    tokens.verify(token(RSA, "PS256"), NOW)
    for name in ("RS256", "RS512", "PS512"):
        with refusing("token_algorithm"):
            tokens.verify(token(RSA, name), NOW)


def test_a_key_verifies_only_with_its_own_algorithm(make: Make, refusing: Refusing) -> None:
    tokens = make(jwks(ed=KEY, ec=CURVE), algorithms=["EdDSA", "ES256"])
    tokens.verify(token(KEY, "EdDSA", {"kid": "ed"}), NOW)
    tokens.verify(token(CURVE, "ES256", {"kid": "ec"}), NOW)
    for key, name, kid in ((KEY, "EdDSA", "ec"), (CURVE, "ES256", "ed")):
        with refusing("token_algorithm"):
            tokens.verify(token(key, name, {"kid": kid}), NOW)


@pytest.mark.parametrize(
    "signature", [b"", bytes(64), b"\xff" * 64, bytes(63), bytes(65), b"\x30\x06\x02\x01\x00\x02\x01\x00"]
)
def test_empty_and_psychic_signatures_are_refused(make: Make, refusing: Refusing, signature: bytes) -> None:
    for key, name in ((KEY, "EdDSA"), (CURVE, "ES256")):
        head, claims, _ = token(key, name).split(".")
        forged = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
        with refusing("token_signature"):
            make(pem(key), algorithms=[name]).verify(f"{head}.{claims}.{forged}", NOW)


def test_what_was_signed_cannot_be_changed(tokens: Tokens, refusing: Refusing) -> None:
    head, _, signature = token().split(".")
    with refusing("token_signature"):
        tokens.verify(f"{head}.{part({**CLAIMS, 'sub': 'admin'})}.{signature}", NOW)
    with refusing("token_signature"):
        tokens.verify(token(OTHER), NOW)


@pytest.mark.parametrize(
    "kid",
    [
        "b",
        "A",
        "a\0",
        " a",
        "",
        "../../../../dev/null",
        "/etc/hostname",
        "file:///dev/null",
        "https://evil.test/jwks.json",
        "' OR 1=1 --",
        "a; cat /etc/passwd",
        "{{7*7}}",
        "None",
        "__class__",
    ],
)
def test_a_kid_only_chooses_among_known_keys(make: Make, refusing: Refusing, kid: str) -> None:
    tokens = make(jwks(a=KEY))
    tokens.verify(token(header={"kid": "a"}), NOW)
    with refusing("token_key"):
        tokens.verify(token(header={"kid": kid}), NOW)
    with refusing("token_key"):
        tokens.verify(hmac_signed(b"", {"alg": "HS256", "kid": kid}), NOW)


@pytest.mark.parametrize("kid", [None, 1, ["a"], {"a": 1}, True])
def test_a_kid_that_is_no_string_is_refused(make: Make, refusing: Refusing, kid: object) -> None:
    with refusing("token_malformed"):
        make(jwks(a=KEY)).verify(token(header={"kid": kid}), NOW)


def test_a_token_names_its_key_where_there_are_several(make: Make, refusing: Refusing) -> None:
    make(jwks(a=KEY)).verify(token(), NOW)
    make(pem(KEY)).verify(token(header={"kid": "whatever"}), NOW)
    several = make(jwks(a=KEY, b=OTHER))
    several.verify(token(OTHER, header={"kid": "b"}), NOW)
    with refusing("token_key"):
        several.verify(token(), NOW)
    with refusing("token_signature"):
        several.verify(token(KEY, header={"kid": "b"}), NOW)


def test_keys_that_a_token_brings_along_are_not_read(tokens: Tokens, refusing: Refusing) -> None:
    own = json.loads(jwks(a=OTHER))["keys"][0]
    url = "https://evil.test/keys"
    for header in ({"jwk": own}, {"jku": url}, {"x5u": url}, {"x5c": ["AAAA"]}, {"jwk": own, "kid": "a"}):
        with refusing("token_signature"):
            tokens.verify(token(OTHER, header=header), NOW)


def test_extensions_that_must_be_understood_are_refused(tokens: Tokens, refusing: Refusing) -> None:
    header: dict[str, Any]
    for header in ({"crit": ["exp"], "exp": 1}, {"crit": []}, {"crit": "b64"}, {"b64": False, "crit": ["b64"]}):
        with refusing("token_malformed"):
            tokens.verify(token(header=header), NOW)


def test_the_type_keeps_other_jwts_of_the_issuer_out(make: Make, tokens: Tokens, refusing: Refusing) -> None:
    for typ in ("at+jwt", "AT+JWT", "application/at+jwt"):
        tokens.verify(token(header={"typ": typ}), NOW)
    for other in ("JWT", "id+jwt", "at+jwt ", "", None, 1, ["at+jwt"]):
        with refusing("token_type"):
            tokens.verify(token(header={"typ": other}), NOW)
    make(type="JWT").verify(token(header={"typ": "JWT"}), NOW)


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"iss": "https://issuer.test"}, "token_issuer"),
        ({"iss": "https://issuer.test/x"}, "token_issuer"),
        ({"iss": ["https://issuer.test/"]}, "token_issuer"),
        ({"iss": ...}, "token_claim_missing"),
        ({"aud": "other"}, "token_audience"),
        ({"aud": "ranking2"}, "token_audience"),
        ({"aud": ["other"]}, "token_audience"),
        ({"aud": {"ranking": 1}}, "token_audience"),
        ({"aud": ["ranking", 1]}, "token_audience"),
        ({"aud": []}, "token_claim_missing"),
        ({"aud": ...}, "token_claim_missing"),
        ({"sub": ...}, "token_claim_missing"),
        ({"sub": None}, "token_claim_missing"),
        ({"sub": 1}, "token_malformed"),
        ({"sub": ["acme"]}, "token_malformed"),
        ({"sub": ""}, "token_subject"),
        ({"sub": "acme\n"}, "token_subject"),
        ({"sub": "ac me"}, "token_subject"),
        ({"sub": "\u0430cme"}, "token_subject"),
        ({"sub": "a" * 256}, "token_subject"),
        ({"jti": 1}, "token_malformed"),
        ({"jti": "a\nb"}, "token_name"),
        ({"exp": ...}, "token_claim_missing"),
        ({"iat": ...}, "token_claim_missing"),
        ({"exp": None}, "token_claim_missing"),
        ({"exp": str(NOW + 600)}, "token_malformed"),
        ({"exp": True}, "token_malformed"),
        ({"exp": [NOW + 600]}, "token_malformed"),
        ({"exp": float("nan")}, "token_malformed"),
        ({"exp": float("inf")}, "token_malformed"),
        ({"exp": 10**400}, "token_malformed"),
        ({"iat": "0"}, "token_malformed"),
        ({"nbf": "0"}, "token_malformed"),
        ({"nbf": None}, "token_malformed"),
    ],
)
def test_claims_that_are_missing_or_not_ours(
    tokens: Tokens, refusing: Refusing, claims: dict[str, Any], code: str
) -> None:
    with refusing(code):
        tokens.verify(token(**claims), NOW)


def test_one_of_several_audiences_is_enough(tokens: Tokens) -> None:
    assert tokens.verify(token(aud=["other", "ranking"]), NOW).account == "acme"


@given(
    issued=st.integers(-100, 100),
    life=st.integers(-10, 150),
    starts=st.none() | st.integers(-100, 200),
    later=st.integers(-200, 300),
    leeway=st.integers(0, 30),
)
def test_a_token_is_good_within_its_time_by_the_clock_that_is_given(
    make: Make, issued: int, life: int, starts: int | None, later: int, leeway: int
) -> None:
    tokens, now = make(max_lifetime=100.0, leeway=leeway), NOW + later
    text = token(iat=NOW + issued, exp=NOW + issued + life, nbf=... if starts is None else NOW + starts)
    begins = max(issued, issued if starts is None else starts)
    good = begins - leeway <= later < issued + life + leeway and 0 < life <= 100
    with nullcontext() if good else pytest.raises(Refused, match=r"token_(expired|early|lifetime)"):
        tokens.verify(text, now)


def test_the_boundaries_of_a_tokens_time(make: Make, refusing: Refusing) -> None:
    tokens = make(leeway=10)
    text = token(iat=NOW, nbf=NOW + 5, exp=NOW + 60)
    tokens.verify(text, NOW - 5)
    tokens.verify(text, NOW + 69.9)
    with refusing("token_early"):
        tokens.verify(text, NOW - 5.1)
    with refusing("token_expired"):
        tokens.verify(text, NOW + 70)
    with refusing("token_lifetime"):
        tokens.verify(token(exp=NOW + 3601), NOW)


@given(
    st.text(max_size=60)
    | st.lists(st.binary(max_size=40), min_size=2, max_size=5).map(
        lambda parts: ".".join(base64.urlsafe_b64encode(text).rstrip(b"=").decode() for text in parts)
    )
)
def test_whatever_is_sent_is_refused_and_no_more(tokens: Tokens, text: str) -> None:
    with pytest.raises(Refused) as refusal:
        tokens.verify(text, NOW)
    assert refusal.value.status == 401


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from(["kid", "crit", "b64", "cty", "jwk", "zip"]), JSON, max_size=2),
    st.dictionaries(st.sampled_from([*CLAIMS, "nbf", "jti", "roles"]), JSON, max_size=2),
)
def test_whatever_is_signed_is_read_or_refused(tokens: Tokens, header: dict[str, Any], claims: dict[str, Any]) -> None:
    try:
        principal = tokens.verify(token(header=header, **claims), NOW)
    except Refused:
        return
    assert principal.account.isascii()
    assert principal.account


def test_every_refusal_says_the_same_to_the_caller(tokens: Tokens) -> None:
    answers = set()
    for text in ("x", token(OTHER), token(exp=NOW - 60, iat=NOW - 90), token(aud="x"), token(sub="")):
        with pytest.raises(Refused) as refusal:
            tokens.verify(text, NOW)
        answers.add((refusal.value.status, refusal.value.detail, tuple(refusal.value.headers.items())))
    assert len(answers) == 1


def test_a_token_that_is_too_long_is_not_read(tokens: Tokens, refusing: Refusing) -> None:
    with refusing("token_malformed"):
        tokens.verify(token(pad="x" * 8192), NOW)


def test_a_one_time_token_works_once(make: Make, refusing: Refusing) -> None:
    tokens = make(one_time=True)
    first, second = token(jti="1"), token(jti="2")
    tokens.verify(first, NOW)
    tokens.verify(second, NOW)
    for text in (first, second, token(jti="1", roles=["rank"])):
        with refusing("token_replayed"):
            tokens.verify(text, NOW + 300)
    with refusing("token_expired"):
        tokens.verify(first, NOW + 610)
    with refusing("token_claim_missing"):
        tokens.verify(token(), NOW)


def test_a_token_that_is_not_valid_uses_nothing_up(make: Make, refusing: Refusing) -> None:
    tokens = make(one_time=True)
    for bad, code in ((token(OTHER, jti="1"), "token_signature"), (token(jti="1", sub=""), "token_subject")):
        with refusing(code):
            tokens.verify(bad, NOW)
    tokens.verify(token(jti="1"), NOW)


def test_tokens_from_before_the_start_may_have_been_used(make: Make, refusing: Refusing) -> None:
    tokens = make(one_time=True, started=NOW)
    with refusing("token_replay_unknown"):
        tokens.verify(token(jti="1", iat=NOW + 9), NOW)
    tokens.verify(token(jti="2", iat=NOW + 10), NOW + 10)


def test_a_new_key_file_is_followed_and_a_damaged_one_is_not(tmp_path: Path, refusing: Refusing) -> None:
    path, told = tmp_path / "issuer.json", list[str]()
    path.write_bytes(jwks(a=KEY))
    tokens = Tokens(TokenSettings.make({**SETTINGS, "keys": path}), NOW, told.append)
    old, new = token(header={"kid": "a"}), token(OTHER, header={"kid": "b"})
    tokens.verify(old, NOW)
    path.write_bytes(jwks(b=OTHER))
    tokens.verify(new, NOW)
    with refusing("token_key"):
        tokens.verify(old, NOW)
    path.write_bytes(b"{}")
    tokens.verify(new, NOW)
    tokens.verify(new, NOW)
    assert len(told) == 1
    assert tokens.trouble is not None


def test_a_key_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "issuer.pem"
    path.write_bytes(pem(KEY))
    path.chmod(0o664)
    with pytest.raises(ConfigError, match="mode 0664"):
        Tokens(TokenSettings.make({**SETTINGS, "keys": path}), NOW)
    with pytest.raises(ConfigError, match="no such file"):
        Tokens(TokenSettings.make({**SETTINGS, "keys": tmp_path / "none"}), NOW)
