"""Whether two artifacts are the same, and how alike they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gro import artifacts
from gro.artifacts import Artifact
from gro.cli import main
from gro.models import StateRecommender
from gro.ownership.compare import after_permutation, compare, linear_cka, shared_space
from gro.ownership.washing import disguised, quantised

Gro = Any
SIZES = ("--inner-size", "8", "--n-layers", "1", "--n-heads", "1", "--k", "5")
seeds = st.integers(0, 1 << 32)


@pytest.fixture(scope="module")
def raised(learnt: Path, data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train something on the data of ``learnt``."""

    def train(*flags: str, width: int = 8) -> Path:
        out = tmp_path_factory.mktemp("raised") / "run"
        data = ("--dataset", "tiny", "--data-path", str(data_path), "--out", str(out), "--quiet")
        length = ("--epochs", "10", "--learning-rate", "0.01", "--patience", "0")
        assert main(["train", *data, *length, *SIZES, "--hidden-size", str(width), *flags]) == 0
        return out

    return train


@pytest.fixture(scope="module")
def stranger(raised: Callable[..., Path]) -> Path:
    return raised("--seed", "7")


def rewritten(run: Path, out: Path, model: StateRecommender | None = None, order: list[int] | None = None) -> Path:
    """The artifact again, with another model or its items in another order."""
    was: Artifact = artifacts.load(run)
    model, tokens = model or was.model, was.item_tokens
    if order is not None:
        tokens = tokens[order]
        with torch.no_grad():
            model.head.weight.copy_(model.head.weight[order])
    artifacts.save(
        out,
        model=model,
        settings=was.manifest.model,
        item_tokens=tokens,
        dataset=was.manifest.dataset.model_dump(),
        seed=0,
        command=was.manifest.settings,
        metrics={},
    )
    return out


def compared(first: Path, second: Path, data_path: Path, innocents: Path | None = None) -> dict[str, Any]:
    return compare(first, second, innocents, data_path, "cpu")


@given(seeds)
def test_cka_does_not_see_a_rotation_a_scale_or_a_shift(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 30, 6))
    turned = 3 * y @ np.linalg.qr(rng.standard_normal((6, 6)))[0] + rng.standard_normal(6)
    assert linear_cka(x, turned) == pytest.approx(linear_cka(x, y)) == pytest.approx(linear_cka(turned, x))
    assert linear_cka(x, 2 * x + 1) == pytest.approx(1)
    assert 0 <= linear_cka(x, y) < 1


@given(seeds)
def test_the_shared_space_is_that_of_the_canonical_correlations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 30, 4))
    between = np.corrcoef(x.T, y.T)
    xx, xy, yy = between[:4, :4], between[:4, 4:], between[4:, 4:]
    squared = np.trace(np.linalg.solve(xx, xy) @ np.linalg.solve(yy, xy.T))
    assert shared_space(x, y) == pytest.approx(squared / 4)
    assert shared_space(x, x @ rng.standard_normal((4, 4)) + 5) == pytest.approx(1)
    assert shared_space(x, np.hstack([x, y])) == pytest.approx(0.5)


def test_unrelated_tables_share_what_chance_gives() -> None:
    drawn = [shared_space(*np.random.default_rng(seed).standard_normal((2, 101, 10))) for seed in range(200)]
    assert np.mean(drawn) == pytest.approx(0.1, abs=0.005)


@given(seeds)
def test_a_permutation_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 40, 5))
    assert after_permutation(x, 0.3 * x[:, rng.permutation(5)] - 2) == pytest.approx(1)
    assert after_permutation(x, y) < 0.9


def test_an_artifact_is_itself(learnt: Path, data_path: Path) -> None:
    found = compared(learnt, learnt, data_path)
    assert found["same"] == {"files": True, "weights": True, "permutation": True, "linear map": True}
    assert found["similarity"] == pytest.approx({"cka": 1, "space": 1, "permuted": 1, "agreement": 1})
    assert found["innocents"] is None


def test_a_disguise_is_seen_through(learnt: Path, data_path: Path, tmp_path: Path) -> None:
    worn = rewritten(learnt, tmp_path / "worn", disguised(artifacts.load(learnt).model, seed=3))
    found = compared(learnt, worn, data_path)
    assert found["same"] == {"files": False, "weights": False, "permutation": True, "linear map": True}
    assert found["similarity"]["agreement"] > 0.99


def test_a_recurrent_disguise_is_a_linear_map(raised: Callable[..., Path], data_path: Path, tmp_path: Path) -> None:
    plain = raised("--model", "GRU4Rec")
    worn = rewritten(plain, tmp_path / "worn", disguised(artifacts.load(plain).model, seed=3))
    found = compared(plain, worn, data_path)
    assert found["same"] == {"files": False, "weights": False, "permutation": False, "linear map": True}
    assert found["similarity"]["agreement"] > 0.99


def test_coarse_weights_are_alike_and_not_the_same(learnt: Path, data_path: Path, tmp_path: Path) -> None:
    coarse = rewritten(learnt, tmp_path / "coarse", quantised(artifacts.load(learnt).model, bits=5))
    found = compared(learnt, coarse, data_path)
    assert not any(found["same"].values())
    assert found["similarity"]["cka"] > 0.9


def test_the_order_of_the_items_does_not_matter(learnt: Path, data_path: Path, tmp_path: Path) -> None:
    order = [0, *(1 + np.random.default_rng(0).permutation(artifacts.load(learnt).model.n_items))]
    found = compared(learnt, rewritten(learnt, tmp_path / "other", order=order), data_path)
    assert found["same"] == {"files": False, "weights": False, "permutation": True, "linear map": True}
    assert found["similarity"] == pytest.approx({"cka": 1, "space": 1, "permuted": 1, "agreement": 1})


def test_an_independent_model_is_another(learnt: Path, stranger: Path, data_path: Path) -> None:
    found = compared(learnt, stranger, data_path)
    assert not any(found["same"].values())
    assert all(value < 0.99 for value in found["similarity"].values())


def test_a_table_of_another_width_has_no_permutation(
    learnt: Path, raised: Callable[..., Path], data_path: Path
) -> None:
    found = compared(learnt, raised(width=4), data_path)
    assert found["similarity"]["permuted"] is None
    assert found["similarity"]["space"] <= 0.5
    assert not found["same"]["permutation"]


def test_innocents_say_what_is_usual(gro: Gro, learnt: Path, stranger: Path, data_path: Path, tmp_path: Path) -> None:
    made = ("own", "innocents", learnt, "--out", tmp_path / "innocents", "--count", "4", "--data-path", data_path)
    assert gro(*made, "--quiet").code == 0
    common = ("--innocents", tmp_path / "innocents", "--data-path", data_path, "--json")
    copy = rewritten(learnt, tmp_path / "copy", quantised(artifacts.load(learnt).model, bits=6))
    near, far = (gro("own", "compare", learnt, other, *common).json["innocents"] for other in (copy, stranger))
    least = 1 / (1 + near["cka"]["strata"][near["cka"]["nearest"]]["innocents"])
    assert near["cka"]["p_value"] == near["space"]["p_value"] == pytest.approx(least)
    assert far["space"]["p_value"] > near["space"]["p_value"]


def test_a_theft_is_compared_as_its_clones_answer(gro: Gro, learnt: Path, data_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "theft"
    stolen = ("--thief", "ensemble", "--calls", "400", "--epochs", "1", "--clones", "SASRec", "--clones", "GRU4Rec")
    assert gro("attack", learnt, *stolen, "--data-path", data_path, "--out", out, "--quiet").code == 0
    found = compared(learnt, out, data_path)
    assert not any(found["same"].values())
    assert 0 < found["similarity"]["agreement"] < 1


def test_the_table_names_every_figure(gro: Gro, learnt: Path, stranger: Path, data_path: Path) -> None:
    answer = gro("own", "compare", learnt, stranger, "--data-path", data_path, "--quiet")
    assert answer.code == 0
    assert answer.out.startswith(f"{learnt} and {stranger}\n")
    assert answer.out.count(" no ") == 4
    assert "linear CKA" in answer.out


@pytest.mark.parametrize("count", [1, 3])
def test_two_artifacts_are_compared(gro: Gro, learnt: Path, count: int) -> None:
    answer = gro("own", "compare", *[learnt] * count)
    assert answer.code == 2
    assert answer.line == f"gro: {count} artifact(s) given; gro own compare takes two"


def test_another_catalogue_is_refused(gro: Gro, learnt: Path, data_path: Path, tmp_path: Path) -> None:
    was = artifacts.load(learnt)
    tokens = ["[PAD]", *(f"x{token}" if number % 2 else token for number, token in enumerate(was.item_tokens[1:]))]
    artifacts.save(
        tmp_path / "foreign",
        model=was.model,
        settings=was.manifest.model,
        item_tokens=tokens,
        dataset=was.manifest.dataset.model_dump(),
        seed=0,
        command={},
        metrics={},
    )
    answer = gro("own", "compare", learnt, tmp_path / "foreign", "--data-path", data_path, "--quiet")
    assert answer.code == 2
    assert "of another catalogue: of its 40 items and the other's 40, 20 are shared" in answer.line
