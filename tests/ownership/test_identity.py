"""Keys as files, and what an artifact is, whatever file its tensors are in."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from gro import artifacts
from gro.errors import ArtifactError, ConfigError, DataError, GroError
from gro.ownership.identity import generate, identify, read_private, read_public, weights_digest, write_new

TENSORS = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.tensor([1, -1]),
    "c": torch.zeros(0),
    "d": torch.tensor(7.0),
}


def laid_out(tensors: dict[str, Tensor], order: list[str], metadata: dict[str, str]) -> bytes:
    """A safetensors file whose header and data are in the given order."""
    header: dict[str, Any] = {"__metadata__": metadata}
    data = b""
    for name in order:
        tensor = tensors[name]
        content = tensor.numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        place = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": place}
        data += content
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + data


def test_a_key_pair_signs_and_is_private(tmp_path: Path) -> None:
    public = generate(tmp_path / "owner.key")
    assert (tmp_path / "owner.key").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert stat.S_IMODE((tmp_path / "owner.key").stat().st_mode) == 0o600
    signature = read_private(tmp_path / "owner.key").sign(b"mine")
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(read_public(public))).verify(signature, b"mine")
    assert read_public(generate(tmp_path / "other.key")) != read_public(public)


@pytest.mark.parametrize("kept", ["owner.key", "owner.key.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, kept: str) -> None:
    generate(tmp_path / "owner.key")
    for path in tmp_path.iterdir():
        if path.name != kept:
            path.unlink()
    before = (tmp_path / kept).read_bytes()
    with pytest.raises(DataError, match="is there already"):
        generate(tmp_path / "owner.key")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {kept: before}


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_one_line(tmp_path: Path, content: bytes) -> None:
    write_new(tmp_path / "key", content)
    for read, said in ((read_private, "Ed25519 private key"), (read_public, "Ed25519 public key")):
        with pytest.raises(ConfigError, match=said) as error:
            read(tmp_path / "key")
        assert "\n" not in str(error.value)


def test_a_key_of_another_kind_or_behind_a_password_is_refused(tmp_path: Path) -> None:
    kinds = {"x": ["X25519"], "locked": ["ED25519", "-aes-256-cbc", "-pass", "pass:secret"]}
    for name, kind in kinds.items():
        command = ["openssl", "genpkey", "-algorithm", *kind, "-out", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
        (tmp_path / name).chmod(0o600)
        with pytest.raises(ConfigError, match="holds no Ed25519 private key"):
            read_private(tmp_path / name)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    generate(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640 leaves it to others"):
        read_private(tmp_path / "key")
    for read in (read_private, read_public):
        with pytest.raises(ConfigError, match="no such file"):
            read(tmp_path / "nothing")


@given(st.permutations(list(TENSORS)), st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2))
def test_the_digest_of_weights_does_not_depend_on_the_file(order: list[str], metadata: dict[str, str]) -> None:
    assert weights_digest(laid_out(TENSORS, order, metadata)) == weights_digest(save(TENSORS))


def test_the_digest_of_weights_is_what_it_is_documented_to_be() -> None:
    tensors = {"é": torch.tensor([[1.5, -0.0]], dtype=torch.bfloat16), "a": torch.tensor([3], dtype=torch.int8)}
    hashed = b'["a","I8",[1]]\n\x03' + '["é","BF16",[1,2]]\n'.encode() + b"\xc0\x3f\x00\x80"
    assert weights_digest(save(tensors)) == hashlib.sha256(hashed).hexdigest()


@pytest.mark.parametrize(
    "changed",
    [
        {"a": TENSORS["a"].int()},
        {"a": TENSORS["a"] + torch.tensor([0, 1])},
        {"b": TENSORS["b"].reshape(3, 2)},
        {"b": -TENSORS["b"]},
        {"e": torch.zeros(0)},
    ],
)
def test_any_change_of_a_tensor_changes_the_digest(changed: dict[str, Tensor]) -> None:
    assert weights_digest(save({**TENSORS, **changed})) != weights_digest(save(TENSORS))


@given(st.binary(max_size=40))
def test_what_is_not_safetensors_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="not safetensors"):
        weights_digest(content)


def test_an_artifact_has_an_identity_only_when_it_is_whole(plain: Path, tmp_path: Path) -> None:
    found, copy = identify(artifacts.load(plain)), tmp_path / "copy"
    shutil.copytree(plain, copy)
    assert identify(artifacts.load(copy)) == found
    assert found.manifest == hashlib.sha256((plain / "manifest.json").read_bytes()).hexdigest()
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(GroError, match="damaged"):
        identify(artifacts.load(copy))
