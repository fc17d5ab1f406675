"""The issuer's key file: which keys serve, and which files are refused."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.service.access.verification import Algorithm, VerificationKey, parse_keys

ED = ed25519.Ed25519PrivateKey.generate()
EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
WEAK = rsa.generate_private_key(65537, 1024)
ALL: tuple[Algorithm, ...] = ("EdDSA", "ES256", "ES384", "PS256", "RS256")


def pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    kind = {ed25519.Ed25519PrivateKey: "EdDSA", ec.EllipticCurvePrivateKey: "ES256", rsa.RSAPrivateKey: "RS256"}
    name = next(name for cls, name in kind.items() if isinstance(key, cls))
    row: dict[str, Any] = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)
    row.pop("key_ops", None)
    return {**row, **more}


def jwks(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"keys": rows}).encode()


def parsed(content: bytes, *algorithms: Algorithm) -> dict[str | None, VerificationKey]:
    return parse_keys(content, "issuer.json", algorithms or ALL)


def refused(content: bytes, *algorithms: Algorithm) -> str:
    with pytest.raises(ConfigError) as error:
        parsed(content, *algorithms)
    assert str(error.value).startswith("issuer.json: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("key", "serves"), [(ED, ("EdDSA",)), (EC, ("ES256",)), (RSA, ("PS256", "RS256"))])
def test_a_key_verifies_what_it_is_made_for(key: Any, serves: tuple[str, ...]) -> None:
    assert parsed(pem(key))[None].algorithms == serves
    assert parsed(jwks(jwk(key, kid="a")))["a"].algorithms == serves


def test_a_key_says_what_it_is_for() -> None:
    assert parsed(jwks(jwk(RSA, kid="a", alg="PS256", use="sig", key_ops=["verify"])))["a"].algorithms == ("PS256",)


def test_keys_for_something_else_are_passed_over() -> None:
    others = [
        jwk(RSA, kid="b", use="enc", alg="RSA-OAEP"),
        jwk(RSA, kid="c", key_ops=["encrypt"]),
        jwk(RSA, kid="d", alg="RS512"),
        {"kty": "future", "kid": "e"},
        jwk(EC, kid="f", crv="P-999"),
        jwk(WEAK, kid="g", alg="RSA-OAEP"),
    ]
    assert list(parsed(jwks(jwk(ED, kid="a"), *others))) == ["a"]
    assert "no public key in it verifies EdDSA" in refused(jwks(*others), "EdDSA")


def test_no_key_serves_an_algorithm_that_is_not_allowed() -> None:
    assert "no public key in it verifies ES256, ES384" in refused(pem(RSA), "ES256", "ES384")
    assert "no public key in it verifies ES384" in refused(pem(EC), "ES384")
    assert "verifies ES256" in refused(jwks(jwk(RSA, kid="a", alg="RS256")), "ES256")


@pytest.mark.parametrize("key", [ED, EC, RSA])
def test_private_keys_are_refused_and_not_repeated(key: Any) -> None:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert "not a PEM public key" in refused(private)
    name = {ED: "EdDSA", EC: "ES256", RSA: "RS256"}[key]
    row = jwt.get_algorithm_by_name(name).to_jwk(key, as_dict=True)
    said = refused(jwks({**row, "kid": "a"}))
    assert "'a' is private or symmetric" in said
    assert row["d"] not in said


def test_symmetric_keys_are_refused_and_not_repeated() -> None:
    said = refused(jwks(jwk(ED, kid="a"), {"kty": "oct", "kid": "b", "k": "c2VjcmV0"}))
    assert "'b' is private or symmetric" in said
    assert "c2VjcmV0" not in said


def test_weak_keys_are_refused() -> None:
    assert "1024 bits" in refused(pem(WEAK))
    assert "1024 bits" in refused(jwks(jwk(WEAK, kid="a")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither a PEM public key nor JSON"),
        (b"\xff\xfe", "neither a PEM public key nor JSON"),
        (b"[" * 100_000, "neither a PEM public key nor JSON"),
        (b"[]", "not a JWKS"),
        (b"{}", "not a JWKS"),
        (b'{"keys": {}}', "not a JWKS"),
        (b'{"keys": [1]}', "not a JWKS"),
        (b'{"keys": []}', "no public key"),
        (b'{"keys": [{}]}', "no public key"),
        (b'{"keys": [{"kid": 1}]}', "must be strings"),
        (b'{"keys": [{"alg": ["RS256"]}]}', "must be strings"),
        (b'{"keys": [{"key_ops": 1}]}', "must be strings"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a PEM public key"),
        (pem(ED) + pem(EC), "more than one PEM block"),
        (jwks(jwk(ED, kid="a"), jwk(EC, kid="a")), "a 'kid' of its own"),
        (jwks(jwk(ED, kid="a"), jwk(EC)), "a 'kid' of its own"),
        (jwks(jwk(ED), jwk(EC)), "a 'kid' of its own"),
    ],
)
def test_malformed_and_ambiguous_files_are_refused(content: bytes, said: str) -> None:
    assert said in refused(content)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["RSA", "EC", "OKP"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
MEMBERS = st.sampled_from(["kty", "kid", "alg", "use", "key_ops", "crv", "x", "y", "n", "e"])


def read_or_refused(content: bytes) -> None:
    try:
        parsed(content)
    except ConfigError:
        refused(content)


@given(st.binary(max_size=100) | st.dictionaries(MEMBERS, JSON).map(lambda row: jwks(jwk(ED, kid="a"), row)))
def test_whatever_stands_in_a_file_is_read_or_refused(content: bytes) -> None:
    read_or_refused(content)


@given(st.dictionaries(MEMBERS, JSON), st.sampled_from([ED, EC, RSA]))
def test_a_key_with_anything_changed_is_read_or_refused(changed: dict[str, Any], key: Any) -> None:
    read_or_refused(jwks({**jwk(key), **changed}))
