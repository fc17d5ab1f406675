"""A commitment opens to the one secret, and to nothing that was made after it."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError, DataError
from gro.ownership.commitment import SALT, commit, opened, seal, unseal


@given(st.binary(max_size=100))
def test_a_commitment_opens_to_its_secret(secret: bytes) -> None:
    content, committed = commit(secret)
    assert opened(content, committed, "here") == secret
    assert committed == hashlib.sha256(content).hexdigest()


@given(st.binary(min_size=1, max_size=50), st.data())
def test_no_change_of_secret_or_salt_opens_it(secret: bytes, data: st.DataObject) -> None:
    content, committed = commit(secret)
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(content)
    flipped[place] ^= 1 << bit
    for other in (bytes(flipped), content[:-1], content + b"\0", content[SALT:], b""):
        with pytest.raises(DataError, match="here: is not the secret that was committed to"):
            opened(other, committed, "here")


def test_equal_secrets_have_unlike_commitments() -> None:
    assert len({commit(b"probes")[1] for _ in range(20)}) == 20


def test_a_digest_of_less_than_a_salt_is_no_commitment() -> None:
    with pytest.raises(DataError):
        opened(b"short", hashlib.sha256(b"short").hexdigest(), "here")


def test_a_sealed_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "probes.secret"
    committed = seal(path, b"first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert unseal(path, committed) == b"first"
    with pytest.raises(DataError, match="is there already"):
        seal(path, b"crafted after the fact")
    assert unseal(path, committed) == b"first"
    with pytest.raises(DataError, match=r"probes\.secret: is not the secret"):
        unseal(path, commit(b"first")[1])
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="leaves it to others"):
        unseal(path, committed)
    with pytest.raises(DataError, match="cannot be written"):
        seal(tmp_path / "nowhere" / "probes.secret", b"")
