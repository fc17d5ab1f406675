"""The fixture for the tests of others."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from gro.errors import ConfigError
from gro.testing import assert_not_stealable

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
CARD = "hidden_size = 8\ninner_size = 8\nn_layers = 1\nn_heads = 1\nsequence_length = 8\nlearning_rate = 0.02\n"


@pytest.fixture(scope="module")
def run(learnt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target, robbed once for all tests."""
    return Path(shutil.copytree(learnt, tmp_path_factory.mktemp("testing") / "target"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cards")
    for name, epochs in (("weak", 1), ("strong", 12)):
        (folder / f"{name}.toml").write_text(f"{CARD}epochs = {epochs}\n")
    (folder / "suite.toml").write_text(f'calls = 400\nthieves = ["{folder}/weak.toml", "{folder}/strong.toml"]\n')
    return str(folder / "suite.toml")


def test_a_target_that_can_be_stolen_fails_by_its_worst_thief(run: Path, suite: str) -> None:
    with pytest.raises(AssertionError, match=r"can be stolen: strong gets an access advantage of 0\.") as error:
        assert_not_stealable(run, max_advantage=0.05, suite=suite)
    assert "with 400 calls; allowed are 0.05" in str(error.value)
    assert str(run) in str(error.value)


def test_a_target_within_the_bar_gives_its_report(run: Path, suite: str) -> None:
    report = assert_not_stealable(run, max_advantage=99, suite=suite)
    assert report["passed"]
    assert report["worst"]["thief"] == "strong"
    assert [row["thief"] for row in report["thieves"]] == ["strong", "weak"]


def test_other_settings_reach_the_suite(run: Path, suite: str) -> None:
    report = assert_not_stealable(run, max_advantage=99, suite=suite, calls=100, seed=2)
    assert (report["worst"]["calls"], report["seed"]) == (100, 2)
    with pytest.raises(ConfigError, match="Did you mean 'seeds'"):
        assert_not_stealable(run, suite=suite, seds=2)


def test_the_fixture_fails_a_test_of_others(run: Path, suite: str, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from gro.testing.plugin import assert_not_stealable")
    pytester.makepyfile(f"""
        def test_within(assert_not_stealable):
            assert assert_not_stealable({str(run)!r}, max_advantage=99, suite={suite!r})["passed"]

        def test_above(assert_not_stealable):
            assert_not_stealable({str(run)!r}, max_advantage=0.05, suite={suite!r})
    """)
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: *can be stolen: strong gets*"])


def test_the_plugin_is_announced_to_pytest() -> None:
    entries: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
        "pytest11"
    ]
    plugin = EntryPoint("gro", entries["gro"], "pytest11").load()
    made: Callable[[], object] = plugin.assert_not_stealable.__wrapped__
    assert made() is assert_not_stealable


def test_a_test_run_without_the_fixture_loads_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from gro.testing.plugin import assert_not_stealable")
    pytester.makepyfile("""
        import sys

        def test_light():
            assert "torch" not in sys.modules
    """)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
