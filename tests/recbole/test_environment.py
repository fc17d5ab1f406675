from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import random
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import dok_matrix

from gro import _recbole
from gro.errors import MissingExtraError

yaml: Any = importlib.import_module("yaml")
NUMPY_NAMES = ("float_", "complex_", "unicode_", "bool", "int", "float", "complex", "object", "str", "long", "unicode")


def process_state() -> dict[str, Any]:
    """Everything that the environment promises to restore."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    root = logging.getLogger()
    return {
        "argv": (id(sys.argv), list(sys.argv)),
        "streams": (sys.stdout, sys.stderr),
        "environ": dict(os.environ),
        "numpy names": {name: vars(np).get(name) for name in NUMPY_NAMES},
        "random": random.getstate(),
        "numpy random": (numpy_state[1].tolist(), numpy_state[2]),
        "torch random": torch.get_rng_state().tolist(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "anomaly detection": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "logger": (root.level, list(root.handlers), list(root.filters)),
        "warnings": list(warnings.filters),
        "yaml": {key: list(value) for key, value in yaml.FullLoader.yaml_implicit_resolvers.items()},
        "yaml own": "yaml_implicit_resolvers" in vars(yaml.FullLoader),
    }


def make_recbole_touch_everything() -> None:
    """Call what RecBole's own start calls: its config, its seeding and its logger."""
    config = _recbole.require("recbole.config").Config(model="BPR", dataset="ml-100k", config_dict={"gpu_id": "3"})
    utils = _recbole.require("recbole.utils")
    utils.init_seed(7, reproducibility=True)
    logging.getLogger().handlers = []
    utils.init_logger(config)
    os.environ["SOMETHING_ELSE"] = "1"
    warnings.simplefilter("error")
    torch.autograd.set_detect_anomaly(True)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert torch.backends.cudnn.deterministic
    assert len(logging.getLogger().handlers) == 2


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_everything_is_restored() -> None:
    before = process_state()
    with _recbole.recbole_environment():
        make_recbole_touch_everything()
        assert process_state() != before
    assert process_state() == before


def test_everything_is_restored_after_an_exception() -> None:
    before = process_state()
    with suppress(ZeroDivisionError), _recbole.recbole_environment():
        make_recbole_touch_everything()
        raise ZeroDivisionError
    assert process_state() == before


def test_nested_environments_restore_level_by_level() -> None:
    before = process_state()
    with _recbole.recbole_environment():
        inside = process_state()
        with _recbole.recbole_environment():
            make_recbole_touch_everything()
        assert process_state() == inside
    assert process_state() == before


def test_the_draws_of_the_host_go_on_as_if_recbole_had_not_run() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    _recbole.build("GRU4Rec", 9, 4)
    assert torch.equal(torch.rand(3), expected)


def test_numpy_names_are_supplied_only_where_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    marker = type("marker", (), {})
    monkeypatch.setattr(np, "float_", marker, raising=False)
    monkeypatch.delattr(np, "unicode_", raising=False)
    with _recbole.recbole_environment():
        assert vars(np)["float_"] is marker
        assert vars(np)["unicode_"] is np.str_
        assert vars(np)["float"] is np.float64
    assert vars(np)["float_"] is marker
    assert "unicode_" not in vars(np)


def test_scipy_update_is_supplied_only_where_missing() -> None:
    had = "_update" in vars(dok_matrix)
    with _recbole.recbole_environment():
        matrix: Any = dok_matrix((2, 2))
        matrix._update({(0, 1): 5.0})
        assert matrix.toarray().tolist() == [[0, 5], [0, 0]]
    assert ("_update" in vars(dok_matrix)) == had


def test_arguments_of_the_host_do_not_reach_recbole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["host", "--learning_rate=7", "--hidden_size=3", "loose"])
    recommender = _recbole.build("SASRec", 9, 4)
    assert recommender.config["learning_rate"] == 0.001
    assert recommender.config["hidden_size"] == 64
    assert sys.argv == ["host", "--learning_rate=7", "--hidden_size=3", "loose"]


def test_recbole_runs_in_a_host_without_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    assert _recbole.build("SASRec", 9, 4).n_items == 9


def test_yaml_of_the_host_reads_as_before() -> None:
    text = "1e3"
    before = yaml.load(text, Loader=yaml.FullLoader)
    _recbole.build("SASRec", 9, 4)
    assert yaml.load(text, Loader=yaml.FullLoader) == before == "1e3"


def test_a_missing_package_is_named_with_the_two_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    absent = ("recbole", "sklearn")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    message = (
        "RecBole needs recbole, scikit-learn: install with "
        "'pip install gro[recbole] && pip install --no-deps recbole==1.2.1'"
    )
    with pytest.raises(MissingExtraError) as caught, _recbole.recbole_environment():
        pass
    assert str(caught.value) == message
    with pytest.raises(MissingExtraError, match="install with"):
        _recbole.names()


def test_neither_ray_nor_quick_start_is_imported_and_importing_the_bridge_imports_no_recbole() -> None:
    script = """
import sys
import torch

from gro import _recbole
assert "recbole" not in sys.modules
sys.modules["ray"] = None
from gro.config import DataSettings
model = _recbole.build("SASRec", 9, 4)
assert "recbole.model.sequential_recommender.sine" in sys.modules and not torch.is_anomaly_enabled()
_recbole.loaders(_recbole.dataset(DataSettings(dataset="ml-100k", user_inter_num_interval="[700,inf)"), 4))
assert not [name for name in sys.modules if "quick_start" in name or name.startswith("ray.")]
print("fine")
"""
    root = str(Path(_recbole.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        check=False,
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
