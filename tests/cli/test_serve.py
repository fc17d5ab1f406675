"""``gro serve``: a trained run behind a guard, in a process of its own."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gro import artifacts
from gro.cli.serve import bound
from gro.defenses import cards as defences
from gro.defenses.served import exposed_by, needs_secret, served
from gro.service.access.keys import KeySettings, KeyStore, start_key_file
from gro.service.core import Role
from gro.service.keyfile import derived
from gro.serving import RankingService

Gro = Any
Listing = list[list[int]]
SECRET = "0123456789abcdef" * 4
CONFIG = """
[keys]
path = "{folder}/keys.json"

[events]
to = "{folder}/events.jsonl"
"""
HISTORIES = [[1, 2, 3], [40], [7, 8, 9, 10, 11] * 20, [5, 4]]
SHUFFLED = """
noise = "per-history"

[[serving]]
kind = "shuffle"
"""


@dataclass(frozen=True)
class Files:
    """A guard's files, and the key of somebody who may ask."""

    guard: Path
    key: dict[str, str]

    def add(self, text: str) -> None:
        with self.guard.open("a") as config:
            config.write(text)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    start_key_file(tmp_path / "keys.json")
    store = KeyStore(KeySettings(path=tmp_path / "keys.json"))
    key = store.create("anna", (Role.RANK,), 3600.0, time.time())[1]
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "guard.toml").write_text(CONFIG.replace("{folder}", str(tmp_path)))
    return Files(tmp_path / "guard.toml", {"X-API-Key": key})


@contextmanager
def serving(run: Path, files: Files, *more: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL, once it says that it serves."""
    command = [
        "serve",
        str(run),
        "--guard",
        str(files.guard),
        "--port",
        "0",
        "--device",
        "cpu",
        "--json",
        *map(str, more),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "gro", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline() or pytest.fail(str(process.stderr and process.stderr.read()))
            yield process, json.loads(said)["url"]
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], number: int) -> tuple[int, list[str]]:
    """Exit code and lines on stderr after a signal."""
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err.splitlines()


def lists(run: Path, secret: bytes | None = None) -> Listing:
    """What the run's own service answers, a history at a time."""
    artifact = artifacts.load(run)
    target = served(artifact, 5, 0, torch.device("cpu"), secret)
    service = RankingService(target, exposed_by(target, 5))
    return [service(torch.tensor([history])).tolist()[0] for history in HISTORIES]


def ask(url: str, files: Files, histories: Sequence[Sequence[int]] = HISTORIES, **more: Any) -> Listing:
    answer = httpx.post(f"{url}/rank", json={"histories": histories}, headers=files.key, **more)
    assert answer.status_code == 200
    found: Listing = answer.json()["lists"]
    return found


def test_a_run_is_served_as_it_answers_and_ends_when_it_is_told_to(learnt: Path, files: Files) -> None:
    with serving(learnt, files) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        assert ask(url, files) == lists(learnt)
        about = httpx.get(f"{url}/about", headers=files.key)
        assert about.json() == {"dataset": "tiny", "model": "SASRec", "n_items": 40, "k": 5}
        assert "server" not in about.headers
        assert httpx.post(f"{url}/rank", json={"histories": [1], "k": 6}, headers=files.key).status_code == 400
        assert httpx.post(f"{url}/rank", json={"histories": [41]}, headers=files.key).status_code == 400
        assert httpx.post(f"{url}/rank", json={"histories": [1]}).status_code == 401
        assert ended(process, signal.SIGINT) == (0, [f"serving {learnt} on {url}"])


def test_a_question_in_flight_is_answered_after_sigterm_and_no_new_one_is_taken(learnt: Path, files: Files) -> None:
    body = json.dumps({"histories": HISTORIES}).encode()
    head = (
        f"POST /rank HTTP/1.1\r\nHost: x\r\nX-API-Key: {files.key['X-API-Key']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with serving(learnt, files) as (process, url):
        address = ("127.0.0.1", httpx.URL(url).port or 0)
        with socket.create_connection(address, 30) as asking:
            asking.sendall(head.encode() + body[:9])
            assert httpx.get(f"{url}/health").status_code == 200  # what was sent before this has been read
            process.send_signal(signal.SIGTERM)
            refused(address)
            asking.sendall(body[9:])
            with asking.makefile("rb") as answered:
                answer = answered.read().decode()
        assert answer.startswith("HTTP/1.1 200 OK\r\n")
        assert json.loads(answer.split("\r\n\r\n")[1]) == {"lists": lists(learnt)}
        assert ended(process, 0) == (0, [f"serving {learnt} on {url}"])
    actions = [json.loads(line)["event"]["action"] for line in (files.guard.parent / "events.jsonl").open()]
    assert (actions[0], actions[-1]) == ("service-started", "service-stopped")


def refused(address: tuple[str, int]) -> None:
    """Wait until nobody listens."""
    for _ in range(3000):
        try:
            socket.create_connection(address, 1).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)
    pytest.fail("the service still takes connections")


def test_https(learnt: Path, files: Files, tmp_path: Path) -> None:
    certificate, key = certified(tmp_path)
    with serving(learnt, files, "--tls-certificate", certificate, "--tls-key", key) as (process, url):
        assert url.startswith("https://127.0.0.1:")
        assert ask(url, files, verify=ssl.create_default_context(cafile=str(certificate))) == lists(learnt)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/health")
        assert ended(process, signal.SIGTERM) == (0, [f"serving {learnt} on {url}"])


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that it signed itself, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now, address = dt.datetime.now(dt.UTC), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture
def shuffled(gro: Gro, learnt: Path, data_path: Path, tmp_path: Path, write: Callable[[str], Path]) -> Path:
    """A run whose lists are in an order that a secret makes of each history."""
    out = tmp_path / "runs" / "shuffled"
    sizes = ("--hidden-size", 8, "--inner-size", 8, "--n-layers", 1, "--n-heads", 1, "--k", 5)
    where = ("--dataset", "tiny", "--data-path", data_path, "--out", out, "--from", learnt)
    assert gro("protect", *where, *sizes, "--defence", write(SHUFFLED), "--quiet").code == 0
    return out


def test_a_defence_acts_with_a_secret_that_is_not_in_the_artifact(
    gro: Gro, shuffled: Path, learnt: Path, files: Files
) -> None:
    refused = gro("serve", shuffled, "--guard", files.guard)
    assert refused.code == 2
    assert f"the defence '{shuffled.parent.parent / 'mine.toml'}' of {shuffled} takes a secret" in refused.line
    files.add(f'[privacy]\nkey_file = "{files.guard.parent / "secret"}"\n')
    with serving(shuffled, files) as (_, url):
        found = ask(url, files)
        assert ask(url, files, HISTORIES[:1]) == found[:1]  # asking again gains nothing
    assert found == lists(shuffled, derived(SECRET.encode(), "defence"))
    assert found != lists(shuffled)
    assert [sorted(each) for each in found] == [sorted(each) for each in lists(learnt)]


@pytest.mark.parametrize(
    ("defence", "secret"),
    [
        ("truncate-10", False),
        ("shuffle", False),
        ("gaussian-noise", False),
        ("gaussian-noise-per-history", True),
        ("misinformation", True),
        ("gro-misinformation", True),
        ("gated", True),
    ],
)
def test_what_hides_behind_a_secret(learnt: Path, defence: str, secret: bool) -> None:
    plain = artifacts.load(learnt)
    assert not needs_secret(plain)
    defended = replace(plain, manifest=plain.manifest.model_copy(update={"defence": defences.read(defence).table()}))
    assert needs_secret(defended) is secret
    assert needs_secret(replace(defended, others=(plain.model,)))


def test_a_taken_port_is_one_line(gro: Gro, learnt: Path, files: Files) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = gro("serve", learnt, "--guard", files.guard, "--port", port)
    assert answer.code == 2
    assert answer.line == (
        f"gro: cannot listen on 127.0.0.1 port {port}: address already in use; choose another --host or --port"
    )
    assert not (files.guard.parent / "events.jsonl").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_answer_does_not_wait_for_the_callers_acknowledgement(host: str) -> None:
    """Of its head, which takes 40 ms: asyncio switches that off where a socket says that it speaks TCP."""
    with bound(host, 0) as found:
        assert found.proto == socket.IPPROTO_TCP
        assert ipaddress.ip_address(found.getsockname()[0]).is_loopback


def test_an_address_that_is_not_there(gro: Gro, learnt: Path, files: Files) -> None:
    for host, why in (("192.0.2.1", "cannot assign requested address"), ("x" * 70, "no such address")):
        answer = gro("serve", learnt, "--guard", files.guard, "--host", host)
        assert answer.line == f"gro: cannot listen on {host} port 8000: {why}; choose another --host or --port"


def test_nothing_is_served_without_a_guard(gro: Gro, learnt: Path, tmp_path: Path) -> None:
    answer = gro("serve", learnt)
    assert answer.code == 2
    assert "--guard must be given" in answer.line
    assert "gro guard init DIR" in answer.line
    missing = gro("serve", learnt, "--guard", tmp_path / "none.toml")
    assert (missing.code, missing.line) == (2, f"gro: {tmp_path / 'none.toml'}: no such file or directory")


def test_what_is_no_run_is_not_served(gro: Gro, files: Files, tmp_path: Path) -> None:
    answer = gro("serve", tmp_path / "none", "--guard", files.guard)
    assert answer.code == 2
    assert answer.line.startswith(f"gro: {tmp_path / 'none'}")


def test_a_guard_of_another_catalogue_is_refused(gro: Gro, learnt: Path, files: Files) -> None:
    files.add("[wire]\nn_items = 39\n")
    answer = gro("serve", learnt, "--guard", files.guard)
    assert (answer.code, answer.line) == (2, "gro: [wire] n_items is 39; the model has 40 items")


def test_who_listens_to_other_machines_without_tls_is_warned(gro: Gro, learnt: Path, files: Files) -> None:
    (files.guard.parent / "keys.json").unlink()  # so that it does not come to serving
    answer = gro("serve", learnt, "--guard", files.guard, "--host", "0.0.0.0", "--port", 0)
    warning, error = answer.err.splitlines()
    assert warning.startswith("listening on 0.0.0.0 without TLS")
    assert (answer.code, "keys.json" in error) == (2, True)


def test_a_certificate_that_cannot_be_served_is_refused(gro: Gro, learnt: Path, files: Files, tmp_path: Path) -> None:
    certificate, key = certified(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = certified(tmp_path / "other")
    serve = ("serve", learnt, "--guard", files.guard, "--tls-certificate", certificate)
    assert gro(*serve).line == "gro: --tls-certificate and --tls-key must be given together"
    for wrong in (other, files.guard):
        answer = gro(*serve, "--tls-key", wrong)
        assert answer.code == 2
        assert f"{certificate} and {wrong} are not a certificate and its key" in answer.line
    assert gro(*serve, "--tls-key", tmp_path / "none").line == f"gro: {tmp_path / 'none'}: no such file or directory"
    assert key.exists()
