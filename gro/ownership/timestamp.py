"""When a statement existed at the latest: an RFC 3161 token, signed by an authority that saw its digest.

A statement's own time is its owner's word. A time-stamping authority (in the EU a *qualified* one, eIDAS article 41,
whose time a court presumes right) signs the digest of the file together with the time; the file itself stays at home::

    openssl ts -query -data statement.json -sha256 -cert -out statement.tsq
    curl -H "Content-Type: application/timestamp-query" --data-binary @statement.tsq AUTHORITY_URL -o statement.tsr
    openssl ts -verify -data statement.json -in statement.tsr -CAfile authority.pem

``statement.tsr`` is what :func:`proven_time` reads. It is stricter than openssl about DER: the answer of an authority
that orders several certificates as it likes is refused here, and is checked by the last of the commands. A deposit with
a notary, or a public log, proves the same; this module cannot check those.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificates
from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

from gro.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Proof:
    """That something existed.

    Attributes:
        time: at the latest when, UTC.
        authority: subjects of the certificates that the token was checked by, with the SHA-256 of each: a name alone
            proves nothing, as anybody can make a certificate with any name.
    """

    time: datetime
    authority: str


def proven_time(token: Path, authority: Path, content: bytes) -> Proof:
    """Return the time at which the content existed, by an authority's word.

    Args:
        token: answer of the authority (TimeStampResp, DER) that carries its certificate.
        authority: certificates in PEM, of the authority's root and of whatever lies between, got from the authority
            itself, not from the party whose token it is.
        content: what was time-stamped, the whole file.

    Raises:
        ConfigError: a file is missing, or there is no certificate.
        DataError: the token is malformed, for another content, or not signed by that authority.
    """
    try:
        roots = load_pem_x509_certificates(_read(authority))
    except ValueError:
        raise ConfigError(f"{authority}: holds no certificate in PEM") from None
    try:
        response = decode_timestamp_response(_read(token))
        VerifierBuilder(roots=roots).build().verify_message(response, content)
    except ValueError:
        raise DataError(f"{token}: not an RFC 3161 time-stamp response in strict DER; see openssl ts -verify") from None
    except VerificationError as error:
        raise DataError(f"{token}: does not prove a time for this statement: {' '.join(str(error).split())}") from None
    names = (f"{root.subject.rfc4514_string()} (SHA-256 {root.fingerprint(SHA256()).hex()})" for root in roots)
    return Proof(response.tst_info.gen_time, "; ".join(names))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
