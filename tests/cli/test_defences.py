"""``gro protect --defence``: what it prints, and what it refuses before anything is trained or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

Gro = Any

SIZES = ("--hidden-size", 8, "--inner-size", 8, "--n-layers", 1, "--n-heads", 1, "--epochs", 1)


@pytest.fixture
def protect(gro: Gro, data_path: Path, tmp_path: Path) -> Gro:
    """``gro protect`` on the tiny dataset of 40 items."""
    where = ("--dataset", "tiny", "--data-path", data_path, "--out", tmp_path / "runs" / "run")
    return lambda defence, k, *more: gro("protect", *where, *SIZES, "--defence", defence, "--k", k, "--quiet", *more)


def test_a_defence_says_what_it_exposes_and_costs(protect: Gro, gro: Gro, tmp_path: Path) -> None:
    table = protect("truncate-10", 20)
    assert table.code == 0
    title, losses, _, plain, protected = table.out.splitlines()
    assert title == "tiny, 60 users, SASRec, exposed k 20, seed 0; defence truncate-10, which exposes 10"
    assert losses == "loss of NDCG in %: @1 0.00, @5 0.00, @10 0.00"
    assert (plain.split()[0], protected.split()[-1]) == ("plain", "0.00")
    report = protect("truncate-10", 20, "--json").json
    assert (report["k"], report["exposed"], report["defence"]) == (20, 10, "truncate-10")
    assert report["utility_loss_at"].keys() == {"1", "5", "10"}
    run = tmp_path / "runs" / "run"
    assert gro("evaluate", run).out.startswith("tiny, 60 users, SASRec, exposed k 10, seed 0\n")
    theft = gro("attack", run, "--calls", 200, "--epochs", 1, "--sequence-length", 10, "--json")
    assert (theft.code, theft.json["k"]) == (0, 10)


def test_differential_privacy_is_told_with_its_epsilon(protect: Gro) -> None:
    assert "differential privacy of a user: epsilon " in protect("dp", 20).out


def test_another_defence_over_a_finished_run_is_refused(protect: Gro, tmp_path: Path) -> None:
    first = protect("reverse", 20, "--json")
    manifest = tmp_path / "runs" / "run" / "manifest.json"
    before = manifest.read_bytes()
    answer = protect("shuffle", 20)
    assert answer.code == 2
    assert "holds a run with defence = 'reverse', not 'shuffle'; choose another --out" in answer.line
    assert manifest.read_bytes() == before
    assert protect("reverse", 20, "--json").json == first.json


@pytest.mark.parametrize(
    ("defence", "k", "more", "said"),
    [
        ("shufle", 20, (), "no defence 'shufle'. Did you mean 'shuffle'?"),
        ("missing.toml", 20, (), "missing.toml: no such file or directory"),
        ("shuffle", 20, ("--swap-weight", 2), "swap_weight is a switch of GRO"),
        ("dp", 20, ("--from-scratch",), "from_scratch is a switch of GRO"),
        ("truncate-10", 5, (), "defence 'truncate-10': truncate to 10: only 5 items are left at that point"),
        ("tail-shuffle", 5, (), "defence 'tail-shuffle': shuffle freezes the first 10 ranks: only 5 are left"),
        ("tail-shuffle", 10, (), "only 10 are left; give less than 10"),
        ("shuffle", 41, (), "k is 41; the catalogue of tiny has 40 items"),
        ("dp", 20, ("--model", "NARM"), "NARM cannot be trained with differential privacy"),
    ],
)
def test_a_defence_that_cannot_be_put_on_the_target(
    protect: Gro, tmp_path: Path, defence: str, k: int, more: tuple[object, ...], said: str
) -> None:
    answer = protect(defence, k, *more)
    assert answer.code == 2
    assert said in answer.line
    assert not (tmp_path / "runs").exists()


TRUNCATE, REDIRECTION = '{ kind = "truncate", k = 10 }', '{ kind = "redirection" }'


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("serving = [", "own.toml: not a TOML file"),
        ("\N{SNOWMAN}", "own.toml: not a TOML file"),
        ("servings = []", "own.toml: unknown key 'servings'. Did you mean 'serving'?"),
        ("serving = 3", "own.toml: 'serving' is 3"),
        ('serving = ["shuffle"]', "own.toml: 'serving.0' is 'shuffle'"),
        ('serving = [{ kind = "shufle" }]', "own.toml: serving 1: kind is 'shufle'. Did you mean 'shuffle'?"),
        ("serving = [{ kind = [1] }]", "own.toml: serving 1: kind is [1]"),
        ("serving = [{ keep = 3 }]", "own.toml: serving 1: kind is None"),
        ('serving = [{ kind = "shuffle", kep = 3 }]', "serving 1 'shuffle': unknown key 'kep'. Did you mean 'keep'?"),
        ('serving = [{ kind = "truncate" }]', "own.toml: serving 1 'truncate': 'k' is required"),
        (
            f'serving = [{TRUNCATE}, {{ kind = "high-confidence", cutoff = 1.5 }}]',
            "own.toml: serving 2 'high-confidence': 'cutoff' is 1.5: Input should be less than 1",
        ),
        ('serving = [{ kind = "gaussian-noise", scale = inf }]', "'scale' is inf: Input should be a finite number"),
        ('serving = [{ kind = "misinformation", threshold = nan }]', "'threshold' is nan"),
        ('serving = [{ kind = "shuffle", keep = -1 }]', "'keep' is -1: Input should be greater than or equal to 0"),
        (
            f'serving = [{TRUNCATE}, {{ kind = "shuffle", keep = 20 }}]',
            "defence 'own': shuffle freezes the first 20 ranks: only 10 are left; give less than 10",
        ),
        (
            f'serving = [{TRUNCATE}, {{ kind = "gaussian-noise", scale = 0.1 }}]',
            "gaussian-noise changes what truncate is made of; put it before truncate",
        ),
        ('training = { kind = "dq" }', "own.toml: training: kind is 'dq'. Did you mean 'dp'?"),
        ('training = { kind = "ensemble", members = 1 }', "'members' is 1: Input should be greater than or equal to 2"),
        (f'training = {{ kind = "ensemble" }}\nserving = [{REDIRECTION}]', "redirection needs a model with an item"),
        ('noise = "frech"', "own.toml: 'noise' is 'frech'"),
        ('secret = "mine"', "own.toml: 'secret' is not hexadecimal"),
        (f'secret = "{65 * "ab"}"', "own.toml: 'secret' has 65 bytes; give at most 64"),
    ],
)
def test_a_card_that_is_wrong(protect: Gro, tmp_path: Path, card: str, said: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(card, encoding="utf-8")
    answer = protect(own, 20)
    assert answer.code == 2
    assert said in answer.line
    assert not (tmp_path / "runs").exists()
