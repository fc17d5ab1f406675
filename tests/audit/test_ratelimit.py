"""Thieves under a policy: what is played, what is found between the thefts, what is said."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import gro as library
from gro.audit import ratelimit_report
from gro.audit.budget import Budget
from gro.audit.ladder import Curve, ladder
from gro.audit.ratelimit import ratelimit
from gro.errors import ConfigError
from gro.metrics import access_advantage
from gro.policy import Assumptions
from gro.training import Progress, Quiet
from gro_surrogates.thief import Theft, Thief

Write = Callable[..., str]
Gro = Any

LIMITS = "[limits]\ncalls_per_day = {}\nlist_entries_per_day = 50\n"
ASSUMED = "[thief]\naccounts = 10\ndays = {}\naccount_cost = 2.0\ncaught_per_day = {}\nnew_accounts = true\n"
K = 5


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Write a policy: 10 accounts, whose lists of 5 entries make 10 calls a day."""
    folder = tmp_path_factory.mktemp("policies")

    def write(name: str = "mine", days: int = 4, risk: float = 0.1, calls_per_day: int = 99) -> str:
        path = folder / f"{name}.toml"
        path.write_text(LIMITS.format(calls_per_day) + ASSUMED.format(days, risk))
        return str(path)

    return write


@pytest.fixture(scope="module")
def thieves(thief_cards: Path) -> tuple[str, ...]:
    return tuple(str(thief_cards / f"{name}.toml") for name in ("dunce", "walker"))


@pytest.fixture(scope="module")
def found(learnt: Path, policy: Write, thieves: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two thieves, played under a policy of 400 calls."""
    run = Path(shutil.copytree(learnt, tmp_path_factory.mktemp("limited") / "target"))
    return ratelimit(run=run, policy=policy(), thief=thieves)


@pytest.fixture
def robbers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes the folder of every theft that is played."""
    folders: list[str] = []
    steal = Thief.__call__

    def noted(self: Thief, target: Callable[[Tensor], Tensor], n_items: int, calls: int, seed: int) -> Theft:
        assert self.folder is not None
        folders.append(self.folder.name)
        return steal(self, target, n_items, calls, seed)

    monkeypatch.setattr(Thief, "__call__", noted)
    return folders


def test_the_ladder_is_round_and_ends_where_it_must() -> None:
    assert ladder(50_000) == [100, 300, 1_000, 3_000, 10_000, 30_000, 50_000]
    assert ladder(400) == [100, 400]
    assert ladder(150) == [100, 150]
    assert ladder(149) == [149]
    assert ladder(7) == [7]


def test_between_budgets_a_curve_bends_but_adds_no_bump() -> None:
    curve = Curve("thief", "data-free", target=0.2, floor=0.1, calls=(100, 300, 1000), ndcg=(0.1, 0.18, 0.18))
    worth = [curve.at(calls) for calls in range(100, 1001)]
    figures = [each["ndcg@10"] for each in worth if each]
    assert len(figures) == len(worth)
    assert figures == sorted(figures)
    assert [figures[0], figures[200], figures[-1]] == pytest.approx([0.1, 0.18, 0.18])
    assert curve.at(99) is curve.at(1001) is None
    alone = Curve("thief", "data-free", target=0.1, floor=0.1, calls=(100,), ndcg=(0.15,))
    assert alone.at(100) == {
        "thief": "thief",
        "knowledge": "data-free",
        "ndcg@10": 0.15,
        "access_advantage": None,
    }


def test_every_budget_has_a_row_with_the_worst_thief(found: library.Run) -> None:
    report = found.report
    assert [row["calls"] for row in report["rows"]] == [100, 400]
    thefts = Path(report["run"] + ".thefts")
    for row in report["rows"]:
        metrics = [
            json.loads((thefts / f"{name}-{row['calls']}-0" / "manifest.json").read_text())["metrics"]
            for name in ("dunce", "walker")
        ]
        worst = max(metrics, key=lambda each: each["access_advantage"])
        assert row["thief"] == worst["thief"]
        assert row["ndcg@10"] == pytest.approx(worst["surrogate"]["ndcg@10"])
        assert row["access_advantage"] == pytest.approx(worst["access_advantage"])
    assert report["worst"] == max(report["rows"], key=lambda row: row["access_advantage"])


def test_days_cost_and_risk_are_those_of_the_policy(found: library.Run) -> None:
    budget = Budget(10, Assumptions(accounts=10, days=4, caught_per_day=0.1, account_cost=2, new_accounts=True))
    rows = found.report["rows"]
    assert [row["days"] for row in rows] == [1, 4]
    assert [row["cost"] for row in rows] == pytest.approx([20, 26])
    assert [row["caught"] for row in rows] == pytest.approx([1, 4])
    assert [row["chance"] for row in rows] == [1, 1]
    through = found.report["through"]
    assert (through["calls"], through["calls_interval"], through["daily"]) == (400, [400, 400], 10)
    assert through["cost_interval"] == list(budget.cost_interval())
    assert found.report["played"] == 400


def test_the_curve_goes_through_the_rows_and_no_further(found: library.Run) -> None:
    curve, rows = found.report["curve"], found.report["rows"]
    assert (curve[0], curve[-1]) == (rows[0], rows[-1])
    for key in ("calls", "days", "cost"):
        assert [point[key] for point in curve] == sorted(point[key] for point in curve)
    thief = {each["thief"]: each for each in found.report["thieves"]}
    for point in curve:
        own = thief[point["thief"]]
        assert min(own["ndcg"]) <= point["ndcg@10"] <= max(own["ndcg"])
        advantage = access_advantage(point["ndcg@10"], own["floor"], own["target"])
        assert point["access_advantage"] == pytest.approx(advantage)


def test_the_report_is_on_the_disk(found: library.Run) -> None:
    assert found.path == Path(found.report["run"] + ".ratelimit") / "mine"
    assert {path.name for path in found.path.iterdir()} == {"report.json", "report.md", "curve.svg"}
    assert json.loads((found.path / "report.json").read_text()) == json.loads(json.dumps(found.report))
    text = (found.path / "report.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(found.report["rows"])
    assert {line.count("|") for line in lines} == {9}
    worst = found.report["worst"]
    assert (
        f"**Worst case: {worst['thief']}** has an access advantage of {100 * worst['access_advantage']:.1f} %" in text
    )
    assert "\n\n\n" not in text
    assert "None" not in text


def test_a_second_time_nothing_is_played_again(
    found: library.Run, policy: Write, thieves: tuple[str, ...], robbers: list[str]
) -> None:
    run = Path(found.report["run"])
    again = ratelimit(run=run, policy=policy(), thief=thieves)
    assert robbers == []
    assert again.report == found.report
    other = ratelimit(run=run, policy=policy("other", days=10), thief=thieves[1:]).report
    assert robbers == ["walker-1000-0", "walker-300-0"]
    assert [row["calls"] for row in other["rows"]] == [100, 300, 1000]


def test_more_than_the_largest_budget_is_not_played_and_told(
    run: Path, policy: Write, thieves: tuple[str, ...], robbers: list[str]
) -> None:
    found = ratelimit(run=run, policy=policy(), thief=thieves[:1], calls=120, seed=3)
    assert robbers == ["dunce-120-3"]
    assert (found.report["played"], found.report["through"]["calls"]) == (120, 400)
    text = (found.path / "report.md").read_text()
    assert "Thefts were played up to 120 calls; what a thief learns from more is not known." in text


def test_a_thief_for_whom_it_is_too_little_is_left_out_and_told(
    run: Path, policy: Write, thief_cards: Path, tmp_path: Path, robbers: list[str]
) -> None:
    long = tmp_path / "long.toml"
    long.write_text(
        (thief_cards / "walker.toml").read_text().replace("sequence_length = 8", "sequence_length = 25\nrepeats = 8")
    )
    both = (str(long), str(thief_cards / "dunce.toml"))
    found = ratelimit(run=run, policy=policy(days=1), thief=both)
    assert [name for name in robbers if name.startswith("dunce")] == ["dunce-100-0"]
    assert [each["thief"] for each in found.report["thieves"]] == ["dunce"]
    (reason,) = found.report["unplayed"].values()
    assert reason == "100 calls do not pay for two histories of 200 calls; give more than 200"
    assert f"Not played: long: {reason}." in (found.path / "report.md").read_text()
    found = ratelimit(run=run, policy=policy(), thief=both)
    assert {each["thief"]: each["calls"] for each in found.report["thieves"]} == {"long": (400,), "dunce": (100, 400)}
    with pytest.raises(ConfigError, match=r"policy 'mine' lets 100 calls through in 1 day\(s\): 100 calls do not pay"):
        ratelimit(run=run, policy=policy(days=1), thief=both[:1])


def test_whoever_watches_is_told_of_every_theft(run: Path, policy: Write, thieves: tuple[str, ...]) -> None:
    watched: list[tuple[str, int]] = []
    told: list[tuple[str, int]] = []

    @contextmanager
    def watch(label: str, epochs: int) -> Iterator[Progress]:
        watched.append((label, epochs))
        yield Quiet()

    ratelimit(
        watch, lambda row: told.append((row["thief"], row["calls"])), run=run, policy=policy(), thief=thieves[:1] * 2
    )
    assert watched == [("dunce, 400 calls", 1), ("dunce, 100 calls", 1)]
    assert told == [("dunce", 400), ("dunce", 100)]


def test_the_command_prints_the_table(found: library.Run, policy: Write, thieves: tuple[str, ...], gro: Gro) -> None:
    flags = [word for thief in thieves for word in ("--thief", thief)]
    arguments = ["rate-limit", found.report["run"], "--policy", policy(), *flags]
    answer = gro(*arguments, "--json", "--quiet")
    assert (answer.code, answer.err) == (0, "")
    assert answer.json == json.loads(json.dumps({"report": str(found.path), **found.report}))
    table = gro(*arguments)
    worst = found.report["worst"]
    assert "policy mine lets 400 calls [400, 400] through in 4 day(s), for 26\n" in table.out
    assert f"worst case: {worst['thief']}, access advantage {100 * worst['access_advantage']:.2f} % after" in table.out
    for row in found.report["rows"]:
        figures = f"{100 * row['ndcg@10']:.2f} +{100 * row['access_advantage']:.2f} +{row['thief']}"
        cells = rf"{row['days']:g} +{row['calls']} +100.00 +{row['cost']:g} +{row['caught']:g} +{figures}\n"
        assert re.search(cells, table.out)
    assert table.err.count(": access advantage ") == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "strickt"], "no policy 'strickt'. Did you mean 'strict'?"),
        (["--policy", "none.toml"], "none.toml: no such file"),
        (["--policy", "strict", "--thief", "autoregresive"], "Did you mean 'autoregressive'?"),
        (["--policy", "strict", "--calls", "0"], "'calls' is 0"),
        (["--policy", "strict", "--device", "abacus"], "device is 'abacus'"),
        ([], "--policy must be given"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run: Path, gro: Gro, arguments: list[str], said: str) -> None:
    answer = gro("rate-limit", run, *arguments, "--quiet")
    assert answer.code == 2
    assert said in answer.line
    assert not run.with_name("target.thefts").exists()


def test_a_policy_below_one_list_is_refused(run: Path, tmp_path: Path, gro: Gro) -> None:
    path = tmp_path / "tight.toml"
    path.write_text(f"[limits]\ncalls_per_day = 5\nlist_entries_per_day = {K - 1}")
    answer = gro("rate-limit", run, "--policy", path, "--quiet")
    assert answer.code == 2
    assert "policy 'tight': list_entries_per_day is 4, less than one list of 5; allow more" in answer.line


def test_a_folder_that_cannot_be_written_is_told(run: Path, policy: Write, thieves: tuple[str, ...], gro: Gro) -> None:
    (run.parent / "taken").write_text("")
    answer = gro(
        "rate-limit", run, "--policy", policy(), "--thief", thieves[0], "--out", run.parent / "taken", "--quiet"
    )
    assert answer.code == 2
    assert "taken: the report cannot be written: File exists" in answer.line


def test_the_picture_has_cost_where_it_grows() -> None:
    def drawn(*costs: float) -> str:
        points = [{"days": 1 + n, "cost": cost, "access_advantage": (None, 0.5)[n]} for n, cost in enumerate(costs)]
        return ratelimit_report.curve({"policy": "a $ b $ c", "rows": points, "curve": points})

    assert drawn(20, 20) == drawn(20, 20)
    assert (drawn(20, 20).count('id="axes_'), drawn(20, 26).count('id="axes_')) == (1, 2)


def test_a_target_no_better_than_its_floor_has_no_advantage_and_no_picture(found: library.Run, tmp_path: Path) -> None:
    rows = [{**row, "access_advantage": None} for row in found.report["rows"]]
    ratelimit_report.write(tmp_path, {**found.report, "rows": rows, "curve": rows, "worst": rows[-1]})
    text = (tmp_path / "report.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md"}
    assert "has an access advantage of - %" in text
    assert "curve.svg" not in text
