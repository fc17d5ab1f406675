"""From independent models to a verdict, by commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gro import artifacts
from gro.cli import main
from gro.errors import ArtifactError, DataError
from gro.ownership.population import GOOD, innocent, population
from tests.cli.test_serve import Files, files, serving
from tests.conftest import Answer

__all__ = ["files"]

COUNT = 16
SMALL = (
    "--sequence-length",
    8,
    "--hidden-size",
    8,
    "--inner-size",
    8,
    "--n-layers",
    1,
    "--n-heads",
    1,
    "--learning-rate",
    0.02,
)
Gro = Callable[..., Answer]


@pytest.fixture(scope="session")
def owned(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the owner's run, innocents, a key and a fingerprint."""
    folder = tmp_path_factory.mktemp("owned")
    shutil.copytree(learnt, folder / "run")
    run, innocents, key = folder / "run", folder / "innocents", folder / "key"
    for arguments in (
        ["own", "keygen", key],
        ["attack", run, "--calls", 900, "--k", 5, "--out", folder / "theft", "--epochs", 20, *SMALL],
        ["own", "innocents", run, "--out", innocents, "--count", COUNT, "--epochs", 6],
        ["own", "fingerprint", run, "--key", key, "--owner", "A. Owner", "--innocents", innocents, "--out",
         folder / "print", "--probes", 100, "--references", 4],
    ):  # fmt: skip
        assert main([str(each) for each in (*arguments, "--quiet")]) == 0
    return folder


@pytest.fixture
def verify(gro: Gro, owned: Path) -> Callable[..., Answer]:
    def verify(suspect: object, *arguments: object, innocents: Path = owned / "innocents") -> Answer:
        statement = owned / "print" / "statement.json"
        given = ("--statement", statement, "--innocents", innocents, *arguments)
        return gro("own", "verify", suspect, *given, "--json", "--quiet")

    return verify


def test_what_was_stolen_is_claimed(verify: Callable[..., Answer], owned: Path) -> None:
    for suspect in (owned / "run", owned / "theft"):
        found = verify(suspect, "--alpha", "0.2").json
        assert found["verdict"] == "copy", found["reason"]
        assert found["p_value"] <= 0.2
        assert found["calls"] == 210
        assert found["together"]["effect"] > 1


def test_a_verdict_is_reported_once_its_numbers_were_counted_again(
    gro: Gro, verify: Callable[..., Answer], owned: Path, tmp_path: Path
) -> None:
    (tmp_path / "verdict.json").write_text(verify(owned / "theft", "--alpha", "0.2").out)
    arguments = ("--statement", owned / "print" / "statement.json", "--out", tmp_path / "report.html", "--json")
    assert gro("own", "report", tmp_path / "verdict.json", *arguments).json["verdict"] == "copy"
    assert "fingerprint.cold" in (tmp_path / "report.html").read_text()


def test_a_service_is_claimed_that_serves_what_was_stolen(
    verify: Callable[..., Answer], owned: Path, files: Files, tmp_path: Path
) -> None:
    (tmp_path / "api-key").write_text(files.key["X-API-Key"])
    (tmp_path / "api-key").chmod(0o600)
    (tmp_path / "policy.toml").write_text("[limits]\ncalls_per_day = 1_000\n")
    files.add(f'[limits]\npolicy = "{tmp_path}/policy.toml"\n')
    with serving(owned / "theft", files) as (_, url):
        found = verify(f"{url}/rank", "--alpha", "0.2", "--k", 5, "--key-file", tmp_path / "api-key").json
        refused = verify(f"{url}/rank", "--k", 5).json
    assert (found["verdict"], found["calls"]) == ("copy", 210), found["reason"]
    assert (refused["verdict"], refused["p_value"]) == ("inconclusive", None)
    assert "refuses (401)" in refused["reason"]


def test_innocents_are_rarely_claimed(verify: Callable[..., Answer], owned: Path, tmp_path: Path) -> None:
    """Each by the others, those that chose the histories aside."""
    shutil.copytree(owned / "innocents", tmp_path / "others")
    claimed = []
    used = json.loads((owned / "print" / "fingerprint.walk.secret").read_bytes()[32:])["references"]
    for each in population(owned / "innocents", artifacts.load(owned / "run").manifest.files["items.json"], used):
        aside = shutil.move(tmp_path / "others" / each.folder.name, tmp_path / "suspect")
        claimed.append(verify(aside, "--alpha", "0.25", innocents=tmp_path / "others").json["verdict"] == "copy")
        shutil.move(aside, tmp_path / "others" / each.folder.name)
    assert len(claimed) >= 8
    assert np.mean(claimed) <= 0.25


def test_too_few_innocents_make_no_verdict(verify: Callable[..., Answer], owned: Path) -> None:
    found = verify(owned / "run").json
    assert found["verdict"] == "inconclusive"
    assert "needs 99 innocents" in found["reason"]
    assert found["p_value"] is None


def test_too_few_calls_make_no_verdict(verify: Callable[..., Answer], owned: Path) -> None:
    found = verify(owned / "run", "--calls", "90").json
    assert (found["verdict"], found["calls"]) == ("inconclusive", 0)


def test_another_catalogue_makes_no_verdict(verify: Callable[..., Answer], owned: Path, tmp_path: Path) -> None:
    artifact = artifacts.load(owned / "run")
    artifacts.save(
        tmp_path / "other",
        model=artifact.model,
        settings=artifact.manifest.model,
        item_tokens=artifact.item_tokens[[0, *range(len(artifact.item_tokens) - 1, 0, -1)]],
        dataset=artifact.manifest.dataset.model_dump(),
        seed=0,
        command={},
        metrics={},
    )
    found = verify(tmp_path / "other").json
    assert found["verdict"] == "inconclusive"
    assert "catalogue" in found["reason"]


def test_another_key_an_altered_secret_and_an_altered_statement_are_refused(
    gro: Gro, verify: Callable[..., Answer], owned: Path, tmp_path: Path
) -> None:
    assert gro("own", "keygen", tmp_path / "mine").code == 0
    assert "wrong key" in verify(owned / "run", "--public-key", tmp_path / "mine.pub").line
    assert verify(owned / "run", "--alpha", "0.2", "--public-key", owned / "key.pub").code == 0
    secrets = tmp_path / "secrets"
    shutil.copytree(owned / "print", secrets)
    content = bytearray((secrets / "fingerprint.walk.secret").read_bytes())
    content[-20] ^= 1
    (secrets / "fingerprint.walk.secret").write_bytes(content)
    assert "not the secret that was committed to" in verify(owned / "run", "--secrets", secrets).line
    assert "missing" in verify(tmp_path / "nothing").line


def test_a_fingerprint_is_never_overwritten(gro: Gro, owned: Path) -> None:
    before = (owned / "print" / "fingerprint.walk.secret").read_bytes()
    arguments = ("--key", owned / "key", "--owner", "A", "--innocents", owned / "innocents", "--out", owned / "print")
    assert "never overwritten" in gro("own", "fingerprint", owned / "run", *arguments).line
    assert (owned / "print" / "fingerprint.walk.secret").read_bytes() == before
    assert (owned / "print" / "fingerprint.walk.secret").stat().st_mode & 0o777 == 0o600


def test_innocents_are_kept_and_half_of_them_differ_by_the_seed_alone(gro: Gro, owned: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (owned / "innocents").glob("*/manifest.json")}
    arguments = ("--out", owned / "innocents", "--count", COUNT)
    found = gro("own", "innocents", owned / "run", *arguments, "--epochs", "6", "--json", "--quiet").json["strata"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {name: each["innocents"] for name, each in found.items()} == {
        "seed": 8, "users": 3, "architecture": 3, "settings": 2,
    }  # fmt: skip
    assert "another model" in gro("own", "innocents", owned / "run", *arguments, "--epochs", "5", "--quiet").line


def test_a_bad_model_is_no_innocent_to_compare_with(owned: Path, tmp_path: Path) -> None:
    catalogue = artifacts.load(owned / "run").manifest.files["items.json"]
    every = [innocent(path.parent) for path in (owned / "innocents").glob("*/manifest.json")]
    good = population(owned / "innocents", catalogue)
    assert {each.digest for each in good} == {each.digest for each in every if each.quality >= GOOD}
    assert good[0].digest not in {each.digest for each in population(owned / "innocents", catalogue, {good[0].digest})}
    with pytest.raises(DataError, match="holds no innocent"):
        population(tmp_path, catalogue)
    with pytest.raises(DataError, match="another catalogue"):
        population(owned / "innocents", "0" * 64)
    with pytest.raises(ArtifactError, match="not an innocent"):
        innocent(owned / "run")


def test_a_trial_counts_claims_against_copies_washed_ones_and_innocents(gro: Gro, owned: Path, tmp_path: Path) -> None:
    shutil.copytree(owned / "run", tmp_path / "run")
    shutil.copytree(owned / "theft", tmp_path / "run.thefts" / "one")
    given = ("--innocents", owned / "innocents", "--out", tmp_path / "trial", "--references", 4, "--probes", 100)
    answer = gro("own", "trial", tmp_path / "run", *given, "--alpha", 0.3, "--washed", 1, "--json", "--quiet")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert json.loads((tmp_path / "trial" / "trial.json").read_text())["claims"] == found["claims"]
    assert sum(found["innocents"].values()) <= COUNT - 4
    for claims in found["claims"].values():
        asked = {kind: each["trials"] for kind, each in claims.items()}
        assert asked == {"stolen": 1, "washed": 5, "innocent": sum(found["innocents"].values())}
    stolen = next(each for each in found["suspects"] if each["kind"] == "stolen")
    pruned = next(each for each in found["suspects"] if each["suspect"] == "one, 50 % pruned")
    assert stolen["statistics"] != pruned["statistics"]
    assert stolen["calls"] <= 2_000
    refused = gro("own", "trial", tmp_path / "run", *given, "--alpha", 0.01, "--quiet")
    assert (refused.code, "take 99 innocents of the nearest kind" in refused.line) == (2, True)
    shutil.rmtree(tmp_path / "run.thefts")
    refused = gro("own", "trial", tmp_path / "run", *given, "--alpha", 0.3, "--quiet")
    assert "holds no theft" in refused.line
