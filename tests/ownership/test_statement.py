"""A statement says what its owner signed, or nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gro import artifacts
from gro.errors import ArtifactError, ConfigError, DataError, GroError
from gro.ownership.commitment import commit
from gro.ownership.identity import generate, hexadecimal, identify, read_private, read_public
from gro.ownership.statement import Statement, signed, verified

COMMITTED = {"fingerprint": commit(b"probes")[1], "mark.trigger": commit(b"mark")[1]}
KEY = Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def statement(plain: Path) -> Statement:
    return signed(plain, KEY, "Ünal & Söhne <GmbH>", COMMITTED, trained_by="A. Nalyst")


@pytest.fixture
def written(statement: Statement, tmp_path: Path) -> Path:
    statement.write(tmp_path / "statement.json")
    return tmp_path / "statement.json"


@pytest.fixture
def altered(statement: Statement, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Path]:
    """Return a function that writes the statement, altered, in the form of a statement."""

    def altered(change: Callable[[dict[str, Any]], Any]) -> Path:
        values = json.loads(statement.content)
        change(values)
        path = tmp_path / "altered.json"
        path.write_bytes(json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
        return path

    return altered


def refusal(path: Path, *against: Any) -> str:
    with pytest.raises(GroError) as error:
        verified(path, *against)
    line = str(error.value)
    assert "\n" not in line
    return line


def rewritten(folder: Path, to: Path, **changed: Any) -> Path:
    """Copy an artifact with another manifest, whose checksum is right."""
    shutil.copytree(folder, to)
    values = json.loads((to / "manifest.json").read_bytes()) | changed
    del values["sha256"]
    values["files"] = {
        name: hashlib.sha256((to / name).read_bytes()).hexdigest() for name in ("model.safetensors", "items.json")
    }
    seal = hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (to / "manifest.json").write_text(json.dumps({**values, "sha256": seal}))
    return to


def test_a_statement_is_read_as_it_was_signed(written: Path, statement: Statement, plain: Path) -> None:
    found = verified(written, plain, hexadecimal(KEY.public_key()))
    assert found == statement
    assert (found.owner, found.trained_by, found.exported_by) == (
        "Ünal & Söhne <GmbH>",
        "A. Nalyst",
        "Ünal & Söhne <GmbH>",
    )
    assert found.artifact.weights == identify(artifacts.load(plain)).weights
    assert found.artifact.dataset.name == "tiny"
    assert found.commitments == COMMITTED
    assert abs((datetime.now(UTC) - datetime.fromisoformat(found.signed_at)).total_seconds()) < 600
    assert found.digest == hashlib.sha256(written.read_bytes()).hexdigest()


def test_openssl_verifies_it_without_this_library(written: Path, tmp_path: Path, plain: Path) -> None:
    public = generate(tmp_path / "owner.key")
    path = tmp_path / "mine.json"
    signed(plain, read_private(tmp_path / "owner.key"), "Owner", {}).write(path)
    values = json.loads(path.read_bytes())
    (tmp_path / "signature").write_bytes(bytes.fromhex(values.pop("signature")))
    (tmp_path / "signed").write_bytes(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())
    check = f"openssl pkeyutl -verify -pubin -inkey {public} -rawin -in signed -sigfile signature".split()
    found = subprocess.run(check, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "Verified Successfully" in found.stdout


def test_the_lineage_names_every_parent(plain: Path, tmp_path: Path) -> None:
    protected = rewritten(plain, tmp_path / "protected", created="2026-02-03T04:05:06+00:00")
    marked = rewritten(plain, tmp_path / "marked", created="2026-03-03T04:05:06+00:00")
    found = signed(marked, KEY, "Owner", {}, [plain, protected])
    assert [part.manifest for part in found.lineage] == [
        identify(artifacts.load(p)).manifest for p in (plain, protected)
    ]
    assert found.artifact.manifest == identify(artifacts.load(marked)).manifest
    (tmp_path / "x").mkdir()
    with pytest.raises(ArtifactError, match="not an artifact"):
        signed(plain, KEY, "Owner", {}, [tmp_path / "x"])


def test_a_parent_with_another_catalogue_is_refused(plain: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(plain, other)
    items = json.loads((other / "items.json").read_bytes())
    (other / "items.json").write_text(json.dumps([items[0], *reversed(items[1:])]))
    other = rewritten(other, tmp_path / "resealed")
    with pytest.raises(DataError, match=r"resealed: has another catalogue than .*, so this was not made from it"):
        signed(plain, KEY, "Owner", {}, [other])


@pytest.mark.parametrize("name", sorted(Statement.model_fields))
def test_no_field_can_be_altered(altered: Callable[..., Path], name: str) -> None:
    def change(values: dict[str, Any]) -> None:
        values[name] = {
            "format": "else",
            "version": 2,
            "public_key": hexadecimal(Ed25519PrivateKey.generate().public_key()),
            "signed_at": "2020-01-01T00:00:00+00:00",
            "artifact": {**values["artifact"], "items": values["artifact"]["items"] + 1},
            "lineage": [values["artifact"]],
            "commitments": {"fingerprint": "0" * 64},
            "versions": {},
            "signature": "0" * 128,
        }.get(name, "Somebody Else")

    said = {"format": "not an ownership statement", "version": "statement version 2; this gro reads version 1"}
    assert said.get(name, "altered after it was signed") in refusal(altered(change))


@given(st.data())
def test_no_bit_can_be_altered(
    statement: Statement, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(statement.content)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("altered") / "statement.json"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an ownership statement"),
        (b"\xff\xfe", "not an ownership statement"),
        (b"[" * 100_000, "not an ownership statement"),
        (b'{"format": "gro-artifact", "version": 1}', "not an ownership statement"),
        (b'{"format": "gro-ownership-statement", "version": 1}', "malformed statement: .*'owner' is required"),
    ],
)
def test_what_is_no_statement_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        verified(tmp_path / "s")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        verified(tmp_path / "nothing")


def test_another_layout_or_a_key_given_twice_is_altered(statement: Statement, tmp_path: Path) -> None:
    content = statement.content
    for other in (content + b"\n", json.dumps(json.loads(content), indent=1).encode(), b'{"owner":"X",' + content[1:]):
        (tmp_path / "s").write_bytes(other)
        assert "altered: it is not in the form" in refusal(tmp_path / "s")
    surrogate = content.replace(b'"A. Nalyst"', b'"\\ud800"')
    (tmp_path / "s").write_bytes(surrogate)
    assert "s: malformed statement" in refusal(tmp_path / "s")


def test_the_wrong_key_is_said_to_be(written: Path, tmp_path: Path) -> None:
    other = read_public(generate(tmp_path / "other.key"))
    mine = hexadecimal(KEY.public_key())
    assert refusal(written, None, other).endswith(f"wrong key: signed with {mine}, not with {other}")


def test_another_artifact_is_told_by_what_differs(written: Path, plain: Path, learnt: Path, tmp_path: Path) -> None:
    assert "learnt: has other weights than the artifact" in refusal(written, learnt)
    renamed = rewritten(plain, tmp_path / "renamed", seed=7)
    assert "renamed: has another manifest" in refusal(written, renamed)
    swapped = rewritten(plain, tmp_path / "swapped", dataset={"name": "tiny", "digest": "0" * 64})
    assert "swapped: has another dataset" in refusal(written, swapped)
    shutil.copytree(plain, tmp_path / "items")
    items = json.loads((tmp_path / "items" / "items.json").read_bytes())
    (tmp_path / "items" / "items.json").write_text(json.dumps([items[0], *reversed(items[1:])]))
    catalogue = rewritten(tmp_path / "items", tmp_path / "catalogue")
    assert "catalogue: has another catalogue" in refusal(written, catalogue)
    shutil.copytree(plain, tmp_path / "damaged")
    (tmp_path / "damaged" / "manifest.json").write_text(
        (plain / "manifest.json").read_text().replace('"seed": 0', '"seed": 1')
    )
    assert "manifest.json: damaged: it was changed" in refusal(written, tmp_path / "damaged")


def test_a_statement_is_never_overwritten(written: Path, statement: Statement) -> None:
    with pytest.raises(DataError, match="is there already"):
        statement.write(written)


@pytest.mark.parametrize(
    ("owner", "commitments"),
    [("", {}), ("Owner", {"Fingerprint!": "0" * 64}), ("Owner", {"fingerprint": "not a digest"})],
)
def test_what_cannot_be_signed_is_one_line(plain: Path, owner: str, commitments: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="statement about") as error:
        signed(plain, KEY, owner, commitments)
    assert "\n" not in str(error.value)
