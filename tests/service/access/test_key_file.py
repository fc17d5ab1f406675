"""The file of API keys: who may hold it, what becomes of a damaged one, and that no writer loses another's keys."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.service.access import keys as keys_module
from gro.service.access.keys import KeySettings, KeyStore, start_key_file
from gro.service.core import Role

Refusing = Callable[..., AbstractContextManager[None]]
NOW, DAY = 1_800_000_000.0, 86_400.0
RANK = frozenset({Role.RANK})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    start_key_file(tmp_path / "keys.json")
    return tmp_path / "keys.json"


def opened(path: Path, told: Callable[[str], None] = lambda line: None) -> KeyStore:
    return KeyStore(KeySettings(path=path), told)


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        opened(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_can_read_what_is_written(path: Path) -> None:
    before = os.umask(0)
    try:
        opened(path).create("acme", RANK, DAY, NOW)
    finally:
        os.umask(before)
    assert {mode(file) for file in path.parent.iterdir()} == {0o600}


def test_starting_a_file_twice_loses_nothing(path: Path) -> None:
    opened(path).create("acme", RANK, DAY, NOW)
    start_key_file(path)
    assert len(opened(path).list()) == 1


def test_a_missing_file_lets_nobody_in(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "keys.json")
    with pytest.raises(ConfigError, match="no such file"):
        start_key_file(tmp_path / "none" / "keys.json")


@pytest.mark.parametrize("others", [0o640, 0o604, 0o620, 0o602, 0o644, 0o777])
def test_a_file_that_is_open_to_others_is_refused(path: Path, others: int) -> None:
    path.chmod(others)
    assert f"mode {others:04o}" in refused(path)
    assert f"make it {others & 0o700:04o}" in refused(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_someone_else_is_refused(path: Path) -> None:
    os.chown(path, 12345, -1)
    assert "belongs to user 12345" in refused(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is a directory" in refused(tmp_path / "folder")
    assert "not a file" in refused(tmp_path / "pipe")


def test_a_link_stays_a_link(path: Path) -> None:
    link = path.with_name("link.json")
    link.symlink_to(path)
    opened(link).create("acme", RANK, DAY, NOW)
    assert link.is_symlink()
    assert len(opened(path).list()) == 1


def row(**changed: Any) -> dict[str, Any]:
    sound = {"id": "0" * 12, "account": "acme", "roles": ["rank"], "created": 0.0, "expires": 1.0, "digest": "0" * 64}
    return {key: value for key, value in {**sound, **changed}.items() if value is not ...}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("[]", "object"),
        ('{"keys": []}', "format"),
        ('{"format": "other-1", "keys": []}', "gro-keys-1"),
        ('{"format": "gro-keys-1", "keys": {}}', "keys"),
        ('{"format": "gro-keys-1", "keys": [], "more": 1}', "more"),
        ([row(roles=["root"])], "keys.0.roles"),
        ([row(roles=["RANK"])], "keys.0.roles"),
        ([row(roles=[])], "keys.0.roles"),
        ([row(roles=...)], "keys.0.roles"),
        ([row(account="a b")], "keys.0.account"),
        ([row(expires=...)], "keys.0.expires"),
        ([row(expires="never")], "keys.0.expires"),
        ([row(expires=None)], "keys.0.expires"),
        ([row(expires=float("inf"))], "keys.0.expires"),
        ([row(expires="1")], "keys.0.expires"),
        ([row(created=True)], "keys.0.created"),
        ([row(revoked="")], "keys.0.revoked"),
        ([row(digest="0" * 63)], "keys.0.digest"),
        ([row(id="../../x")], "keys.0.id"),
        ([row(admin=True)], "keys.0.admin"),
        ([row(), row()], "two keys have the same id"),
    ],
)
def test_a_malformed_file_is_refused(path: Path, content: str | list[Any], said: str) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps({"format": "gro-keys-1", "keys": content}))
    assert said in refused(path)


def test_a_key_that_was_pasted_into_the_file_is_not_repeated(path: Path) -> None:
    _, presented = opened(path).create("acme", RANK, DAY, NOW)
    path.write_text(json.dumps({"format": "gro-keys-1", "keys": [row(digest=presented)]}))
    assert presented not in refused(path)


@given(st.binary(max_size=200))
def test_no_content_is_more_than_a_refusal(content: bytes) -> None:
    with pytest.raises(ConfigError, match="not a key file"):
        keys_module._parse(content, "keys.json")


def test_a_running_service_follows_the_file(path: Path, refusing: Refusing) -> None:
    told: list[str] = []
    service, operator = opened(path, told.append), opened(path)
    key, presented = operator.create("acme", RANK, DAY, NOW)
    assert service.verify(presented, NOW).account == "acme"
    operator.revoke(key.id, NOW)
    with refusing("key_revoked"):
        service.verify(presented, NOW)
    assert not told


def test_a_key_that_was_revoked_at_the_beginning_of_time_is_revoked(path: Path, refusing: Refusing) -> None:
    store = opened(path)
    key, presented = store.create("acme", RANK, DAY, 0.0)
    store.revoke(key.id, 0.0)
    with refusing("key_revoked"):
        store.verify(presented, 0.0)


def make_missing(path: Path) -> None:
    path.unlink()


def make_malformed(path: Path) -> None:
    path.write_text("{")


def make_public(path: Path) -> None:
    path.chmod(0o644)


@pytest.mark.parametrize("damage", [make_missing, make_malformed, make_public])
def test_what_a_damaged_file_said_before_stays_in_force(
    path: Path, refusing: Refusing, damage: Callable[[Path], None]
) -> None:
    told: list[str] = []
    service = opened(path, told.append)
    key, presented = service.create("acme", RANK, DAY, NOW)
    revoked, ended = service.create("acme", RANK, DAY, NOW)
    service.revoke(revoked.id, NOW)
    service.list()
    sound = path.read_bytes()
    damage(path)
    for _ in range(3):
        assert service.verify(presented, NOW).credential == f"key:{key.id}"
        with refusing("key_revoked"):
            service.verify(ended, NOW)
    assert len(told) == 1
    assert told[0].endswith("stays in force")
    assert (service.trouble or "-") in told[0]
    with pytest.raises(ConfigError):
        service.revoke(key.id, NOW)
    path.write_bytes(sound)
    path.chmod(0o600)
    opened(path).revoke(key.id, NOW)
    with refusing("key_revoked"):
        service.verify(presented, NOW)
    assert service.trouble is None
    assert len(told) == 1


def test_a_write_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(path)
    store.create("acme", RANK, DAY, NOW)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="no space left"):
        store.create("acme", RANK, DAY, NOW)
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["keys.json", "keys.json.lock"]


def test_an_interrupted_writer_leaves_the_lock_free(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(path)

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.create("acme", RANK, DAY, NOW)
    assert not store.list()
    store.create("acme", RANK, DAY, NOW)


WRITER = """
import sys
from pathlib import Path
from gro.service.access.keys import KeySettings, KeyStore, start_key_file
from gro.service.core import Role

path = Path(sys.argv[1])
start_key_file(path)
store = KeyStore(KeySettings(path=path))
for i in range(25):
    store.create(f"{sys.argv[2]}-{i}", [Role.RANK], 60.0, 0.0)
"""


def test_writers_in_several_processes_lose_no_key(tmp_path: Path) -> None:
    path, told = tmp_path / "keys.json", list[str]()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("a", "b")]
    while not path.exists():
        assert any(writer.poll() is None for writer in writers)
    service = opened(path, told.append)
    while any(writer.poll() is None for writer in writers):
        service.list()  # a reader never meets a half-written file
    assert [writer.returncode for writer in writers] == [0, 0]
    assert {key.account for key in service.list()} == {f"{name}-{i}" for name in "ab" for i in range(25)}
    assert not told
