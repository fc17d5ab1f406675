"""Key files: who may read them, how long a key is, and that one use tells nothing about another."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from gro.errors import ConfigError
from gro.service.keyfile import SHORTEST, derived, read_key


def kept(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_key_is_a_line_of_hexadecimal_digits(tmp_path: Path) -> None:
    printed = secrets.token_hex(32).encode()
    assert read_key(kept(tmp_path / "key", printed + b"\n")) == printed


@pytest.mark.parametrize("content", [b"", b"hunter2\n", b"x" * (SHORTEST - 1), b" " * 100])
def test_a_short_key_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"a key has 32 or more; make one with: openssl rand -hex 32") as error:
        read_key(kept(tmp_path / "key", content))
    assert "hunter2" not in str(error.value)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mode 0644 leaves it to others; make it 0600"):
        read_key(kept(tmp_path / "key", secrets.token_bytes(64), 0o644))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path / 'key'}: no such file"):
        read_key(tmp_path / "key")


def test_uses_have_keys_of_their_own() -> None:
    key = os.urandom(32)
    found = {derived(key, use) for use in ("a", "b", "")} | {derived(os.urandom(32), "a"), key}
    assert len(found) == 5
    assert {len(one) for one in found} == {32}
    assert derived(key, "a") == derived(key, "a")
