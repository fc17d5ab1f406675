"""Experiments: blocks and cells, what is kept, what the summary says, what is drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro import cards
from gro.errors import ConfigError, DataError
from gro.experiments import card, plot, run, table
from gro.experiments.card import Experiment
from gro.experiments.summary import interval, summarise

Gro = Any

CARD = """
dataset = "ring"
seeds = [0, 1]
calls = 100
k = 5
thieves = ["random", { card = "random", loss = "set" }]
training = { epochs = 8, batch_size = 4, learning_rate = 1e-2, dropout = 0.0, max_length = 10, hidden_size = 8,\
 inner_size = 8, n_layers = 1, n_heads = 1 }
[[targets]]
name = "plain"
[[targets]]
name = "turned round"
protection = { defence = "reverse" }
[[targets]]
name = "GRO"
protection = { warm_up_epochs = 0, protect_epochs = 1 }
"""


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset "ring": 30 users walk round 25 items."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, start in enumerate(rng.integers(0, 25, 30)):
        rows += [f"u{user}\ti{(start + step) % 25}\t{step}" for step in range(8)]
    (folder / "ring").mkdir()
    (folder / "ring" / "ring.inter").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[[str], Experiment]:
    """Read a card from its text."""

    def read(text: str) -> Experiment:
        (tmp_path / "small.toml").write_text(text)
        return card.read(str(tmp_path / "small.toml"))

    return read


@pytest.fixture(scope="session")
def results(ring: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result file of the card above."""
    folder = tmp_path_factory.mktemp("experiment")
    (folder / "small.toml").write_text(CARD)
    return run.run(card.read(str(folder / "small.toml")), folder / "runs", folder / "results", data_path=ring)


def test_every_cell_has_a_row(results: Path) -> None:
    content = json.loads(results.read_text())
    keys = [(row["seed"], row["target"], row["thief"]) for row in content["rows"]]
    targets, thieves = ("plain", "turned round", "GRO"), ("random", "random loss=set")
    assert keys == [(seed, target, thief) for seed in (0, 1) for target in targets for thief in thieves]
    assert {row["k"] for row in content["rows"]} == {5}
    assert all(row["utility_loss"] == 0 for row in content["rows"] if row["target"] == "plain")
    assert {"date", "machine", "knowledge", "rbo@10", "shared_by_popularity"} <= content["rows"][0].keys()


def test_what_is_served_in_reverse_is_worth_less(results: Path) -> None:
    found = {
        entry["target"]: entry["utility"]["ndcg@10"]["mean"] for entry in json.loads(results.read_text())["summary"]
    }
    assert found["turned round"] < found["plain"]


def test_rows_are_kept_and_only_missing_ones_are_run(
    results: Path, ring: Path, tmp_path: Path, experiment: Callable[[str], Experiment]
) -> None:
    content = json.loads(results.read_text())
    content["rows"].pop(3)
    (tmp_path / "small.json").write_text(json.dumps(content))
    told: list[dict[str, Any]] = []
    again = run.run(experiment(CARD), tmp_path / "runs", tmp_path, report=told.append, data_path=ring)
    assert [(row["seed"], row["target"], row["thief"]) for row in told] == [(0, "turned round", "random loss=set")]
    assert len(json.loads(again.read_text())["rows"]) == 12
    other = run.run(
        experiment(CARD.replace("[0, 1]", "[0]")), tmp_path / "runs", tmp_path, report=told.append, data_path=ring
    )
    assert len(json.loads(other.read_text())["rows"]) == 6
    assert len(told) == 7


def test_pictures_are_the_same_whenever_they_are_drawn(results: Path) -> None:
    first = [path.read_bytes() for path in plot.draw(results)]
    assert first == [path.read_bytes() for path in plot.draw(results)]
    for picture in first:
        assert b"<svg" in picture


def test_the_table_says_what_the_summary_says(results: Path) -> None:
    page, summary = table.write(results).read_text(), json.loads(results.read_text())["summary"]
    for entry in summary:
        line = next(line for line in page.splitlines() if line.startswith(f"| {entry['target']} | 2 |"))
        assert f"| {entry['worst']} |" in line
        assert f"{100 * entry['utility']['ndcg@10']['mean']:.1f} [" in line


def test_a_paper_stands_beside_our_figures(experiment: Callable[[str], Experiment], results: Path) -> None:
    text = CARD + "[published.GRO]\ntarget = [18.08, 28.96, 9.53, 12.48]\nsurrogate = [11.46, 21.94, 5.19, 7.82]\n"
    content = json.loads(results.read_text())
    content["card"] = experiment(text).model_dump(mode="json")
    page = list(table.lines(content))
    copy = next(line for line in page if line.startswith("| GRO | surrogate |"))
    assert "(11.46)" in copy
    assert "(7.82)" in copy


def test_targets_of_other_results_stand_in_the_same_frontier(results: Path) -> None:
    content = json.loads(results.read_text())
    known = {entry["target"] for entry in content["summary"]}
    other = json.loads(results.read_text().replace('"target": "plain"', '"target": "another"'))
    found = plot.together(content, [other, other])
    assert {entry["target"] for entry in found["summary"]} == known | {"another"}
    assert len(found["summary"]) == len(known) + 1
    assert found["rows"] == content["rows"] + [row for row in other["rows"] if row["target"] == "another"]
    for key, value in (("calls", 1), ("exposed", 1), ("model", "NARM"), ("dataset", "ml-1m")):
        unlike = {**other, "summary": [{**entry, key: value} for entry in other["summary"]]}
        assert plot.together(content, [unlike]) == {"summary": content["summary"], "rows": content["rows"]}
    assert "another" in plot.draw(results, [other])[0].read_text()
    assert "another" not in plot.draw(results)[0].read_text()


def test_the_command_draws_other_results_beside_and_writes_nothing_where_there_are_none(
    gro: Gro, results: Path, tmp_path: Path
) -> None:
    for name in ("small", "other"):
        (tmp_path / f"{name}.toml").write_text(CARD)
    where = ("reproduce", tmp_path / "small.toml", "--plot-only", "--results", tmp_path, "--quiet")
    (tmp_path / "small.json").write_text(results.read_text())
    refused = gro(*where, "--beside", tmp_path / "other.toml")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "other.json: not the result of an experiment" in refused.err
    assert not list(tmp_path.glob("*.svg")) + list(tmp_path.glob("*.md"))
    (tmp_path / "other.json").write_text(results.read_text().replace('"target": "plain"', '"target": "another"'))
    assert gro(*where, "--beside", tmp_path / "other.toml").code == 0
    assert "another" in (tmp_path / "small-frontier.svg").read_text()


def row(**changes: Any) -> dict[str, Any]:
    figures = dict.fromkeys(run.FIGURES, 0.1)
    plain = {"dataset": "ring", "model": "SASRec", "target": "plain", "seed": 0, "thief": "a", "calls": 100, "k": 5}
    also = {
        "knowledge": "data-free",
        "known": 0.0,
        "utility_loss": 0.0,
        "agreement@10": 0.5,
        "rbo@10": 0.5,
        "exposed": 5,
    }
    who = {"utility": figures, "surrogate": figures, "floor": figures, "access_advantage": 0.5}
    return {**plain, **also, **who, **changes}


def test_the_worst_thief_is_the_largest_mean(experiment: Callable[[str], Experiment]) -> None:
    advantages = {"a": (0.9, 0.1), "b": (0.6, 0.7), "c": (0.5, None)}
    rows = [
        row(thief=thief, seed=seed, access_advantage=value)
        for thief, values in advantages.items()
        for seed, value in enumerate(values)
    ]
    (entry,) = summarise(experiment(CARD), rows)
    assert [thief["thief"] for thief in entry["thieves"]] == ["b", "a", "c"]
    assert entry["worst"] == "b"
    assert entry["thieves"][2]["interval"] is None
    assert entry["worst_of_each_seed"]["mean"] == pytest.approx((0.9 + 0.7) / 2)


def test_unequal_exposed_k_is_refused(experiment: Callable[[str], Experiment]) -> None:
    for changed in ({"k": 10}, {"exposed": 3}):
        with pytest.raises(ValueError, match="differ in exposed k"):
            summarise(experiment(CARD), [row(), row(**changed, seed=1)])


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=6))
def test_the_interval_is_that_of_student(values: list[float]) -> None:
    found = interval([*values, None])
    low, high = found["interval"]
    assert found["n"] == len(values)
    assert low <= found["mean"] + 1e-12
    assert (low + high) / 2 == pytest.approx(np.mean(values), abs=1e-9)
    wanted = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}[len(values)]
    assert (high - low) / 2 == pytest.approx(
        wanted * np.std(values, ddof=1) / math.sqrt(len(values)), rel=1e-3, abs=1e-9
    )


def test_blocks_share_what_stands_outside(experiment: Callable[[str], Experiment]) -> None:
    read = experiment(CARD + '[[blocks]]\ncalls = 200\n[[blocks]]\nmodel = "GRU4Rec"\n')
    assert [(block.model, block.calls, block.dataset) for block in read.blocks] == [
        ("SASRec", 200, "ring"),
        ("GRU4Rec", 100, "ring"),
    ]


@pytest.mark.parametrize("name", cards.names("experiments"))
def test_shipped_cards_name_thieves_and_targets_that_are_there(name: str) -> None:
    for block in card.read(name).blocks:
        assert card.thieves(block)
        assert set(block.published) <= {target.name for target in block.targets}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("random loss", "random loss"), None),
        (('thieves = ["random"', 'thieves = ["randum"'), r"no card 'randum'.*Did you mean 'random'"),
        (('loss = "set"', 'loss = "sett"'), r"'loss' is 'sett'.*Did you mean 'set'"),
        (('loss = "set"', 'los = "set"'), r"unknown key 'los'. Did you mean 'loss'"),
        (("calls = 100", "cals = 100"), r"unknown key 'cals'. Did you mean 'calls'"),
    ],
)
def test_a_wrong_card_is_one_clear_line(
    experiment: Callable[[str], Experiment], change: tuple[str, str], message: str | None
) -> None:
    if message is None:
        assert experiment(CARD.replace(*change)).name == "small"
        return
    with pytest.raises(ConfigError, match=message) as found:
        experiment(CARD.replace(*change))
    assert "\n" not in str(found.value)


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"rows": []}')
    with pytest.raises(DataError, match="not the result of an experiment"):
        plot.draw(tmp_path / "x.json")
