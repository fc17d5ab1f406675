"""Suites of thieves and what their cards may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gro import cards
from gro.errors import ConfigError
from gro_surrogates.cards import thief_settings
from gro_surrogates.suites import read_suite

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a suite's card and return its path."""

    def write(text: str, name: str = "mine") -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        return str(path)

    return write


def refused(suite: str) -> str:
    with pytest.raises(ConfigError) as error:
        read_suite(suite)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", cards.names("surrogates/suites"))
def test_shipped_suites_can_be_played(name: str) -> None:
    suite = read_suite(name)
    names = [thief.name for thief in suite.thieves]
    assert suite.name == name
    assert len(names) == len(set(names)) > 0
    assert list(suite.curve) == sorted(suite.curve)
    for thief in suite.thieves:
        assert thief.settings == thief_settings(thief.card, thief.overrides)


@pytest.mark.parametrize("name", cards.names("surrogates"))
def test_shipped_thieves_say_something_of_their_own(name: str) -> None:
    assert thief_settings(name, {"stop_gain": 0.5}).stop_gain == 0.5
    assert cards.read("surrogates", name)[0]


def test_included_thieves_come_first_and_nobody_twice(write: Write) -> None:
    first = write('thieves = ["random", { card = "mix", loss = "set" }]\ncalls = 7\ncurve = [0.5]', "first")
    second = write('thieves = ["mix", "random"]', "second")
    both = write(f'include = ["{first}", "{second}"]\nthieves = ["agent", {{ loss = "set", card = "mix" }}]')
    suite = read_suite(both)
    assert [thief.name for thief in suite.thieves] == ["random", "mix loss=set", "mix", "agent"]
    assert (suite.name, suite.calls, suite.curve) == ("mine", 50_000, ())
    assert (read_suite(first).calls, read_suite(first).curve) == (7, (0.5,))


def test_a_suite_may_be_included_by_two_of_the_included(write: Write) -> None:
    base = write('thieves = ["random"]', "base")
    left, right = (write(f'include = ["{base}"]\nthieves = ["{name}"]', name) for name in ("mix", "agent"))
    assert [t.name for t in read_suite(write(f'include = ["{left}", "{right}"]')).thieves] == ["random", "mix", "agent"]


def test_overrides_win_over_the_card_and_name_the_thief(write: Write, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('queries = "random"\nloss = "bpr"\n')
    text = f'thieves = [{{ card = "{own}", loss = "set", sequence-length = 4, clones = ["NARM", "GRU4Rec"] }}]'
    (thief,) = read_suite(write(text)).thieves
    assert thief.name == "own loss=set sequence_length=4 clones=NARM+GRU4Rec"
    assert thief.overrides == {"loss": "set", "sequence_length": 4, "clones": ["NARM", "GRU4Rec"]}
    assert (thief.settings.queries, thief.settings.loss, thief.settings.sequence_length) == ("random", "set", 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('thieves = ["autoregresive"]', "no card 'autoregresive'"),
        ('thieves = ["autoregresive"]', "Did you mean 'autoregressive'?"),
        ('thieves = [{ card = "mix", loss = "listwize" }]', "'loss' is 'listwize'"),
        ('thieves = [{ card = "mix", loss = "listwize" }]', "Did you mean 'listwise'?"),
        ('thieves = [{ card = "mix", queries = "randon" }]', "Did you mean 'random'?"),
        ('thieves = [{ card = "mix", trunkate = 3 }]', "unknown key 'trunkate'. Did you mean 'truncate'?"),
        ('thieves = [{ card = "mix", truncate = 0 }]', "'truncate' is 0"),
        ('thieves = [{ card = "mix", pretrain = true }]', "pretrain needs known above 0"),
        ('thieves = [{ card = "mix", sign = "steady" }]', "sign = 'steady' needs backtrack above 0"),
        ('thieves = [{ loss = "set" }]', "a thief needs a card"),
        ("thieves = [{ card = 3 }]", "a thief needs a card"),
        ('thieves = "mix"', "'thieves' is 'mix'"),
        ('thiefs = ["mix"]', "unknown key 'thiefs'. Did you mean 'thieves'?"),
        ('thieves = ["mix"]\ncalls = 0', "'calls' is 0"),
        ('thieves = ["mix"]\ncurve = [1.0]', "'curve.0' is 1.0"),
        ("calls = 3", "a suite needs thieves"),
        ("calls = ", "not a TOML file"),
        ('include = ["standart"]', "Did you mean 'standard'?"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(write: Write, text: str, said: str) -> None:
    suite = write(text)
    line = refused(suite)
    assert said in line
    if "include" not in text:
        assert line.startswith(f"{suite}: ")


def test_an_unknown_suite_names_the_nearest() -> None:
    assert "no card 'standerd'" in refused("standerd")
    assert "Did you mean 'standard'?" in refused("standerd")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(str(tmp_path / "none.toml")) == f"{tmp_path / 'none.toml'}: no such file or directory"


def test_suites_that_include_each_other_are_refused(write: Write, tmp_path: Path) -> None:
    itself = write(f'include = ["{tmp_path / "itself.toml"}"]\nthieves = ["mix"]', "itself")
    assert refused(itself) == f"{itself}: includes '{itself}', which includes it"
    write(f'include = ["{tmp_path / "c.toml"}"]', "b")
    write(f'include = ["{tmp_path / "a.toml"}"]\nthieves = ["mix"]', "c")
    ring = write(f'include = ["{tmp_path / "b.toml"}"]', "a")
    assert f"includes '{ring}', which includes it" in refused(ring)


def test_two_thieves_of_one_name_are_refused(write: Write, tmp_path: Path) -> None:
    for folder, loss in (("a", "set"), ("b", "bpr")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.toml").write_text(f'loss = "{loss}"\n')
    suite = write(f'thieves = ["{tmp_path}/a/t.toml", "{tmp_path}/b/t.toml"]')
    assert "two thieves are called 't'" in refused(suite)
