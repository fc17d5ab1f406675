"""The frontier: a row for every thief of every defence, made once, and everything wrong refused before that."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import gro as library
from gro.errors import ArtifactError, ConfigError
from gro.experiments.run import load

Gro = Any
Row = Mapping[str, Any]

THIEF = "hidden_size = 8\ninner_size = 8\nn_layers = 1\nn_heads = 1\nsequence_length = 5\nepochs = 3\nbatch_size = 4\n"
TOLD = {"date", "machine"}


class StoppedError(Exception):
    pass


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A suite of two thieves who make 100 calls each."""
    folder = tmp_path_factory.mktemp("suite")
    for name in ("random", "autoregressive"):
        (folder / f"{name}-walk.toml").write_text(f'queries = "{name}"\n{THIEF}')
    thieves = [str(folder / f"{name}-walk.toml") for name in ("random", "autoregressive")]
    (folder / "two.toml").write_text(f"calls = 100\nthieves = {thieves}\n")
    return str(folder / "two.toml")


@pytest.fixture
def target(learnt: Path, tmp_path: Path) -> Path:
    """A plain target that nobody has robbed yet."""
    return Path(shutil.copytree(learnt, tmp_path / "plain"))


@pytest.fixture(scope="session")
def unbroken(learnt: Path, suite: str, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rows of a frontier that nothing interrupts."""
    run = Path(shutil.copytree(learnt, tmp_path_factory.mktemp("unbroken") / "plain"))
    return rows(library.frontier(**command(run, suite)).report)


def command(run: Path, suite: str, *defences: str, **changes: Any) -> dict[str, Any]:
    chosen = defences or ("truncate-10", "shuffle")
    return {"run": run, "defence": chosen, "suite": suite, "k": 20, **changes}


def rows(found: Mapping[str, Any]) -> list[Row]:
    """The rows of a result, without when and where they were made."""
    return [{key: value for key, value in row.items() if key not in TOLD} for row in found["rows"]]


def files(folder: Path) -> dict[Path, int]:
    """When each file below a folder was written, but for the results and what is drawn of them."""
    return {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "frontier" not in path.name
    }


def test_every_thief_meets_every_target_at_the_length_that_it_exposes(unbroken: list[Row]) -> None:
    thieves = ("random-walk", "autoregressive-walk")
    found = [(row["target"], row["thief"], row["exposed"]) for row in unbroken]
    assert found == [
        (t, thief, k) for t, k in (("plain", 20), ("truncate-10", 10), ("shuffle", 20)) for thief in thieves
    ]
    assert {(row["k"], row["calls"], row["calls_made"], row["seed"]) for row in unbroken} == {(20, 100, 100, 0)}
    assert [row["utility_loss"] for row in unbroken[:4]] == [0] * 4
    assert all(row["utility_loss"] > 0.2 for row in unbroken[4:])
    assert len({row["surrogate"]["ndcg@20"] for row in unbroken}) > 3


def test_the_command_writes_results_a_table_and_pictures(
    gro: Gro, target: Path, suite: str, unbroken: list[Row]
) -> None:
    arguments = ("frontier", target, "--defence", "truncate-10", "--defence", "shuffle", "--suite", suite, "--k", 20)
    answer = gro(*arguments, "--json", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    out = target.with_name("plain.frontier")
    assert answer.json["results"] == str(out / "frontier.json")
    assert rows(load(out / "frontier.json")) == unbroken
    lines = Path(answer.json["table"]).read_text().splitlines()
    for name, exposed in (("plain", 20), ("truncate-10", 10), ("shuffle", 20)):
        assert any(line.startswith(f"| {name} | 1 | {exposed} |") for line in lines)
    assert sorted(path.name for path in out.glob("*.svg")) == ["frontier-advantage.svg", "frontier-frontier.svg"]
    assert all("truncate-10" in Path(picture).read_text() for picture in answer.json["plots"])
    told = gro(*arguments)
    assert told.out.split() == ["written", *(answer.json[key] for key in ("results", "table")), *answer.json["plots"]]
    assert "advantage" not in told.err


def test_a_second_run_makes_nothing(target: Path, suite: str) -> None:
    told: list[Row] = []
    results = library.frontier(told.append, **command(target, suite)).path / "frontier.json"
    before, found = files(target.parent), rows(load(results))
    assert len(told) == len(found) == 6
    assert len(before) > 20
    library.frontier(told.append, **command(target, suite))
    assert (files(target.parent), rows(load(results)), len(told)) == (before, found, 6)
    results.unlink()
    library.frontier(told.append, **command(target, suite))
    assert (files(target.parent), rows(load(results)), len(told)) == (before, found, 12)


@pytest.mark.parametrize("made", [1, 3, 4])
def test_what_was_interrupted_goes_on_and_ends_in_the_same_rows(
    target: Path, suite: str, made: int, unbroken: list[Row]
) -> None:
    told: list[Row] = []

    def stop(row: Row) -> None:
        told.append(row)
        if len(told) == made:
            raise StoppedError

    with pytest.raises(StoppedError):
        library.frontier(stop, **command(target, suite))
    assert rows(load(target.with_name("plain.frontier") / "frontier.json")) == unbroken[:made]
    before = files(target.parent)
    assert rows(library.frontier(told.append, **command(target, suite)).report) == unbroken
    assert len(told) == 6
    assert before.items() <= files(target.parent).items()


@pytest.mark.parametrize(("k", "exposed"), [(None, 5), (12, 12)])
def test_k_is_that_of_the_plain_target_too(target: Path, suite: str, k: int | None, exposed: int) -> None:
    found = rows(library.frontier(**command(target, suite, "reverse", k=k)).report)
    assert {(row["target"], row["k"], row["exposed"]) for row in found} == {
        ("plain", exposed, exposed),
        ("reverse", exposed, exposed),
    }


@pytest.mark.parametrize(
    ("defences", "changes", "said"),
    [
        (("reverse", "shufle"), {}, "no defence 'shufle'. Did you mean 'shuffle'"),
        (("reverse", "no-such.toml"), {}, "no-such.toml: no such file"),
        (("reverse", "reverse"), {}, "two defences are called alike"),
        (("a/mine.toml", "b/mine.toml"), {}, "two defences are called alike"),
        (("plain.toml",), {}, "or one 'plain'"),
        (("reverse",), {"k": 41}, "k is 41; the catalogue of tiny has 40 items"),
        (("reverse", "truncate-10"), {"k": None}, "defence 'truncate-10': truncate to 10: only 5 items are left"),
        (("reverse",), {"suite": "smok"}, "Did you mean 'smoke'"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_made(
    target: Path, suite: str, defences: tuple[str, ...], changes: dict[str, Any], said: str
) -> None:
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(ConfigError, match=said) as found:
        library.frontier(**command(target, changes.get("suite", suite), *defences, k=changes.get("k", 20)))
    assert "\n" not in str(found.value)
    assert sorted(target.parent.rglob("*")) == before


def test_what_cannot_be_trained_is_refused_before_anything_is_made(data_path: Path, tmp_path: Path, suite: str) -> None:
    small: dict[str, Any] = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "epochs": 1, "k": 5}
    run = library.train(dataset="tiny", data_path=data_path, model="NARM", **small, out=tmp_path / "narm").path
    with pytest.raises(ConfigError, match="defence 'dp': NARM cannot be trained with differential privacy"):
        library.frontier(**command(run, suite, "reverse", "dp", k=None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["narm"]


def test_a_run_that_has_a_defence_is_refused(gro: Gro, data_path: Path, target: Path, suite: str) -> None:
    defended = target.with_name("defended")
    where: dict[str, Any] = {"dataset": "tiny", "data_path": data_path, "from_": target, "out": defended}
    library.protect(**where, k=20, defence="reverse")
    answer = gro("frontier", defended, "--defence", "shuffle", "--suite", suite)
    assert (answer.code, answer.line) == (
        2,
        f"gro: {defended}: has a defence already; give the plain target that it was made from",
    )
    assert sorted(path.name for path in target.parent.iterdir()) == ["defended", "plain"]


def test_a_run_that_is_missing_is_refused(tmp_path: Path, suite: str) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        library.frontier(**command(tmp_path / "nowhere", suite))


@pytest.mark.parametrize("arguments", [(), ("--defence", "shufle"), ("--defence", "reverse", "--k", "0")])
def test_bad_input_on_the_command_line_is_one_line(
    gro: Gro, target: Path, suite: str, arguments: tuple[str, ...]
) -> None:
    answer = gro("frontier", target, "--suite", suite, *arguments)
    assert (answer.code, bool(answer.line)) == (2, True)
    assert sorted(path.name for path in target.parent.iterdir()) == ["plain"]
