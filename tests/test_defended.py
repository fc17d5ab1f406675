"""Defended targets from end to end: what is measured is what is served, to everyone who reads the folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import gro
from gro.artifacts import load
from gro.defenses.cards import names
from gro.errors import ArtifactError
from gro.models import StateRecommender

K = 20
SHORT = {"warm_up_epochs": 0, "protect_epochs": 1}
THIEF: dict[str, Any] = {"thief": "random", "calls": 360, "sequence_length": 3, "epochs": 1, "hidden_size": 8}
IN_ANOTHER_PROCESS = """
import json, sys
import gro
for run in sys.argv[2:]:
    gro.attack(run=run, **json.loads(sys.argv[1]))
"""

Protect = Callable[..., gro.Run]
Served = dict[tuple[int, ...], list[tuple[int, ...]]]
"""The lists that each history was answered by, in the order in which they came."""


@pytest.fixture(scope="session")
def protect(learnt: Path, data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Protect:
    """Put a defence on the plain target; without ``out`` each is made once."""
    folder, made = tmp_path_factory.mktemp("defended"), dict[str, gro.Run]()

    def run(defence: str, out: Path | None = None, **settings: Any) -> gro.Run:
        if out is None and defence in made:
            return made[defence]
        switches: dict[str, Any] = SHORT if defence.startswith("gro") else {}
        where: dict[str, Any] = {
            "dataset": "tiny",
            "data_path": data_path,
            "from_": learnt,
            "out": out or folder / defence,
        }
        found = gro.protect(**where, **switches, k=K, defence=defence, **settings)
        return made.setdefault(defence, found) if out is None else found

    return run


def manifest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return found


def copy(run: gro.Run, to: Path) -> Path:
    return Path(shutil.copytree(run.path, to))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def recordings(run: Path) -> list[Path]:
    return sorted(run.with_name(f"{run.name}.thefts").glob("answers/*/000000.safetensors"))


def served(run: Path) -> Served:
    """What a run answered to the one thief that asked it."""
    (recording,) = recordings(run)
    answers, found = load_file(recording), defaultdict(list)
    for history, lists in zip(answers["histories"].tolist(), answers["lists"].tolist(), strict=True):
        for end, answer in enumerate(lists, start=1):
            found[tuple(history[:end])].append(tuple(answer))
    return found


def robbed(run: Path, **changes: Any) -> Served:
    gro.attack(run=run, **THIEF, **changes)
    return served(run)


def top(model: StateRecommender, histories: list[tuple[int, ...]], k: int) -> list[tuple[int, ...]]:
    """The true lists of histories of any lengths."""
    with torch.inference_mode():
        scores = torch.cat([model.scores(torch.tensor([history])) for history in histories])
    return [tuple(row) for row in (scores.topk(k).indices + 1).tolist()]


@pytest.mark.parametrize("defence", sorted({*names()} - {"gated"}))  # takes longer histories: optimizer/test_staged.py
def test_what_was_measured_is_what_is_served_when_the_folder_is_read_again(defence: str, protect: Protect) -> None:
    run = protect(defence)
    report, exposed = run.report, 10 if "truncate" in defence else K
    assert (report["defence"], report["k"], report["exposed"]) == (defence, K, exposed)
    assert list(report["utility_loss_at"]) == [str(cutoff) for cutoff in (1, 5, 10, 20) if cutoff <= exposed]
    assert report["utility_loss"] == report["utility_loss_at"]["10"]
    assert report["utility_loss"] == pytest.approx(1 - report["target"]["ndcg@10"] / report["plain"]["ndcg@10"])
    again = gro.evaluate(run=run.path).report
    assert again["k"] == exposed
    assert {key: again["target"][key] for key in report["target"]} == report["target"]


@pytest.mark.parametrize("defence", ["gaussian-noise", "reverse", "truncate-shuffle", "misinformation-truncate"])
def test_behind_a_defence_that_trains_nothing_is_the_plain_model(defence: str, protect: Protect, learnt: Path) -> None:
    run = protect(defence)
    assert torch.equal(weights(run.model), weights(load(learnt).model))
    assert run.report["plain"] == manifest(learnt)["metrics"]["target"]
    assert manifest(learnt)["defence"] is None
    card, travelling = manifest(run.path)["settings"]["defence_card"], manifest(run.path)["defence"]
    assert [part["kind"] for part in travelling["serving"]] == [part["kind"] for part in card["serving"]]
    assert (card["secret"], len(bytes.fromhex(travelling["secret"]))) == (None, 32)


def test_the_secret_is_the_card_s_or_comes_of_the_interactions_and_the_seed(protect: Protect, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('secret = "c0ffee"\nserving = [{ kind = "reverse" }]\n')
    settings: dict[str, Any] = {"a": {"seed": 0}, "b": {"seed": 1}, "c": {"seed": 0, "defence": str(own)}}
    runs = [protect(out=tmp_path / out, **{"defence": "reverse", **given}) for out, given in settings.items()]
    first, other, given = (manifest(run.path)["defence"]["secret"] for run in runs)
    assert first == manifest(protect("truncate-10").path)["defence"]["secret"] != other
    assert given == "c0ffee"


@pytest.fixture(scope="module")
def copies(protect: Protect, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Copies of defended runs that another process has robbed."""
    folder = tmp_path_factory.mktemp("copies")
    defences = ("truncate-shuffle", "ensemble", "redirection-replace", "misinformation-truncate")
    found = {defence: copy(protect(defence), folder / defence) for defence in defences}
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, json.dumps(THIEF), *map(str, found.values())]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return found


@pytest.mark.parametrize("defence", ["truncate-shuffle", "ensemble", "redirection-replace", "misinformation-truncate"])
def test_another_process_serves_the_same_lists(
    defence: str, protect: Protect, copies: Mapping[str, Path], tmp_path: Path
) -> None:
    here = robbed(copy(protect(defence), tmp_path / "here"))
    assert served(copies[defence]) == here
    assert len({lists[0] for lists in here.values()}) > 20


def test_each_history_of_an_ensemble_is_answered_by_one_of_its_members(copies: Mapping[str, Path]) -> None:
    artifact, answers = load(copies["ensemble"]), served(copies["ensemble"])
    histories = list(answers)
    true = np.array([top(model, histories, K) for model in (artifact.model, *artifact.others)])
    matches = (true == np.array([answers[history][0] for history in histories])).mean(axis=2)
    member = matches.argmax(axis=0)
    assert np.sort(matches, axis=0)[-1].min() > 0.8
    assert np.sort(matches, axis=0)[-2].mean() < 0.5
    assert set(member) == {0, 1, 2}
    last = np.array([history[-1] for history in histories])
    assert all(len(set(member[last == item])) == 1 for item in set(last))


def test_the_implausible_is_answered_under_false_names_wherever_the_folder_is(copies: Mapping[str, Path]) -> None:
    artifact, answers = load(copies["misinformation-truncate"]), served(copies["misinformation-truncate"])
    assert manifest(artifact.folder)["defence"]["serving"][0]["threshold"] < 0
    pairs = list(zip(top(artifact.model, list(answers), 10), (lists[0] for lists in answers.values()), strict=True))
    alone = [pair for history, pair in zip(answers, pairs, strict=True) if len(history) == 1]
    assert all(true == given for true, given in alone)
    misled = [(true, given) for true, given in pairs if true != given]
    assert len(misled) > len(pairs) / 3
    false_name = dict(pair for true, given in misled for pair in zip(true, given, strict=True))
    wrong = [(true, given) for true, given in misled if tuple(false_name[item] for item in true) != given]
    assert len(wrong) < len(misled) / 20
    assert len(set(false_name.values())) == len(false_name)


@pytest.mark.parametrize(
    ("defence", "alike"), [("gaussian-noise-per-history", True), ("gaussian-noise", False), ("shuffle", False)]
)
def test_asking_again_gains_nothing_where_the_noise_is_the_history_s(
    defence: str, alike: bool, protect: Protect, tmp_path: Path
) -> None:
    repeated = [lists for lists in robbed(copy(protect(defence), tmp_path / "run")).values() if len(lists) > 1]
    assert len(repeated) > 20
    assert all(len(set(lists)) == 1 for lists in repeated) is alike


@pytest.mark.parametrize("defence", ["gaussian-noise", "misinformation-truncate"])
def test_a_seed_is_a_theft_of_what_the_defence_exposes(defence: str, protect: Protect, tmp_path: Path) -> None:
    run = protect(defence)
    settings = {**THIEF, "epochs": 3, "batch_size": 4}
    first, again = (gro.attack(run=copy(run, tmp_path / name), **settings) for name in "ab")
    assert (first.report, first.places) == (again.report, again.places)
    assert torch.equal(weights(first.model), weights(again.model))
    reused = gro.attack(run=tmp_path / "b", **settings, out=tmp_path / "from-recorded-answers")
    assert (reused.report, reused.places) == (again.report, again.places)
    assert first.report["k"] == run.report["exposed"]
    assert first.report["target"] == run.report["target"]
    assert {len(answer) for lists in served(tmp_path / "a").values() for answer in lists} == {run.report["exposed"]}


def test_two_defences_of_one_target_share_no_answers_though_they_lie_at_one_place(
    protect: Protect, tmp_path: Path
) -> None:
    run, found = tmp_path / "run", []
    for defence in ("shuffle", "reverse"):
        protect(defence, run)
        theft = gro.attack(run=run, **THIEF, out=tmp_path / f"theft-{defence}")
        found.append(theft.report["target"]["ndcg@10"])
        shutil.rmtree(run)
    assert len(recordings(run)) == 2
    one, other = (load_file(recording)["lists"] for recording in recordings(run))
    assert not torch.equal(one, other)
    assert found[0] != found[1]
    protect("shuffle", run)
    with pytest.raises(ArtifactError, match="holds a run with behind = "):
        gro.attack(run=run, **THIEF, out=tmp_path / "theft-reverse")


def test_a_finished_run_is_returned_and_another_defence_overwrites_nothing(protect: Protect, tmp_path: Path) -> None:
    own, out = tmp_path / "own.toml", tmp_path / "run"
    own.write_text('serving = [{ kind = "truncate", k = 10 }]\n')
    first = protect(str(own), out)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert protect(str(own), out) == first
    with pytest.raises(ArtifactError, match=r"holds a run with defence = '.*own.toml', not 'reverse'"):
        protect("reverse", out)
    own.write_text('serving = [{ kind = "truncate", k = 12 }]\n')
    with pytest.raises(ArtifactError, match="holds a run with defence_card = "):
        protect(str(own), out)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before
