from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gro.artifacts import Artifact, load, save
from gro.artifacts.manifest import sha256, write_manifest
from gro.config import ModelSettings
from gro.errors import ArtifactError
from gro.models import StateRecommender
from gro.training import STATE_FILE

N_ITEMS = 12
FILES = ("items.json", "manifest.json", "model.safetensors")

Architect = Callable[..., ModelSettings]
Parts = Callable[..., dict[str, Any]]
Scores = Callable[[StateRecommender], Tensor]
Content = Callable[[Path], dict[str, bytes]]
Whole = tuple[dict[str, bytes], Artifact, Path]


def refuse(folder: Path) -> str:
    """Return the one line that :func:`load` refuses with."""
    with pytest.raises(ArtifactError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def copy_of(files: Mapping[str, bytes], folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def reseal(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as someone would who knows the format."""
    path = folder / "manifest.json"
    values = json.loads(path.read_bytes())
    del values["sha256"]
    for name in values["files"]:
        values["files"][name] = sha256((folder / name).read_bytes())
    change(values)
    path.write_bytes(write_manifest(values))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, parts: Parts, content_of: Content) -> Whole:
    """Return the files of a whole artifact, what they load as, and a folder to play in."""
    folder = tmp_path_factory.mktemp("artifacts")
    save(folder / "whole", **parts())
    return content_of(folder / "whole"), load(folder / "whole"), folder / "played"


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_is_refused_or_means_nothing(
    whole: Whole, name: str, data: st.DataObject, scores: Scores
) -> None:
    files, before, folder = whole
    at = data.draw(st.integers(0, len(files[name]) - 1))
    content = bytearray(files[name])
    content[at] ^= data.draw(st.integers(1, 255))
    copy_of({**files, name: bytes(content)}, folder)
    try:
        artifact = load(folder)
    except ArtifactError as error:
        assert re.fullmatch(f"{folder}.+", str(error))  # noqa: PT017
        return
    assert name == "manifest.json"
    assert artifact.manifest == before.manifest
    assert torch.equal(scores(artifact.model), scores(before.model))


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_truncated_file_is_refused(whole: Whole, name: str, data: st.DataObject) -> None:
    files, _, folder = whole
    kept = data.draw(st.integers(0, len(files[name]) - 1))
    copy_of({**files, name: files[name][:kept]}, folder)
    assert name in refuse(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(whole: Whole, name: str) -> None:
    files, _, folder = whole
    copy_of({other: content for other, content in files.items() if other != name}, folder)
    assert name in refuse(folder)


def test_a_missing_or_unfinished_folder_is_refused(tmp_path: Path) -> None:
    assert "missing" in refuse(tmp_path / "none")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / STATE_FILE).touch()
    assert "unfinished training" in refuse(tmp_path / "begun")
    (tmp_path / "file").touch()
    refuse(tmp_path / "file")


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"format": "pt"}', b'{"architectures": ["Bert"]}', b"[" * 100_000],
    ids=repr,
)
def test_the_manifest_of_another_tool_is_refused(whole: Whole, manifest: bytes) -> None:
    files, _, folder = whole
    assert "foreign" in refuse(copy_of({**files, "manifest.json": manifest}, folder))


def test_a_newer_format_is_refused_by_number(whole: Whole) -> None:
    files, _, folder = whole
    reseal(copy_of(files, folder), lambda values: values.update(version=2, novelty=True))
    assert "format version 2; this gro reads version 1" in refuse(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda v: v["files"].update({"../secret": "00"}), "files"),
        (lambda v: v["files"].update({"/etc/passwd": "00"}), "files"),
        (lambda v: v["files"].pop("items.json"), "items.json"),
        (lambda v: v["model"].update(model="SASrec"), "model.model"),
        (lambda v: v["model"].update(hidden_sise=3), "hidden_sise"),
        (lambda v: v["model"].update(hidden_size=9), "n_heads"),
        (lambda v: v["model"].update(hidden_size=4), "attention_norm.bias: float32 [8] in place of float32 [4]"),
        (lambda v: v["model"].update(n_layers=2), "blocks.1"),
        (lambda v: v["model"].update(n_layers=10**12), "n_layers"),
        (lambda v: v.update(members=10**12), "members"),
        (lambda v: v["model"].update(hidden_size=2**40), "overflow"),
        (lambda v: v.update(n_items=11), "item tokens"),
        (lambda v: v.update(n_items=0), "n_items"),
        (lambda v: v.pop("seed"), "seed"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    whole: Whole, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    files, _, folder = whole
    reseal(copy_of(files, folder), change)
    assert named in refuse(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\x80\x04N."),
        ("model.safetensors", safetensors.torch.save({"item_embedding.weight": torch.zeros(13, 8)})),
        ("model.safetensors", safetensors.torch.save({"surplus": torch.zeros(1)})),
        ("items.json", b"{}"),
        ("items.json", json.dumps([1] * (N_ITEMS + 1)).encode()),
        ("items.json", b"pickle"),
    ],
)
def test_content_of_another_kind_is_refused(whole: Whole, name: str, content: bytes) -> None:
    files, _, folder = whole
    reseal(copy_of({**files, name: content}, folder), lambda values: None)
    assert name in refuse(folder)
