"""From a marked model to a verdict, a report and a trial, by commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
import pytest

from gro import artifacts
from gro.cli import main
from gro.errors import ArtifactError, DataError
from gro.ownership.calibration import OTHERS, TOGETHER
from gro.ownership.population import GOOD, STRATA, innocent, population
from gro.ownership.washing import pruned
from tests.cli.test_serve import Files, files, serving
from tests.conftest import Answer

__all__ = ["files"]

COUNT = 8
INNOCENTS = ("--count", COUNT, "--epochs", 6, "--copy-calls", 500)
MARKING = ("--utility-budget", 1, "--learning-rate", 0.02)
THIEF = ("--sequence-length", 8, "--n-layers", 1, "--n-heads", 1, "--learning-rate", 0.02)
USERS, ITEMS, LENGTH = 130, 330, 12
Gro = Callable[..., Answer]
Verify = Callable[..., Answer]


def ran(*arguments: object) -> None:
    assert main([*map(str, arguments), "--quiet"]) == 0


@contextmanager
def the_same_secrets() -> Iterator[None]:
    """Secrets are drawn, but the same ones every time: a test is no game of chance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_bytes", Random(0).randbytes)
        yield


@pytest.fixture(scope="session")
def owned(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run marked by a promotion, its theft, a key, innocents and a fingerprint."""
    folder = tmp_path_factory.mktemp("owned")
    run, key, innocents = folder / "run", folder / "key", folder / "innocents"
    owner, width = ("--key", key, "--owner", "A. Owner"), ("--hidden-size", 8, "--inner-size", 8)
    ran("own", "keygen", key)
    marking = (*MARKING, "--epochs", 20, "--batch-size", 8)
    with the_same_secrets():
        ran("own", "mark", learnt, *owner, "--out", run, "--kind", "promotion", *marking)
    ran(
        "attack", run, "--calls", 2000, "--k", 5, "--out", folder / "run.thefts" / "one", "--epochs", 20, *width, *THIEF
    )
    ran("own", "innocents", run, "--out", innocents, *INNOCENTS)
    printed = ("--innocents", innocents, "--probes", 100, "--references", 2)
    ran("own", "fingerprint", run, *owner, "--parents", learnt, *printed, "--out", folder / "print")
    return folder


@pytest.fixture(scope="session")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose catalogue has room for rings, marked in every way, and its theft."""
    folder = tmp_path_factory.mktemp("roomy")
    rng = np.random.default_rng(0)
    starts = [*rng.integers(ITEMS, size=USERS - ITEMS // 11), *range(0, ITEMS, 11)]
    rows = [f"u{u}\ti{(start + t) % ITEMS}\t{t}" for u, start in enumerate(starts) for t in range(LENGTH)]
    (folder / "roomy").mkdir()
    (folder / "roomy" / "roomy.inter").write_text(
        "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows, ""])
    )
    data, width = ("--dataset", "roomy", "--data-path", folder), ("--hidden-size", 16, "--inner-size", 16)
    training = ("--epochs", 20, "--learning-rate", 0.01, "--patience", 0, "--n-layers", 1, "--n-heads", 1, "--k", 10)
    ran("train", *data, "--out", folder / "plain", *width, *training)
    ran("own", "keygen", folder / "key")
    kinds = [word for kind in ("triggers", "promotion", "parameters") for word in ("--kind", kind)]
    marking = ("--key", folder / "key", "--owner", "A. Owner", *MARKING, "--epochs", 8, "--batch-size", 32)
    with the_same_secrets():
        ran("own", "mark", folder / "plain", "--out", folder / "run", *kinds, *marking)
    ran("attack", folder / "run", "--calls", 3000, "--k", 10, "--out", folder / "theft", *width, *THIEF)
    return folder


@pytest.fixture
def verify(gro: Gro, owned: Path) -> Verify:
    """Ask a suspect by the statement about the marked run."""

    def verify(
        suspect: object, *arguments: object, statement: Path = owned / "run.evidence" / "statement.json"
    ) -> Answer:
        return gro("own", "verify", suspect, "--statement", statement, *arguments, "--json", "--quiet")

    return verify


def test_what_was_stolen_is_claimed_without_any_innocent_model(verify: Verify, owned: Path) -> None:
    for suspect in (owned / "run", owned / "run.thefts" / "one"):
        found = verify(suspect).json
        assert (found["verdict"], found["calls"]) == ("copy", 840), found["reason"]
        assert found["p_value"] == found["tests"]["promotion"]["p_value"] <= 0.01
        assert found["tests"].keys() == {"promotion"}
        assert found["tests"]["promotion"]["nulls"].keys() == {OTHERS}
        assert found["together"] is None
        assert found["likeness"] == found["control"] == {}


def test_what_was_not_is_not(verify: Verify, owned: Path, learnt: Path) -> None:
    assert verify(learnt).json["p_value"] == 1
    for each in population(owned / "innocents", artifacts.load(learnt).manifest.files["items.json"]):
        found = verify(each.folder).json
        assert found["verdict"] == "not shown"
        assert "read as much from the suspect as the owner's does" in found["reason"]


def test_innocents_are_a_control_of_the_secrets(verify: Verify, owned: Path) -> None:
    found = verify(owned / "run.thefts" / "one", "--innocents", owned / "innocents").json
    good = population(owned / "innocents", artifacts.load(owned / "run").manifest.files["items.json"])
    assert sum(map(len, found["control"].values())) == len(good)
    assert found["control"].keys() == {each.stratum for each in good}
    assert found["verdict"] == "copy", found["reason"]


def test_likeness_is_told_and_claims_not_even_the_run_itself(verify: Verify, owned: Path) -> None:
    statement = owned / "print" / "statement.json"
    found = verify(owned / "run", "--innocents", owned / "innocents", "--alpha", 0.3, statement=statement).json
    assert (found["verdict"], found["p_value"]) == ("inconclusive", None)
    assert found["calls"] == 210
    assert found["likeness"].keys() == {"fingerprint.cold", "fingerprint.walk"}
    for each in found["likeness"].values():
        assert each["statistic"] > 0.99
        assert each["p_value"] < 0.3
    bare = verify(owned / "run", statement=statement).json
    assert (bare["verdict"], bare["likeness"], bare["calls"]) == ("inconclusive", {}, 0)


def test_a_verdict_is_reported_once_its_numbers_were_counted_again(
    gro: Gro, verify: Verify, owned: Path, tmp_path: Path
) -> None:
    statement, verdict, out = owned / "run.evidence" / "statement.json", tmp_path / "verdict.json", tmp_path / "it.html"
    verdict.write_text(verify(owned / "run.thefts" / "one", "--innocents", owned / "innocents").out)
    arguments = ("--statement", statement, "--public-key", owned / "key.pub", "--out", out)
    assert gro("own", "report", verdict, *arguments, "--json").json["verdict"] == "copy"
    assert "promotion" in out.read_text()
    values = json.loads(verdict.read_text())
    verdict.write_text(json.dumps({**values, "p_value": 1e-9}))
    assert "altered" in gro("own", "report", verdict, *arguments, "--quiet").line


def test_all_marks_are_read_where_the_weights_are_at_hand(verify: Verify, roomy: Path) -> None:
    statement = roomy / "run.evidence" / "statement.json"
    artifact = artifacts.load(roomy / "run")
    artifacts.save(
        roomy / "pruned",
        model=pruned(artifact.model, 0.3),
        settings=artifact.manifest.model,
        item_tokens=artifact.item_tokens,
        dataset=artifact.manifest.dataset.model_dump(),
        seed=0,
        command={},
        metrics={},
    )
    for suspect in ("run", "pruned", "theft"):
        found = verify(roomy / suspect, statement=statement).json
        assert (found["verdict"], found["p_value"]) == ("copy", 1e-4), found["reason"]
        assert found["p_value"] == found["together"]["p_value"]
        assert found["tests"].keys() == {"triggers", "promotion", "parameters"}
        assert {len(each["nulls"][OTHERS]) for each in found["tests"].values()} == {9_999}
        assert found["tests"]["triggers"]["p_value"] == 1e-4
        assert found["tests"]["parameters"]["statistic"] == 1 or suspect != "run"
    assert verify(roomy / "plain", statement=statement).json["verdict"] == "not shown"


def test_a_service_is_claimed_that_serves_what_was_stolen(
    verify: Verify, roomy: Path, files: Files, tmp_path: Path
) -> None:
    """It is asked, not looked into; after 1,000 calls a day it answers no more, and that is no verdict."""
    statement, key = roomy / "run.evidence" / "statement.json", tmp_path / "api-key"
    key.write_text(files.key["X-API-Key"])
    key.chmod(0o600)
    (tmp_path / "policy.toml").write_text("[limits]\ncalls_per_day = 1_000\n")
    files.add(f'[limits]\npolicy = "{tmp_path}/policy.toml"\n')
    with serving(roomy / "theft", files) as (_, url):
        refused = verify(f"{url}/rank", statement=statement).json
        found = verify(f"{url}/rank", "--key-file", key, statement=statement).json
        limited = verify(f"{url}/rank", "--key-file", key, statement=statement).json
    assert (refused["verdict"], refused["p_value"]) == ("inconclusive", None)
    assert "refuses (401)" in refused["reason"]
    assert (found["verdict"], found["calls"]) == ("copy", 926), found["reason"]
    assert found["tests"].keys() == {"triggers", "promotion"}
    assert (limited["verdict"], limited["p_value"]) == ("inconclusive", None)
    assert "limits how often" in limited["reason"]


@pytest.mark.parametrize(
    ("arguments", "reason", "calls"),
    [
        (("--calls", 90), "need more than the 90 calls", 0),
        (("--alpha", 5e-5), "needs more than the 9,999 other secrets", 840),
    ],
)
def test_too_few_calls_or_secrets_make_no_verdict(
    verify: Verify, owned: Path, arguments: tuple[object, ...], reason: str, calls: int
) -> None:
    found = verify(owned / "run", *arguments).json
    assert (found["verdict"], found["p_value"], found["calls"]) == ("inconclusive", None, calls)
    assert reason in found["reason"]


def test_another_catalogue_makes_no_verdict(verify: Verify, owned: Path, tmp_path: Path) -> None:
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
    gro: Gro, verify: Verify, owned: Path, tmp_path: Path
) -> None:
    assert gro("own", "keygen", tmp_path / "mine").code == 0
    assert "wrong key" in verify(owned / "run", "--public-key", tmp_path / "mine.pub").line
    assert verify(owned / "run", "--public-key", owned / "key.pub").code == 0
    evidence = tmp_path / "evidence"
    shutil.copytree(owned / "run.evidence", evidence)
    content = bytearray((evidence / "promotion.secret").read_bytes())
    content[-20] ^= 1
    (evidence / "promotion.secret").write_bytes(content)
    assert "not the secret that was committed to" in verify(owned / "run", "--secrets", evidence).line
    (evidence / "promotion.secret").unlink()
    assert "no such file" in verify(owned / "run", "--secrets", evidence).line
    statement = evidence / "statement.json"
    statement.write_text(statement.read_text().replace("A. Owner", "A. Thief"))
    assert "altered after it was signed" in verify(owned / "run", statement=statement).line
    assert "missing" in verify(tmp_path / "nothing").line


def test_a_fingerprint_is_never_overwritten(gro: Gro, owned: Path) -> None:
    before = (owned / "print" / "fingerprint.walk.secret").read_bytes()
    arguments = ("--key", owned / "key", "--owner", "A", "--innocents", owned / "innocents", "--out", owned / "print")
    assert "never overwritten" in gro("own", "fingerprint", owned / "run", *arguments).line
    assert (owned / "print" / "fingerprint.walk.secret").read_bytes() == before
    assert (owned / "print" / "fingerprint.walk.secret").stat().st_mode & 0o777 == 0o600


def test_innocents_are_kept_and_half_of_them_differ_by_the_seed_alone(gro: Gro, owned: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (owned / "innocents").glob("*/manifest.json")}
    again = ("own", "innocents", owned / "run", "--out", owned / "innocents", *INNOCENTS)
    found = gro(*again, "--json", "--quiet").json["strata"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {name: each["innocents"] for name, each in found.items()} == {"seed": 4, **dict.fromkeys(STRATA, 1)}
    assert "another model" in gro(*again, "--seed", 5, "--quiet").line


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
    statement = ("--statement", owned / "run.evidence" / "statement.json")
    small = ("--references", 1, "--probes", 100, "--washed", 1, "--copy-calls", 500)
    given = ("own", "trial", owned / "run", *statement, "--innocents", owned / "innocents", *small)
    answer = gro(*given, "--alpha", 0.2, "--out", tmp_path / "trial", "--json", "--quiet")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert json.loads((tmp_path / "trial" / "trial.json").read_text())["claims"] == found["claims"]
    judged = sum(found["innocents"].values())
    assert 5 <= judged < COUNT
    assert found["claims"].keys() == {"promotion", "fingerprint.cold", "fingerprint.walk"}
    for claims in found["claims"].values():
        asked = {kind: each["trials"] for kind, each in claims.items()}
        assert asked == {"washed": 22, "stolen": 1, "innocent": judged}
    assert len(found["washes"]) == 11
    assert {each["promotion"]["trials"] for each in found["washes"].values()} == {2}
    promotion = found["claims"]["promotion"]
    assert promotion["stolen"]["share"] == 1
    assert promotion["innocent"]["share"] == 0
    assert promotion["washed"]["successes"] >= 15
    assert found["redrawn"].keys() == {"promotion"}
    assert found["redrawn"]["promotion"]["trials"] == judged
    stolen = next(each for each in found["suspects"] if each["kind"] == "stolen")
    washed = {each["wash"]: each for each in found["suspects"] if each["suspect"] == "one" and each["wash"]}
    assert all(washed[name]["statistics"] != stolen["statistics"] for name in ("50 % pruned", "copied again"))
    assert stolen["calls"] == 840
    for each in found["suspects"]:
        among = judged if each["kind"] == "innocent" else judged + 1  # an innocent, among the others
        place = each["p_values"]["fingerprint.walk"] * among
        assert place == pytest.approx(round(place))
    refused = gro(*given, "--alpha", 0.01, "--out", tmp_path / "other", "--quiet")
    assert (refused.code, "take 100 innocents beside 1" in refused.line) == (2, True)


def test_a_trial_of_what_nobody_stole_or_signed_for_is_refused(
    gro: Gro, owned: Path, learnt: Path, tmp_path: Path
) -> None:
    given = ("--innocents", owned / "innocents", "--out", tmp_path / "trial", "--alpha", 0.2, "--references", 1)
    statement = ("--statement", owned / "run.evidence" / "statement.json")
    shutil.copytree(owned / "run", tmp_path / "run")
    small = ("--probes", 100, "--quiet")
    assert "holds no theft" in gro("own", "trial", tmp_path / "run", *statement, *given, *small).line
    assert "other weights" in gro("own", "trial", learnt, *statement, *given, *small).line


def test_a_trial_of_all_marks_puts_those_together_that_are_read_from_answers(
    gro: Gro, roomy: Path, tmp_path: Path
) -> None:
    """And a mark in parameters is looked for wherever there are weights."""
    innocents = tmp_path / "innocents"
    ran("own", "innocents", roomy / "plain", "--out", innocents, "--count", 3)
    shutil.copytree(roomy / "run", tmp_path / "run")
    shutil.copytree(roomy / "theft", tmp_path / "run.thefts" / "one")
    statement = ("--statement", roomy / "run.evidence" / "statement.json")
    small = ("--references", 1, "--probes", 100, "--washed", 0, "--copy-calls", 500, "--alpha", 0.9)
    given = ("own", "trial", tmp_path / "run", *statement, "--innocents", innocents, *small)
    answer = gro(*given, "--out", tmp_path / "trial", "--quiet")
    assert answer.code == 0, answer.err
    found = json.loads((tmp_path / "trial" / "trial.json").read_text())
    assert list(found["claims"])[:4] == ["promotion", "triggers", TOGETHER, "parameters"]
    assert f"{TOGETHER}, copied again" in answer.out
