"""A suite against a run: what is played, what is found, what is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import gro as library
from gro import artifacts
from gro.audit.redteam import redteam
from gro.errors import ConfigError
from gro.metrics import access_advantage, advantage_interval, ndcg
from gro.training import Progress, Quiet
from gro_surrogates.thief import Theft, Thief

Suite = Callable[..., str]
Gro = Any

ALL = ("dunce", "holder", "walker", "walker set")
SEEDS, CALLS, CURVE = 2, 400, (0.25, 0.5)


@pytest.fixture(scope="module")
def played(learnt: Path, suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    """A suite of four thieves, played twice each."""
    run = Path(shutil.copytree(learnt, tmp_path_factory.mktemp("played") / "target"))
    return redteam(run=run, suite=suite(*ALL, curve=str(list(CURVE))), seeds=SEEDS, max_advantage=0.01)


@pytest.fixture
def robbers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes the folder of every theft that is played; the suite may not name a thief who is not here."""
    folders: list[str] = []
    steal = Thief.__call__

    def noted(self: Thief, target: Callable[[Tensor], Tensor], n_items: int, calls: int, seed: int) -> Theft:
        assert self.folder is not None
        folders.append(self.folder.name)
        return steal(self, target, n_items, calls, seed)

    monkeypatch.setattr(Thief, "__call__", noted)
    return folders


def test_every_thief_has_a_row_and_the_worst_comes_first(played: library.Run) -> None:
    rows = played.report["thieves"]
    assert sorted(row["thief"] for row in rows) == ["dunce", "holder", "walker", "walker loss=set"]
    advantages = [row["access_advantage"] for row in rows]
    assert advantages == sorted(advantages, reverse=True)
    assert advantages[0] > advantages[-1] + 0.1
    worst = played.report["worst"]
    assert worst["access_advantage"] == max(advantages)
    assert {key: rows[0][key] for key in worst if key in rows[0]} == {k: v for k, v in worst.items() if k in rows[0]}
    knows = {row["thief"]: (row["knowledge"], row["known"]) for row in rows}
    assert knows == {
        "dunce": ("data-free", 0),
        "walker": ("data-free", 0),
        "holder": ("data-limited", 0.1),
        "walker loss=set": ("adaptive", 0),
    }


def test_figures_are_means_over_the_thefts(played: library.Run) -> None:
    thefts = played.report["run"] + ".thefts"
    of_walker: list[dict[str, Any]] = [
        dict(artifacts.load(Path(thefts) / f"walker-{CALLS}-{seed}").manifest.metrics) for seed in range(SEEDS)
    ]
    (row,) = (row for row in played.report["thieves"] if row["thief"] == "walker")
    assert row["per_seed"] == [metrics["access_advantage"] for metrics in of_walker]
    assert len(set(row["per_seed"])) == SEEDS
    for measure in ("agreement@10", "rbo@10", "calls"):
        assert row[measure] == pytest.approx(sum(metrics[measure] for metrics in of_walker) / SEEDS)
    for row in played.report["thieves"]:
        stolen, floor = (row[who]["ndcg@10"] for who in ("surrogate", "floor"))
        assert row["access_advantage"] == access_advantage(stolen, floor, played.report["target"]["ndcg@10"])
        low, high = row["interval"]
        assert low < row["access_advantage"] < high
    who = ("surrogate", "floor", "target")
    each = [np.array([ndcg(np.array(metrics["places"][name]), 10) for metrics in of_walker]) for name in who]
    (row,) = (row for row in played.report["thieves"] if row["thief"] == "walker")
    assert row["interval"] == pytest.approx(advantage_interval(*(gains.mean(axis=0) for gains in each)))
    assert (played.report["seed"], played.report["seeds"], played.report["n_thieves"]) == (0, SEEDS, 4)


def test_the_worst_case_has_an_interval_of_its_own(played: library.Run) -> None:
    low, high = played.report["worst"]["interval_of_the_worst_case"]
    for row in played.report["thieves"]:
        assert low >= row["interval"][0]
        assert high >= row["interval"][1]


def test_the_curve_is_that_of_the_worst_thief(played: library.Run) -> None:
    worst, curve = played.report["worst"], played.report["curve"]
    assert {point["thief"] for point in curve} == {worst["thief"]}
    assert [point["calls"] for point in curve] == [round(part * CALLS) for part in CURVE] + [CALLS]
    assert curve[-1]["access_advantage"] == worst["access_advantage"]
    assert curve[0]["agreement@10"] < curve[-1]["agreement@10"]
    assert curve[0]["access_advantage"] != curve[1]["access_advantage"]


def test_the_report_is_on_the_disk(played: library.Run) -> None:
    assert played.path.parent == Path(played.report["run"] + ".redteam")
    assert json.loads((played.path / "report.json").read_text()) == json.loads(json.dumps(played.report))
    assert {path.name for path in played.path.iterdir()} >= {"report.json", "report.md", "report.html"}
    poisoning = played.report["worst"]["poisoning"]
    assert 0 <= poisoning["random"] <= poisoning["target"] <= 1
    assert poisoning["target"] > poisoning["random"]


def test_a_second_time_nothing_is_played_again(played: library.Run, suite: Suite, robbers: list[str]) -> None:
    again = redteam(
        run=Path(played.report["run"]), suite=suite(*ALL, curve=str(list(CURVE))), seeds=SEEDS, max_advantage=0.01
    )
    assert robbers == []
    assert again.report == played.report


def test_more_seeds_and_other_budgets_play_what_is_new(run: Path, suite: Suite, robbers: list[str]) -> None:
    card = suite("walker", calls=160)
    redteam(run=run, suite=card, seed=3)
    redteam(run=run, suite=card, seed=3, seeds=2)
    found = redteam(run=run, suite=suite("walker", calls=160, curve="[0.5]"), seed=3, calls=200).report
    assert robbers == ["walker-160-3", "walker-160-4", "walker-200-3", "walker-100-3"]
    assert [row["calls"] for row in found["thieves"]] == [200]
    assert [point["calls"] for point in found["curve"]] == [100, 200]
    assert found["seed"] == 3


def test_an_interrupted_suite_goes_on_at_the_next_theft(
    run: Path, suite: Suite, robbers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    card, noted = suite("dunce", "walker", "walker set", calls=100), Thief.__call__

    def interrupted(self: Thief, *arguments: Any) -> Theft:
        theft = noted(self, *arguments)
        if len(robbers) == 2:
            raise KeyboardInterrupt
        return theft

    monkeypatch.setattr(Thief, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        redteam(run=run, suite=card)
    monkeypatch.setattr(Thief, "__call__", noted)
    redteam(run=run, suite=card)
    names = [name.split("-100-0")[0] for name in robbers]
    assert names == ["dunce", "walker", "walker", "walker"]
    assert robbers[1] == robbers[2] != robbers[3]


def test_thieves_that_ask_alike_share_what_was_answered(run: Path, suite: Suite) -> None:
    redteam(run=run, suite=suite(*ALL, calls=100))
    assert len(list((run.with_name("target.thefts") / "answers").iterdir())) == 2


@pytest.mark.parametrize(
    ("knowledge", "thieves"),
    [
        ("data-free", ["dunce"]),
        ("data-limited", ["dunce", "holder"]),
        ("adaptive", ["dunce", "dunce loss=set", "holder"]),
    ],
)
def test_only_thieves_of_that_knowledge_play(run: Path, suite: Suite, knowledge: str, thieves: list[str]) -> None:
    report = redteam(run=run, suite=suite("dunce", "holder", "dunce set", calls=50), knowledge=knowledge).report
    assert sorted(row["thief"] for row in report["thieves"]) == thieves
    assert report["knowledge"] == knowledge


def test_a_suite_without_such_a_thief_is_refused(run: Path, suite: Suite) -> None:
    with pytest.raises(ConfigError, match="has no thief that is data-free; leave --knowledge out"):
        redteam(run=run, suite=suite("holder", "walker set"), knowledge="data-free")
    assert not run.with_name("target.thefts").exists()


def test_whoever_watches_is_told_of_every_theft(run: Path, suite: Suite) -> None:
    watched: list[tuple[str, int]] = []
    told: list[str] = []

    @contextmanager
    def watch(label: str, epochs: int) -> Iterator[Progress]:
        watched.append((label, epochs))
        yield Quiet()

    redteam(watch, lambda row: told.append(row["thief"]), run=run, suite=suite("walker", "dunce", calls=50), seeds=2)
    assert told == ["walker", "dunce"]
    expected = [("walker", 12), ("walker", 12), ("dunce", 1), ("dunce", 1)]
    assert watched == [(f"{n}, 50 calls, seed {i % 2}", epochs) for i, (n, epochs) in enumerate(expected)]


@pytest.mark.parametrize(("bar", "code", "said"), [(0.01, 1, "missed"), (99, 0, "passed"), (None, 0, "")])
def test_the_exit_code_is_that_of_the_bar(
    played: library.Run, suite: Suite, gro: Gro, bar: float | None, code: int, said: str
) -> None:
    card = suite(*ALL, curve=str(list(CURVE)))
    arguments = ["redteam", played.report["run"], "--suite", card, "--seeds", SEEDS]
    arguments += [] if bar is None else ["--max-advantage", bar]
    answer = gro(*arguments, "--json", "--quiet")
    assert (answer.code, answer.err) == (code, "")
    assert answer.json["passed"] is {"missed": False, "passed": True, "": None}[said]
    assert answer.json["worst"] == json.loads(json.dumps(played.report["worst"]))
    table = gro(*arguments)
    assert table.code == code
    worst = played.report["worst"]
    assert f"worst case: {worst['thief']}, access advantage {100 * worst['access_advantage']:.2f}" in table.out
    assert (f": {said}\n" in table.out) == bool(said)
    for row in played.report["thieves"]:
        assert f"{row['thief']}: access advantage {100 * row['access_advantage']:.2f} %\n" in table.err


def test_a_target_no_better_than_what_the_thief_holds_misses_every_bar(
    data_path: Path, thief_cards: Path, tmp_path: Path, gro: Gro
) -> None:
    size = ("--hidden-size", 8, "--inner-size", 8, "--n-layers", 1, "--n-heads", 1, "--k", 5)
    run, card = tmp_path / "untrained", tmp_path / "suite.toml"
    untrained = (*size, "--learning-rate", 1e-9, "--epochs", 1)
    gro("train", "--dataset", "tiny", "--data-path", data_path, "--out", run, *untrained)
    card.write_text(f'calls = 50\nthieves = [{{ card = "{thief_cards / "holder.toml"}", known = 0.9 }}]')
    answer = gro("redteam", run, "--suite", card, "--max-advantage", 0.5, "--json", "--quiet")
    assert answer.json["worst"]["access_advantage"] is answer.json["worst"]["interval_of_the_worst_case"] is None
    assert (answer.code, answer.json["passed"]) == (1, False)
    assert answer.json["thieves"][0]["floor"]["is"] == "own data"
    written = (Path(answer.json["report"]) / "report.md").read_text()
    assert "access advantage\n- %" in written


def test_the_dataset_is_named_once_however_many_thieves_are_played(run: Path, suite: Suite, gro: Gro) -> None:
    answer = gro("redteam", run, "--suite", suite("walker", "dunce", calls=50), "--seed", 7)
    assert answer.err.count(": access advantage ") == 2
    assert answer.err.count("tiny/tiny.inter") == 1


def test_bad_input_is_one_line_and_exit_code_2(run: Path, gro: Gro) -> None:
    answer = gro("redteam", run, "--suite", "standrad", "--quiet")
    assert answer.code == 2
    assert "Did you mean 'standard'?" in answer.line
    answer = gro("redteam", run, "--suite", "smoke", "--knowledge", "data-fre")
    assert answer.code == 2
    assert "data-fre" in answer.line
