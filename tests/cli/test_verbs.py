from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gro.cli import machine
from gro.cli.doctor import Check
from gro.config import TrainCommand
from gro_surrogates.strategies import Random

Gro = Any

TINY = ("--hidden-size", "8", "--inner-size", "8", "--n-layers", "1", "--n-heads", "1", "--k", "5")
UTILITY = {f"{metric}@{k}" for metric in ("hr", "ndcg") for k in (1, 5, 10, 20)}
ABOUT = {"run", "dataset", "users", "model", "k", "seed"}
DEFENCE = {"defence", "exposed", "utility_loss", "utility_loss_at"}


@pytest.fixture
def train(gro: Gro, data_path: Path) -> Gro:
    """``gro train`` on the tiny dataset."""
    return lambda out, *more: gro(
        "train", "--dataset", "tiny", "--data-path", data_path, "--out", out, *TINY, "--epochs", 2, *more
    )


def test_train(train: Gro, tmp_path: Path) -> None:
    answer = train(tmp_path / "run", "--json")
    assert answer.code == 0
    assert answer.json.keys() == ABOUT | {"target", "epoch", "valid"}
    assert answer.json["target"].keys() == UTILITY
    assert (answer.json["users"], answer.json["k"], answer.json["seed"]) == (60, 5, 0)
    assert [line for line in answer.err.splitlines() if "epoch" in line] == [
        line for line in answer.err.splitlines() if line.startswith("SASRec on tiny: epoch ") and line.endswith(" %")
    ]
    assert "epoch 2 of at most 2: valid ndcg" in answer.err


def test_a_table_says_what_it_is_about(train: Gro, tmp_path: Path) -> None:
    title, header, row = train(tmp_path / "run").out.splitlines()
    assert title == "tiny, 60 users, SASRec, exposed k 5, seed 0"
    assert [word for word in header.split() if word != "%"] == ["HR@10", "HR@20", "NDCG@10", "NDCG@20"]
    figures = json.loads((tmp_path / "run" / "manifest.json").read_text())["metrics"]["target"]
    wanted = [f"{100 * figures[key]:.2f}" for key in ("hr@10", "hr@20", "ndcg@10", "ndcg@20")]
    assert row.split() == ["target", *wanted]


def test_quiet(train: Gro, tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--quiet", "--json").err == ""


def test_second_run_returns_at_once_with_the_same_report(
    train: Gro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(tmp_path / "run", "--json")
    monkeypatch.delattr("gro.api.fit")
    second = train(tmp_path / "run", "--json")
    assert second.json == first.json


def test_other_settings_are_refused(train: Gro, tmp_path: Path) -> None:
    train(tmp_path / "run", "--quiet")
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    answer = train(tmp_path / "run", "--learning-rate", "0.5")
    assert answer.code == 2
    assert f"learning_rate = {TrainCommand.model_fields['learning_rate'].default}, not 0.5" in answer.line
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


def test_settings_from_a_file(gro: Gro, data_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(f'dataset = "tiny"\ndata-path = "{data_path}"\nhidden_size = 8\nk = 5\nepochs = 9\n')
    answer = gro("train", "--config", file, "--out", tmp_path / "run", "--epochs", 1, "--json")
    assert answer.code == 0
    assert (answer.json["k"], answer.json["epoch"]) == (5, 0)


def test_protect_trains_the_plain_target_first(gro: Gro, data_path: Path, tmp_path: Path) -> None:
    short = ("--epochs", 1, "--warm-up-epochs", 1, "--protect-epochs", 1)
    arguments = ("protect", "--dataset", "tiny", "--data-path", data_path, *TINY, *short)
    answer = gro(*arguments, "--out", tmp_path / "run", "--json")
    assert answer.code == 0
    assert answer.json.keys() == ABOUT | DEFENCE | {"target", "plain", "student", "epoch", "valid"}
    assert (tmp_path / "run.plain" / "manifest.json").exists()
    assert "epoch 1 of at most 1: valid" in answer.err
    assert "epoch 2 of at most 2: swap weight 100.00 %, utility loss" in answer.err
    again = gro(*arguments, "--out", tmp_path / "other", "--from", tmp_path / "run.plain", "--json")
    assert {**again.json, "run": ""} == {**answer.json, "run": ""}
    table = gro(*arguments, "--out", tmp_path / "run").out
    assert [line.split("  ")[0] for line in table.splitlines()[3:]] == ["plain target", "protected target", "student"]


def test_evaluate(gro: Gro, plain: Path) -> None:
    answer = gro("evaluate", plain, "--json")
    assert answer.code == 0
    assert answer.json.keys() == ABOUT | {"target", "floor"}
    for model in ("target", "floor"):
        assert answer.json[model].keys() == UTILITY | {"interval"}
    low, high = answer.json["target"]["interval"]["hr@10"]
    assert low <= answer.json["target"]["hr@10"] <= high
    assert "floor (popularity)" in gro("evaluate", plain).out


def test_evaluate_against_a_plain_target(gro: Gro, data_path: Path, learnt: Path, tmp_path: Path) -> None:
    where = ("--dataset", "tiny", "--data-path", data_path, "--from", learnt, "--out", tmp_path / "run")
    gro("protect", *where, *TINY, "--defence", "reverse", "--quiet")
    found = gro("evaluate", tmp_path / "run", "--against", learnt, "--json").json["against"]
    assert list(found) == ["all", "history_length", "next_item", "typicality"]
    assert found["history_length"] == {"at most 10": found["all"]}
    lines = gro("evaluate", tmp_path / "run", "--against", learnt).out.splitlines()
    start = lines.index("") + 1
    assert lines[start] == f"what people lose against {learnt}, in % of NDCG@10"
    names = ["all", "items before: at most 10", *(f"next item: {third}" for third in found["next_item"])]
    rows = [line.split("  ")[0] for line in lines[start + 2 :]]
    assert rows == [*names, "history: least typical tenth", "history: rest"]
    group = found["all"]
    low, high = (f"{100 * bound:.1f}" for bound in group["interval"])
    figures = [f"{100 * group[name]:.2f}" for name in ("plain", "served", "loss")]
    assert lines[start + 2].split() == ["all", "60", *figures, f"[{low},", f"{high}]", f"{100 * group['gross']:.2f}"]
    refused = gro("evaluate", learnt, "--against", tmp_path / "run", "--quiet")
    assert refused.code == 2
    assert "run: has a defence already; give the plain target that it was made from" in refused.line


def test_attack(gro: Gro, plain: Path, tmp_path: Path) -> None:
    arguments = ("attack", plain, "--calls", 200, "--epochs", 1, "--sequence-length", 10, "--out", tmp_path / "theft")
    answer = gro(*arguments, "--json")
    assert answer.code == 0
    named = {"thief", "knowledge", "known", "calls", "target", "surrogate", "floor", "agreement@1", "agreement@10"}
    measured = {"rbo@10", "shared_by_popularity", "held_out_agreement@10", "access_advantage", "interval"}
    assert answer.json.keys() == ABOUT | named | measured | {"faults", "floor_is"}
    assert (answer.json["calls"], answer.json["thief"]) == (200, "autoregressive")
    assert answer.json["surrogate"].keys() == UTILITY
    assert "theft: asking the target: 100% of the calls made" in answer.err
    assert "theft: epoch 1 of at most 1: held out agreement@10" in answer.err
    table = gro(*arguments)
    assert "thief autoregressive (data-free), 200 calls" in table.out
    assert "stolen copy" in table.out
    assert "epoch" not in table.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--thief", "autoregresive"], "Did you mean 'autoregressive'?"),
        (["--k", "41"], "k is 41"),
        (["--calls", "3"], "3 calls"),
    ],
)
def test_attack_with_bad_input(gro: Gro, plain: Path, arguments: list[str], said: str) -> None:
    answer = gro("attack", plain, *arguments, "--quiet")
    assert answer.code == 2
    assert said in answer.line


@pytest.mark.parametrize(("length", "more"), [(51, ()), (9, ("--max-length", 8))])
def test_a_thief_who_asks_more_than_it_reads_is_refused(
    gro: Gro, plain: Path, tmp_path: Path, length: int, more: tuple[object, ...]
) -> None:
    theft = tmp_path / "theft"
    answer = gro("attack", plain, "--sequence-length", length, *more, "--calls", 200, "--out", theft)
    assert answer.code == 2
    assert f"sequence_length is {length}, but a history of more than max_length = {length - 1} items" in answer.line
    assert answer.line.endswith(f"; give at most {length - 1}")
    assert not theft.exists()


def test_unknown_dataset(gro: Gro, data_path: Path, tmp_path: Path) -> None:
    answer = gro("train", "--dataset", "tinny", "--data-path", data_path, "--out", tmp_path / "run")
    assert answer.code == 2
    assert "no dataset 'tinny'" in answer.line
    assert "Did you mean 'tiny'?" in answer.line


def test_k_larger_than_the_catalogue(gro: Gro, data_path: Path, tmp_path: Path) -> None:
    arguments = ("--dataset", "tiny", "--data-path", data_path, "--out", tmp_path / "run", "--quiet", "--k", 41)
    answer = gro("train", *arguments)
    assert answer.code == 2
    assert "k is 41; the catalogue of tiny has 40 items" in answer.line
    assert not (tmp_path / "run").exists()


def test_damaged_artifact(gro: Gro, plain: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in plain.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "model.safetensors").write_bytes((plain / "model.safetensors").read_bytes()[:-1])
    answer = gro("evaluate", damaged)
    assert answer.code == 2
    assert f"{damaged / 'model.safetensors'}: damaged" in answer.line


def test_foreign_folder_is_refused_before_training(train: Gro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    monkeypatch.delattr("gro.api.fit")
    answer = train(tmp_path)
    assert answer.code == 2
    assert "thesis.txt" in answer.line


def test_out_below_a_file(train: Gro, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer = train(tmp_path / "file" / "run")
    assert answer.code == 2
    assert "not a directory" in answer.line


def test_demo_prints_one_table_and_resumes(
    gro: Gro, long_data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, less in {"EPOCHS": 1, "THIEVES": (Random,), "GOING_ON": ()}.items():
        monkeypatch.setattr(f"gro.defenses.lesson.{name}", less)
    where = ("--dataset", "tiny", "--data-path", long_data_path, "--out", tmp_path)
    arguments = ("demo", *where, "--k", 5, "--calls", 200)
    first = gro(*arguments, "--json")
    assert first.code == 0
    assert first.json["plain"]["k"] == first.json["protected"]["k"] == 5
    assert first.json["plain"]["thief"] == first.json["protected"]["thief"] == "autoregressive"
    assert first.json["protected"]["utility_loss"] == pytest.approx(
        1 - first.json["protected"]["target"]["ndcg@10"] / first.json["plain"]["target"]["ndcg@10"]
    )
    for work in ("api.fit", "api.Training", "theft.Thief"):
        monkeypatch.delattr(f"gro.{work}")
    assert gro(*arguments, "--json").json == first.json
    table = gro(*arguments)
    names = [line.strip().split("  ")[0] for line in table.out.splitlines()[2:]]
    copies = "its stolen copy"
    assert names == ["plain target", copies, "protected target", copies, "floor (popularity)"]
    assert "epoch" not in table.err


def test_too_few_people_for_the_default_are_told_before_anything_is_trained(
    gro: Gro, data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("gro.api.Training")
    rows = (data_path / "tiny" / "tiny.inter").read_text().splitlines()
    (tmp_path / "few").mkdir()
    few = [row for row in rows if row.split("\t")[0] in {"user_id:token", "u0", "u1", "u2", "u3"}]
    (tmp_path / "few" / "few.inter").write_text("\n".join(few) + "\n")
    refused = gro(
        "protect", "--dataset", "few", "--data-path", tmp_path, "--out", tmp_path / "run", "--k", 5, "--quiet"
    )
    assert refused.code == 2
    assert "the gate learns from people with more than 8 interactions; there are too few" in refused.line
    assert not (tmp_path / "run").exists()


def test_attack_by_a_thief_who_holds_real_histories(gro: Gro, plain: Path, tmp_path: Path) -> None:
    short = ("--calls", 200, "--epochs", 1, "--sequence-length", 10)
    answer = gro("attack", plain, "--thief", "few-shot-10", *short, "--out", tmp_path / "theft", "--json")
    assert (answer.code, answer.json["knowledge"], answer.json["calls"]) == (0, "data-limited", 200)
    assert answer.json["floor_is"] in {"popularity", "own data"}
    for queries in ("replay", "splice"):
        refused = gro("attack", plain, "--queries", queries, *short, "--out", tmp_path / "other")
        assert refused.code == 2
        assert f"queries = '{queries}' needs known above 0" in refused.line
        assert not (tmp_path / "other").exists()


def test_datasets(gro: Gro, data_path: Path) -> None:
    found = {row["name"]: row for row in gro("datasets", "--data-path", data_path, "--json").json["datasets"]}
    assert found["tiny"]["path"] == str(data_path / "tiny" / "tiny.inter")
    assert found["tiny"]["card"] is None
    assert found["ml-1m"]["card"]["counts"]["users"] == 6040
    assert str(data_path / "tiny" / "tiny.inter") in gro("datasets", "--data-path", data_path).out


def test_datasets_of_a_config_file(gro: Gro, data_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "here.toml"
    file.write_text(f'data_path = "{data_path}"\n')
    assert gro("datasets", "--config", file).out == gro("datasets", "--data-path", data_path).out
    file.write_text('data_pth = "."\n')
    answer = gro("datasets", "--config", file)
    assert (answer.code, answer.line) == (2, f"gro: {file}: unknown key 'data_pth'. Did you mean 'data_path'?")


def test_doctor(gro: Gro, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("python", True, "3.12"), Check("recbole", False, "missing: recbole", "pip install recbole")]
    monkeypatch.setattr(machine, "diagnose", lambda: checks[:1])
    assert gro("doctor").code == 0
    monkeypatch.setattr(machine, "diagnose", lambda: checks)
    answer = gro("doctor", "--json")
    assert answer.code == 1
    assert not answer.json["ok"]
    assert answer.json["checks"][1]["remedy"] == "pip install recbole"
    assert "wanting: recbole" in gro("doctor").out


def test_bench(gro: Gro, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(report: Any) -> dict[str, Any]:
        measured = {"theft": {"ratio": 21.0, "ours": 1.0, "theirs": 21.0}}
        report("theft", measured["theft"])
        return measured

    monkeypatch.setattr("gro.bench.run", run)
    answer = gro("bench", "--json")
    assert answer.json == {"theft": {"ratio": 21.0, "ours": 1.0, "theirs": 21.0}}
    assert answer.err == "theft: ratio 21\n"


def test_the_same_seed_gives_the_same_weights_and_another_one_others(train: Gro, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path / name, "--quiet", "--seed", seed)
    a, b, c = (hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest() for name in "abc")
    assert a == b != c
