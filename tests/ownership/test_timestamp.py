"""A token of a time-stamping authority, a real one of openssl's, proves when a file existed, and nothing else does."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gro.errors import ConfigError, DataError
from gro.ownership.timestamp import proven_time

SETTINGS = """
[ca]
basicConstraints = critical,CA:true
[tsa]
extendedKeyUsage = critical,timeStamping
[tsa_config]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
default_policy = 1.2.3.4.1
signer_digest = sha256
digests = sha256
ess_cert_id_alg = sha256
"""


class Authority:
    """A time-stamping authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self.folder, self.root = folder, folder / "root.pem"
        (folder / "config").write_text(SETTINGS.format(folder=folder))
        (folder / "serial").write_text("01\n")
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        root = ["req", "-x509", *ec, "-keyout", "root.key", "-out", "root.pem", "-subj", f"/CN={name}", "-days", "2"]
        self.run(*root)
        self.run("req", *ec, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", "/CN=TSA")
        issue = ["x509", "-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial"]
        self.run(*issue, "-days", "1", "-extfile", "config", "-extensions", "tsa", "-out", "tsa.pem")

    def run(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def stamp(self, file: Path) -> Path:
        query, token = file.with_suffix(".tsq"), file.with_suffix(".tsr")
        self.run("ts", "-query", "-data", file, "-sha256", "-cert", "-out", query)
        self.run("ts", "-reply", "-config", "config", "-section", "tsa_config", "-queryfile", query, "-out", token)
        return token


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tsa") / "authority", "Time & Co")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "statement.json").write_bytes(b"what was stated")
    return tmp_path / "statement.json"


def test_a_token_proves_when_a_file_existed(authority: Authority, file: Path) -> None:
    proof = proven_time(authority.stamp(file), authority.root, file.read_bytes())
    assert abs((datetime.now(UTC) - proof.time).total_seconds()) < 600
    assert proof.authority.startswith("CN=Time & Co (SHA-256 ")


def test_it_proves_nothing_of_another_file_or_by_another_authority(
    authority: Authority, file: Path, tmp_path: Path
) -> None:
    token = authority.stamp(file)
    with pytest.raises(DataError, match="does not prove a time for this statement"):
        proven_time(token, authority.root, b"what was not stated")
    namesake = Authority(tmp_path / "namesake", "Time & Co")
    with pytest.raises(DataError, match="does not prove a time for this statement"):
        proven_time(token, namesake.root, file.read_bytes())


def test_a_damaged_token_never_tells_another_time(authority: Authority, file: Path) -> None:
    token = authority.stamp(file)
    content, proof = token.read_bytes(), proven_time(token, authority.root, file.read_bytes())
    refused = 0
    for place in range(0, len(content), 5):
        token.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            found = proven_time(token, authority.root, file.read_bytes())
        except DataError:
            refused += 1
        else:
            assert found == proof  # the signature leaves out some bytes
    assert refused > 0.9 * len(content) / 5


def test_what_is_no_token_or_no_certificate_is_one_line(authority: Authority, file: Path) -> None:
    with pytest.raises(DataError, match="not an RFC 3161 time-stamp response"):
        proven_time(file, authority.root, b"")
    with pytest.raises(ConfigError, match="holds no certificate in PEM"):
        proven_time(file, file, b"")
    with pytest.raises(ConfigError, match="no such file"):
        proven_time(file.with_name("nothing"), authority.root, b"")
