from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from gro.artifacts import folders, load, require_replaceable, save, store
from gro.artifacts.manifest import Manifest
from gro.config import Architecture, ModelSettings, TrainingSettings
from gro.errors import ArtifactError
from gro.models import StateRecommender
from gro.training import STATE_FILE

N_ITEMS = 12
FILES = ("items.json", "manifest.json", "model.safetensors")
HISTORIES = torch.tensor([[12, 7, 7, 1, 5]])

Architect = Callable[..., ModelSettings]
Parts = Callable[..., dict[str, Any]]
Scores = Callable[[StateRecommender], Tensor]
Content = Callable[[Path], dict[str, bytes]]


@pytest.mark.parametrize("model", get_args(Architecture))
def test_what_was_saved_is_what_is_loaded(
    tmp_path: Path, model: str, parts: Parts, scores: Scores, content_of: Content
) -> None:
    given_parts = parts(3, model)
    manifest = save(tmp_path / "new" / "run", **given_parts)
    artifact = load(tmp_path / "new" / "run")
    assert torch.equal(scores(artifact.model), scores(given_parts["model"]))
    assert not artifact.model.training
    assert artifact.model.head.weight is artifact.model.item_embedding.weight
    assert artifact.manifest == manifest
    assert np.array_equal(artifact.item_tokens, given_parts["item_tokens"])
    assert sorted(content_of(tmp_path / "new" / "run")) == list(FILES)


@pytest.mark.parametrize(("first", "others"), [("BERT4Rec", "SASRec"), ("SASRec", "GRU4Rec"), ("NARM", "NARM")])
def test_models_that_answer_together_travel_together(
    tmp_path: Path, first: str, others: str, parts: Parts, scores: Scores
) -> None:
    given = [parts(seed, others)["model"] for seed in (4, 5)]
    save(tmp_path / "run", **parts(3, first, others=given))
    artifact = load(tmp_path / "run")
    assert type(artifact.model).__name__ == first
    assert torch.equal(scores(artifact.model), scores(parts(3, first)["model"]))
    for found, wanted in zip(artifact.others, given, strict=True):
        assert type(found) is type(wanted)
        assert torch.equal(scores(found), scores(wanted))


def test_an_artifact_that_names_no_other_architecture_has_one(tmp_path: Path, parts: Parts) -> None:
    written = save(tmp_path / "run", **parts(3, "NARM", others=[parts(4, "NARM")["model"]]))
    older = Manifest.model_validate(written.model_dump(exclude={"others"}))
    assert older.models == written.models == [written.model] * 2


def test_a_loaded_model_trains_its_tied_table_as_one(tmp_path: Path, parts: Parts) -> None:
    save(tmp_path / "run", **parts())
    model = load(tmp_path / "run").model.train()
    assert len(list(model.parameters())) == len(list(parts()["model"].parameters()))
    torch.autograd.backward(model.loss(HISTORIES))
    assert model.head.weight.grad is model.item_embedding.weight.grad is not None


def test_the_manifest_says_what_the_model_is(tmp_path: Path, architecture: Architect, parts: Parts) -> None:
    values = TrainingSettings.make({**architecture("GRU4Rec").model_dump(), "epochs": 3})
    save(tmp_path / "run", **parts(5, "GRU4Rec", settings=values, command=values.model_dump(mode="json")))
    manifest = load(tmp_path / "run").manifest
    assert manifest.model == architecture("GRU4Rec")
    assert manifest.settings["epochs"] == 3
    assert (manifest.n_items, manifest.seed, manifest.dataset.name) == (N_ITEMS, 5, "toy")
    assert manifest.versions["torch"] == torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest.created)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, parts: Parts) -> None:
    for name in ("a", "b"):
        save(tmp_path / name, **parts(1))
    for name in ("model.safetensors", "items.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"settings": ModelSettings(hidden_size=16)}, r"float32 \[8\] in place of float32 \[16\]"),
        ({"settings": ModelSettings(model="GRU4Rec")}, "float32 .* in place of nothing"),
        ({"item_tokens": ["[PAD]"]}, "1 item tokens; the model needs 13"),
        ({"metrics": {"ndcg@10": float("nan")}}, "finite"),
        ({"command": {"model": object()}}, "settings"),
        ({"dataset": {"name": "toy"}}, "digest"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_writing(
    tmp_path: Path, changed: dict[str, Any], named: str, parts: Parts
) -> None:
    with pytest.raises(ArtifactError, match=named):
        save(tmp_path / "run", **parts(**changed))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("exchange", [folders._exchange, folders._exchange_in_steps])
def test_an_artifact_and_an_unfinished_training_are_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exchange: Callable[[Path, Path], None],
    parts: Parts,
    content_of: Content,
) -> None:
    monkeypatch.setattr(folders, "_exchange", exchange)
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (STATE_FILE, f".{STATE_FILE}.99"):
        (folder / name).touch()
    for seed in (1, 2):
        save(folder, **parts(seed))
        assert load(folder).manifest.seed == seed
    assert sorted(content_of(folder)) == list(FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["thesis.tex", "manifest.json", "model.safetensors"])
def test_a_folder_of_other_things_is_not_replaced(tmp_path: Path, name: str, parts: Parts, content_of: Content) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text('{"format": "thesis"}')
    with pytest.raises(ArtifactError, match="not replaced"):
        save(tmp_path / "mine", **parts())
    with pytest.raises(ArtifactError, match="not replaced"):
        require_replaceable(tmp_path / "mine")
    assert content_of(tmp_path / "mine") == {name: b'{"format": "thesis"}'}


def test_notes_beside_an_artifact_are_not_lost(tmp_path: Path, parts: Parts) -> None:
    save(tmp_path / "run", **parts(1))
    (tmp_path / "run" / "notes.txt").touch()
    with pytest.raises(ArtifactError, match=r"'notes\.txt'"):
        save(tmp_path / "run", **parts(2))
    assert load(tmp_path / "run").manifest.seed == 1


def test_a_file_is_not_replaced(tmp_path: Path, parts: Parts) -> None:
    (tmp_path / "file").write_text("text")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ArtifactError, match="not a directory"):
            save(folder, **parts())
    assert (tmp_path / "file").read_text() == "text"


def test_a_link_keeps_pointing_at_what_is_replaced(tmp_path: Path, parts: Parts) -> None:
    save(tmp_path / "run", **parts(1))
    (tmp_path / "latest").symlink_to("run")
    save(tmp_path / "latest", **parts(2))
    assert (tmp_path / "latest").is_symlink()
    assert load(tmp_path / "run").manifest.seed == 2


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 300, 2000])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, size: int, parts: Parts, content_of: Content) -> None:
    save(tmp_path / "run", **parts(1))
    before = content_of(tmp_path / "run")
    for folder in (tmp_path / "run", tmp_path / "other"):
        with largest_file(size), pytest.raises(ArtifactError, match="cannot be written: file too large"):
            save(folder, **parts(2))
    assert content_of(tmp_path / "run") == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_what_was_there(small_disk: Path, parts: Parts) -> None:
    save(small_disk / "run", **parts(1))
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes((free.f_bavail - 1) * free.f_bsize))
    with pytest.raises(ArtifactError, match=re.escape(os.strerror(errno.ENOSPC).lower())):
        save(small_disk / "run", **parts(2))
    assert load(small_disk / "run").manifest.seed == 1
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "run"]


def test_an_interrupt_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: Parts) -> None:
    def interrupted(new: Path, target: Path) -> None:
        raise KeyboardInterrupt

    save(tmp_path / "run", **parts(1))
    monkeypatch.setattr(store, "install", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "run", **parts(2))
    assert load(tmp_path / "run").manifest.seed == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_move_that_fails_in_steps_is_undone(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "kept").touch()
    with pytest.raises(FileNotFoundError):
        folders._exchange_in_steps(tmp_path / "absent", tmp_path / "target")
    assert (tmp_path / "target" / "kept").exists()


@pytest.mark.parametrize("exchange", [folders._exchange, folders._exchange_in_steps])
def test_a_reader_sees_the_old_or_the_new_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exchange: Callable[[Path, Path], None],
    parts: Parts,
    scores: Scores,
) -> None:
    monkeypatch.setattr(folders, "_exchange", exchange)
    folder, written = tmp_path / "run", threading.Event()
    versions = [parts(seed) for seed in range(2)]
    expected = [scores(version["model"]) for version in versions]
    save(folder, **versions[0])

    def write() -> None:
        for turn in range(20):
            save(folder, **versions[turn % 2])
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not written.is_set() and writer.is_alive():
        artifact = load(folder)
        assert torch.equal(scores(artifact.model), expected[artifact.manifest.seed])
        seen.add(artifact.manifest.seed)
    writer.join()
    assert written.is_set()
    assert seen == {0, 1}


def test_a_folder_that_is_away_for_a_moment_is_waited_for(tmp_path: Path, parts: Parts) -> None:
    """Between the two steps of an exchange there is none."""
    save(tmp_path / "run", **parts(1))
    (tmp_path / "run").rename(tmp_path / "aside")
    back = threading.Timer(0.02, (tmp_path / "aside").rename, [tmp_path / "run"])
    back.start()
    assert load(tmp_path / "run").manifest.seed == 1
    back.join()


def test_what_is_replaced_between_two_reads_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: Parts, scores: Scores
) -> None:
    """The old manifest with the new weights is no damage."""
    save(tmp_path / "run", **parts(1))
    later = [parts(3), parts(2)]

    def replaced_first(path: Path) -> bytes:
        if later:
            save(tmp_path / "run", **later.pop())
        return path.read_bytes()

    monkeypatch.setattr(store, "read_bytes", replaced_first)
    artifact = load(tmp_path / "run")
    assert artifact.manifest.seed == 3
    assert torch.equal(scores(artifact.model), scores(parts(3)["model"]))
