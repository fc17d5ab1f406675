"""The fire drill: who calibrates, who calls, when thieves are caught, and what is said of it."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gro import artifacts
from gro.audit.drill.door import Door, opened
from gro.audit.drill.people import People, account, answer, split
from gro.audit.drill.play import drill
from gro.audit.drill.report import share
from gro.audit.drill.thieves import CaughtError, Gang, School, distinct
from gro.cli import main
from gro.data import Sequences
from gro.errors import GroError
from gro.runs import Run, dataset_of
from gro.service.guard import Guard
from gro.service.monitor.calibration import calibrate
from gro.service.monitor.detector import Judgement
from gro.service.reference import About
from gro.service.settings import EventSettings, GuardSettings
from gro.serving import RankingService
from gro_surrogates.suites import read_suite

Gro = Any
USERS, ITEMS, K = 150, 60, 10
SIZE = ("--hidden-size", "8", "--inner-size", "8", "--n-layers", "1", "--n-heads", "1", "--k", str(K))
CARD = "hidden_size = 8\ninner_size = 8\nn_layers = 1\nn_heads = 1\nepochs = 2\nqueries = '{}'\nknown = {}\n"
SETTINGS: dict[str, Any] = {"calls": 300, "accounts": 3, "seeds": 2, "false_alarms": 0.05, "users": 12}
FLAGS = [word for key, value in SETTINGS.items() for word in (f"--{key.replace('_', '-')}", value)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 150 users of 14 to 24 items, most of which follow the one before in a ring."""
    folder = tmp_path_factory.mktemp("drill")
    generator = np.random.default_rng(0)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(USERS):
        item, seen = int(generator.integers(ITEMS)), set[int]()
        for time in range(int(generator.integers(14, 25))):
            while item in seen:
                item = (item + 1) % ITEMS if generator.random() < 0.85 else int(generator.integers(ITEMS))
            seen.add(item)
            rows.append(f"u{user}\ti{item}\t{time}")
    (folder / "data" / "rings").mkdir(parents=True)
    (folder / "data" / "rings" / "rings.inter").write_text("\n".join(rows) + "\n")
    data, out = ("--dataset", "rings", "--data-path", str(folder / "data")), folder / "target"
    learning = ("--epochs", "8", "--learning-rate", "0.02", "--patience", "0", "--max-length", "16")
    assert main(["train", *data, "--out", str(out), *learning, "--quiet", *SIZE]) == 0
    return out


@pytest.fixture(scope="module")
def thieves(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A suite of a random thief, one who asks as he does, and one who replays."""
    folder = tmp_path_factory.mktemp("suite")
    for name, queries, known in (("blind", "random", 0), ("deaf", "random", 0), ("holder", "replay", 0.2)):
        (folder / f"{name}.toml").write_text(CARD.format(queries, known))
    cards = ", ".join(f'"{folder / name}.toml"' for name in ("blind", "deaf", "holder"))
    (folder / "pack.toml").write_text(f"thieves = [{cards}]\n")
    (folder / "one.toml").write_text(f'thieves = ["{folder}/blind.toml"]\n')
    return str(folder / "pack.toml")


@pytest.fixture(scope="module")
def found(target: Path, thieves: str) -> Run:
    return drill(run=target, suite=thieves, **SETTINGS)


@pytest.fixture(scope="module")
def sequences(target: Path) -> Sequences:
    return dataset_of(artifacts.load(target), None)


class Turnstile(Door):
    """Answers with the number of the call, and flags each account at its third."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask(self, account: str, history: object) -> list[int]:
        self.asked.append(account)
        return [len(self.asked), 99]

    def alarm(self, account: str) -> Judgement | None:
        return Judgement(2.0, 1.0) if self.asked.count(account) == 3 else None


def gang(sharing: Any) -> tuple[Gang, Turnstile]:
    door = Turnstile()
    return Gang(door, ["a", "b", "c"], sharing, 4, lambda: None), door


def ask_one_by_one(gang: Gang, histories: int, length: int) -> None:
    for first in range(1, histories + 1):
        for end in range(length):
            gang(torch.arange(first, first + end + 1)[None])


@given(st.integers(3, 2000), st.integers(0, 9))
def test_users_calibrate_or_are_held_out(n_users: int, seed: int) -> None:
    calibrating, held_out = split(n_users, seed)
    assert sorted([*calibrating, *held_out]) == list(range(n_users))
    assert len(held_out) == n_users // 3


def test_people_call_after_each_item_and_between_each_other(sequences: Sequences) -> None:
    people = People(sequences, np.array([5, 3, 100, 7]), longest=10, seed=1)
    calls = list(people)
    whole = defaultdict[int, list[int]](list)
    for user, history in calls:
        whole[user].append(int(history[-1]))
        assert history.tolist() == whole[user][-10:]
    assert {user: np.array(items).tolist() for user, items in whole.items()} == {
        user: sequences.history(user).tolist() for user in (5, 3, 100, 7)
    }
    assert len(people) == len(calls)
    changes = sum(one != other for (one, _), (other, _) in pairwise(calls))
    assert changes > len(calls) / 2


def test_the_replayed_lists_are_those_of_the_service(
    target: Path, found: Run, sequences: Sequences, tmp_path: Path
) -> None:
    service = RankingService(artifacts.load(target).model, K)
    people = People(sequences, np.array([1, 0, 2]), longest=16, seed=0)
    log = answer(people, service, K, ITEMS, tmp_path / "lists.npy")
    about = About(dataset="rings", model="SASRec", n_items=ITEMS, k=K)
    names, calibration = map(account, range(3)), found.path / "calibration.safetensors"
    with opened(service, about, names, tmp_path, calibration, "watch-only") as door:
        for call, again in zip(log, log, strict=True):
            assert door.ask(call.account, call.history.tolist()) == call.listed.tolist()
            assert again.listed.tolist() == call.listed.tolist()


def test_thieves_are_caught_and_what_they_have_is_measured(found: Run) -> None:
    rows = found.report["thieves"]
    assert [(row["thief"], row["accounts"], row["sharing"]) for row in rows] == [
        (name, *way) for name in ("blind", "holder") for way in ((1, None), (3, "call"), (3, "history"))
    ]
    for row in rows:
        assert row["of"] == len(row["plays"]) == 2
        assert row["hits"] == sum(len(each["alarms"]) == row["accounts"] for each in row["plays"])
        for each in row["plays"]:
            calls = [alarm["calls"] for alarm in each["alarms"]]
            assert calls == sorted(calls)
            assert each["calls"] == (calls[-1] if len(calls) == row["accounts"] else 300)
            assert all(alarm["own_calls"] <= alarm["calls"] for alarm in each["alarms"])
        assert row["copy"]["calls"] == row["plays"][0]["calls"]
        assert 0 <= row["copy"]["agreement@10"] <= 1
    alone = rows[0]
    assert (alone["hits"], alone["first"]) == (2, alone["last"])
    assert 8 <= alone["last"]["least"] <= alone["last"]["median"] <= alone["last"]["most"] <= 100
    assert rows[3]["copy"]["floor_is"] in {"popularity", "own data"}


def test_people_are_counted_whole(found: Run, sequences: Sequences) -> None:
    people, held_out = found.report["people"], split(USERS, 0)[1]
    assert people["users"] == people["of"] == 12
    assert people["hits"] == len(people["flagged"])
    assert people["interval"][0] <= people["share"] <= people["interval"][1]
    assert {each["user"] for each in people["flagged"]} <= set(held_out.tolist())
    lengths = np.sort(np.diff(sequences.indptr)[held_out])
    assert lengths[:12].sum() <= people["calls"] <= lengths[-12:].sum()


def test_the_report_is_on_the_disk(found: Run, target: Path) -> None:
    assert found.path == target.with_name("target.drill") / "pack"
    assert {path.name for path in found.path.iterdir()} == {
        "calibration.json",
        "calibration.safetensors",
        "report.json",
        "report.md",
    }
    assert json.loads((found.path / "report.json").read_text()) == json.loads(json.dumps(found.report))
    text = (found.path / "report.md").read_text()
    table = [line for line in text.splitlines() if line.startswith(("| blind", "| holder"))]
    assert len(table) == 6
    assert {line.count("|") for line in table} == {14}
    assert f"**{found.report['people']['hits']} of 12 real users were ever flagged" in text
    assert "None" not in text
    assert "\n\n\n" not in text


def test_only_those_calibrate_who_are_not_held_out_and_they_once(
    target: Path, thieves: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[Counter[str]] = []

    def noted(log: Any, *given: Any) -> Any:
        logs.append(Counter(call.account for call in log))
        return calibrate(log, *given)

    monkeypatch.setattr("gro.audit.drill.play.calibrate", noted)
    few = {**SETTINGS, "suite": thieves.replace("pack", "one"), "calls": 20, "seeds": 1, "users": 2}
    first = drill(run=target, out=tmp_path, **few)
    assert set(logs[0]) == set(map(account, split(USERS, 0)[0]))
    assert drill(run=target, out=tmp_path, **few).report == first.report
    assert len(logs) == 1
    drill(run=target, out=tmp_path, **{**few, "false_alarms": 0.1})
    assert len(logs) == 2


def test_who_shares_by_call_takes_turns_and_leaves_what_is_flagged() -> None:
    callers, door = gang("call")
    ask_one_by_one(callers, histories=2, length=4)
    assert "".join(door.asked) == "abcabcab"
    assert [(alarm.calls, alarm.own) for alarm in callers.alarms] == [(7, 3), (8, 3)]
    assert not callers.caught
    assert callers(torch.tensor([[5], [6]])).tolist() == [[9, 99, 0, 0], [0, 0, 0, 0]]
    with pytest.raises(CaughtError):
        callers(torch.tensor([[7]]))
    assert callers.calls == 9


def test_who_shares_by_history_lets_one_account_end_what_it_began() -> None:
    callers, door = gang("history")
    ask_one_by_one(callers, histories=3, length=2)
    assert "".join(door.asked) == "aabbcc"
    callers(torch.tensor([[1], [2]]))
    assert "".join(door.asked[6:]) == "ab"
    callers(torch.tensor([[1, 4], [2, 4]]))
    assert "".join(door.asked[8:]) == "c"
    assert callers.caught


def test_a_service_that_fails_ends_the_drill(thieves: str, sequences: Sequences, tmp_path: Path) -> None:
    guard = Guard(GuardSettings(events=EventSettings(to=tmp_path / "events")))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        door = Door(nobody.getsockname()[1], {"a": "key"}, guard)
        school = School(sequences, 16, 40, 1, torch.device("cpu"))
        thief = next(distinct(read_suite(thieves)))
        with pytest.raises(GroError, match="the service does not answer"):
            school.play(thief, Gang(door, ["a"], "call", K, lambda: None), 0)


@given(st.integers(1, 300).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_a_share_lies_in_its_interval(counts: tuple[int, int]) -> None:
    figures = share(*counts)
    low, high = figures["interval"]
    assert 0 <= low <= figures["share"] <= high <= 1
    assert (low == 0, high == 1) == (counts[0] == 0, counts[0] == counts[1])


def test_the_command_prints_the_table(target: Path, thieves: str, found: Run, gro: Gro) -> None:
    arguments = ["guard", "drill", target, "--suite", thieves, *FLAGS]
    answered = gro(*arguments, "--json", "--quiet")
    assert (answered.code, answered.err) == (0, "")
    assert answered.json == json.loads(json.dumps({"report": str(found.path), **found.report}))
    table = gro("guard", "drill", target, "--suite", thieves.replace("pack", "one"), *FLAGS)
    people = found.report["people"]
    assert f"real users ever flagged: {people['hits']} of 12, " in table.out
    alone = found.report["thieves"][0]["last"]
    calls = f"{alone['median']} [{alone['least']}, {alone['most']}]"
    assert re.search(rf"blind +1 +2/2 +{re.escape(calls)} +{re.escape(calls)} ", table.out)
    assert table.err.count("caught after") == 6


@pytest.fixture
def arguments(target: Path, thieves: str, tmp_path: Path) -> Callable[..., list[Any]]:
    suite = tmp_path / "settings.toml"
    suite.write_text(f'suite = "{thieves}"\n')
    return lambda *more: ["guard", "drill", target, "--config", suite, "--out", tmp_path / "out", "--quiet", *more]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--suite", "standart"], "Did you mean 'standard'?"),
        (["--false-alarms", "2"], "'false_alarms' is 2"),
        (["--accounts", "1"], "'accounts' is 1"),
        (["--device", "abacus"], "device is 'abacus'"),
        (["--playbook", "defualt"], "no playbook 'defualt'. Did you mean 'default'?"),
        (["--false-alarms", "0.001"], "the log holds 100 accounts of 8 calls or more; 0.10% of false alarms"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: Callable[..., list[Any]], gro: Gro, tmp_path: Path, more: list[str], said: str
) -> None:
    answered = gro(*arguments(*more))
    assert answered.code == 2
    assert said in answered.line
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told(arguments: Callable[..., list[Any]], gro: Gro, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    answered = gro(*arguments("--false-alarms", "0.05"))
    assert answered.code == 2
    assert "out: the calibration cannot be written: Not a directory" in answered.line
