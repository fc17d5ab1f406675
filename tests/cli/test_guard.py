from __future__ import annotations

import json
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette

from gro.cli import main
from gro.service.access.keys import KeySettings, KeyStore
from gro.service.asgi import GuardMiddleware
from gro.service.audit import AuditLog, AuditSettings
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.keyfile import read_key
from gro.service.monitor.files import read
from gro.service.settings import read_guard

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert main(["guard", "init", str(tmp_path / "guard")]) == 0
    return tmp_path / "guard"


def json_of(capsys: Capture, *argv: object) -> Any:
    capsys.readouterr()
    assert main([*map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: Capture, *argv: object) -> str:
    capsys.readouterr()
    assert main([*map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gro: ")
    assert err.count("\n") == 1
    return err


def test_a_guard_is_begun_in_private_files_and_stays_as_it_is(folder: Path, capsys: Capture) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert all(stat.S_IMODE((folder / name).stat().st_mode) == 0o600 for name in ("guard.toml", "secret", "keys.json"))
    assert json_of(capsys, "guard", "init", folder)["made"] == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(read_key(folder / "secret")) == 64


def test_every_key_of_the_settings_that_are_written_is_known(folder: Path, tmp_path: Path) -> None:
    """Those that are commented out as well."""
    text = (folder / "guard.toml").read_text().replace("# n_items", "n_items").replace("# calibration", "calibration")
    path = tmp_path / "all.toml"
    path.write_text(text.replace("# [monitor]", "[monitor]").replace("# store", "store"))
    settings = read_guard(path)
    assert settings.monitor is not None
    assert settings.wire.n_items == 3416
    assert settings.queries is not None


def test_a_guard_without_keys_is_found_wanting(folder: Path, capsys: Capture) -> None:
    assert main(["guard", "check", str(folder / "guard.toml")]) == 1
    assert "nobody can get in" in capsys.readouterr().out
    main(["guard", "keys", "create", str(folder / "keys.json"), "--account", "anna"])
    before = sorted(folder.iterdir())
    report = json_of(capsys, "guard", "check", folder / "guard.toml")
    assert report["ok"]
    assert report["parts"]["keys"] == "1 good, 1 to rank"
    assert sorted(folder.iterdir()) == before


def test_what_is_wrong_in_any_part_is_found(folder: Path, capsys: Capture) -> None:
    text = (folder / "guard.toml").read_text()
    for old, new, said in (
        ('playbook = "watch-only"', 'playbook = "default"', "answers with decoys"),
        ('policy = "strict"', 'policy = "strikt"', "Did you mean 'strict'?"),
        ("[sessions]", "[sessionz]", "Did you mean 'sessions'?"),
        ("secret", "elsewhere", "no such file"),
        ("[sessions]", '[monitor]\ncalibration = "none"', "not a calibration"),
    ):
        (folder / "wrong.toml").write_text(text.replace(old, new))
        assert said in refused(capsys, "guard", "check", folder / "wrong.toml")


def test_keys_are_made_rotated_and_revoked(folder: Path, capsys: Capture) -> None:
    keys = folder / "keys.json"
    made = json_of(capsys, "guard", "keys", "create", keys, "--account", "anna", "--roles", "rank", "--roles", "audit")
    store = KeyStore(KeySettings(path=keys))
    principal = store.verify(made["key"], time.time())
    assert (principal.account, principal.roles) == ("anna", frozenset({Role.RANK, Role.AUDIT}))
    assert made["key"] not in keys.read_text()
    new = json_of(capsys, "guard", "keys", "rotate", keys, "--id", made["id"], "--overlap-hours", 0)
    listed = json_of(capsys, "guard", "keys", "list", keys)["keys"]
    assert [key["standing"] for key in listed] == ["key expired", "good"]
    json_of(capsys, "guard", "keys", "revoke", keys, "--id", new["id"])
    assert all(key.ended(time.time()) for key in store.list())
    assert new["key"] not in json.dumps(json_of(capsys, "guard", "keys", "list", keys))


def test_a_key_that_cannot_be_is_refused(folder: Path, capsys: Capture) -> None:
    keys = folder / "keys.json"
    before = keys.read_bytes()
    assert "account" in refused(capsys, "guard", "keys", "create", keys, "--account", "an na")
    assert "--account must be given" in refused(capsys, "guard", "keys", "create", keys)
    assert "rank" in refused(capsys, "guard", "keys", "create", keys, "--account", "a", "--roles", "rang")
    assert "'days' is 0" in refused(capsys, "guard", "keys", "create", keys, "--account", "a", "--days", 0)
    assert "no key has the id 'x'" in refused(capsys, "guard", "keys", "revoke", keys, "--id", "x")
    assert "no such file" in refused(capsys, "guard", "keys", "list", folder / "kees.json")
    assert keys.read_bytes() == before


def write_log(path: Path, accounts: int) -> None:
    random = np.random.default_rng(0)
    lines = []
    for account in range(accounts):
        history = random.integers(1, 100, 3).tolist()
        for at in range(20):
            listed = random.permutation(np.arange(1, 101))[:10].tolist()
            lines.append({"time": 60.0 * at, "account": f"u{account}", "history": history, "list": listed})
            history = [*history, int(listed[random.integers(3)])]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_clean_log_calibrates(tmp_path: Path, capsys: Capture) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "calibration.safetensors"
    write_log(log, 90)
    report = json_of(capsys, "guard", "calibrate", log, "--out", out, "--false-alarms", 0.05, "--confidence", 0.9)
    made = read(out)
    assert (report["accounts"], report["threshold"]) == (90, made.detector.threshold)
    assert (made.false_alarms, made.confidence) == (0.05, 0.9)
    assert "at most 1.00% of accounts" not in refused(capsys, "guard", "calibrate", log, "--out", out)
    assert read(out).accounts == 90
    whole = log.read_text().splitlines(keepends=True)
    halves = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path, lines in zip(halves, (whole[:900], whole[900:]), strict=True):
        path.write_text("".join(lines))
    assert json_of(capsys, "guard", "calibrate", *halves, "--out", out, "--false-alarms", 0.05) == report


def test_a_log_that_cannot_be_read_is_named_with_its_line(tmp_path: Path, capsys: Capture) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"time": 1, "account": "a", "history": [1], "list": [2]}\n{"time"')
    assert f"{log}:2" in refused(capsys, "guard", "calibrate", log, "--out", tmp_path / "c")
    assert "no such folder" in refused(capsys, "guard", "calibrate", log, "--out", tmp_path / "no" / "c")
    assert list(tmp_path.iterdir()) == [log]


def test_an_audit_log_is_verified_and_its_end_missed(folder: Path, capsys: Capture) -> None:
    path, secret = folder / "audit.jsonl", folder / "secret"
    with AuditLog(AuditSettings(path=path, key_file=secret), read_key(secret), clock=time.time) as log:
        log.append({"event": {"action": "x"}})
    command = ("guard", "verify", path, "--key-file", secret)
    report = json_of(capsys, *command)
    assert report["entries"] >= 2
    assert json_of(capsys, *command, "--checkpoint", report["checkpoint"]) == report
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert "cut off" in refused(capsys, *command, "--checkpoint", report["checkpoint"])
    path.write_bytes(b"".join(lines).replace(b'"x"', b'"y"'))
    assert "was altered" in refused(capsys, *command)


@contextmanager
def running(settings: Path) -> Iterator[str]:
    """A service behind a guard with these settings."""
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    app = GuardMiddleware(Starlette(), Guard(read_guard(settings)), ("/rank",))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_orders_go_to_a_running_guard_and_nowhere_else(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = folder / "keys.json"
    key = json_of(capsys, "guard", "keys", "create", keys, "--account", "otto", "--roles", "operate")["key"]
    with running(folder / "guard.toml") as url:
        guard = ("--url", f"{url}/guard")
        assert "a key is needed" in refused(capsys, "guard", "accounts", *guard)
        monkeypatch.setenv("GRO_GUARD_KEY", key)
        assert json_of(capsys, "guard", "accounts", *guard) == {"accounts": [], "all": 0}
        held = json_of(capsys, "guard", "hold", "a/b?c", *guard, "--state", "watch", "--why", "odd", "--hours", 1)
        assert (held["account"], held["holds"][0]["why"]) == ("a/b?c", "odd")
        assert json_of(capsys, "guard", "accounts", "a/b?c", *guard) == held
        assert main(["guard", "accounts", *guard]) == 0
        assert "a/b?c" in capsys.readouterr().out
        released = json_of(capsys, "guard", "release", "a/b?c", *guard, "--why", "fine")
        assert (released["holds"], released["state"]) == ([], "normal")
        assert "decoys" in refused(capsys, "guard", "hold", "a", *guard, "--state", "decoy", "--why", "x")
        monkeypatch.setenv("GRO_GUARD_KEY", key[:-1])
        assert "401" in refused(capsys, "guard", "accounts", *guard)
    assert "is the service there?" in refused(capsys, "guard", "accounts", *guard)
    assert "it takes a key" in refused(capsys, "guard", "accounts", "--url", "http://example.com/guard")
