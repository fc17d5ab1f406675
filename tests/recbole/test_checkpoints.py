from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from gro import _recbole
from gro._recbole import load_checkpoint
from gro.errors import ArtifactError


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def recbole_checkpoint(path: Path) -> _recbole.RecBoleRecommender:
    """Write what RecBole's trainer writes."""
    recommender = _recbole.build("SASRec", 9, 4, {"hidden_size": 8, "n_layers": 1})
    state = {"config": recommender.config, "epoch": 3, "state_dict": recommender.recbole.state_dict(), "optimizer": {}}
    with _recbole.recbole_environment():
        torch.save(state, path, pickle_protocol=4)
    return recommender


def test_a_plain_state_dict_is_read(tmp_path: Path) -> None:
    weights = OrderedDict(a=torch.arange(3.0), b=torch.ones(2, 2))
    torch.save(weights, tmp_path / "plain.pth")
    torch.save({"state_dict": weights, "epoch": 1}, tmp_path / "wrapped.pth")
    for name in ("plain.pth", "wrapped.pth"):
        found = load_checkpoint(tmp_path / name)
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_recboles_checkpoint_is_opened_only_when_trusted(tmp_path: Path) -> None:
    recommender = recbole_checkpoint(tmp_path / "SASRec.pth")
    with pytest.raises(ArtifactError, match=r"trust_pickle=True opens it .* or save torch\.save"):
        load_checkpoint(tmp_path / "SASRec.pth")
    found = load_checkpoint(tmp_path / "SASRec.pth", trust_pickle=True)
    fresh = _recbole.build("SASRec", 9, 4, {"hidden_size": 8, "n_layers": 1}, seed=5)
    fresh.recbole.load_state_dict(found)
    histories = torch.tensor([[1, 2, 3]])
    assert torch.equal(fresh.eval().scores(histories), recommender.eval().scores(histories))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_harmful_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, folder = tmp_path / "bad.pth", tmp_path / "harmed"
    torch.save({"state_dict": Harmful(folder)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ArtifactError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize("content", [{}, {"a": 1}, [torch.ones(1)], {"state_dict": {}}])
def test_files_without_weights_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ArtifactError, match="holds no weights"):
        load_checkpoint(tmp_path / "other.pth")


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        load_checkpoint(tmp_path / "none.pth")
    torch.save({"a": torch.ones(100)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.pth").write_bytes(b"noise" * 50)
    for name in ("cut.pth", "noise.pth"):
        with pytest.raises(ArtifactError, match=f"{name}: damaged"):
            load_checkpoint(tmp_path / name)


def test_a_trusted_file_that_cannot_be_unpickled_is_named(tmp_path: Path) -> None:
    recbole_checkpoint(tmp_path / "a.pth")
    torch.save({"state_dict": Harmful(tmp_path)}, tmp_path / "b.pth")
    with pytest.raises(ArtifactError, match=r"b\.pth: cannot be unpickled: .*File exists"):
        load_checkpoint(tmp_path / "b.pth", trust_pickle=True)
