"""Playbook files: what they may say, and what is said of those that may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.service.playbook import SHIPPED, Condition, Playbook, State, read_playbook

Write = Callable[[str], Path]

WATCH = '[[rule]]\nwhen = { score = 0.9, for_calls = 20 }\nthen = "watch"\nfor = "1h"\n'
SUSPEND = '[[rule]]\nwhen = { alarm = true, refusals_per_hour = 10 }\nthen = "suspend"\n'


def rule(when: str, then: str, for_: str = "1h", more: str = "") -> str:
    return f'[[rule]]\nwhen = {{ {when} }}\nthen = "{then}"\nfor = "{for_}"\n{more}\n'


def refused(playbook: str | Path) -> str:
    with pytest.raises(ConfigError) as error:
        read_playbook(playbook)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [path.stem for path in SHIPPED.glob("*.toml")])
def test_shipped_playbooks_need_nothing_of_the_application(name: str) -> None:
    playbook = read_playbook(name)
    assert playbook == read_playbook(SHIPPED / f"{name}.toml")
    playbook.check(hooks=())


def test_watch_only_is_a_dry_run_of_the_default() -> None:
    default, watch_only = read_playbook("default"), read_playbook("watch-only")
    assert (default.dry_run, watch_only.dry_run) == (False, True)
    assert default.rule == watch_only.rule


def test_states_are_ordered_by_harshness() -> None:
    names = ["normal", "watch", "throttle", "challenge", "decoy", "suspend"]
    assert sorted(State, key=lambda state: state, reverse=True) == [State(name) for name in reversed(names)]
    assert [str(state) for state in State] == names


def test_every_line_is_read(write: Write) -> None:
    text = rule("score = 1.5, alarm = true", "challenge", "2d", 'name = "who are you"\nhook = "captcha"')
    playbook = read_playbook(write("dry-run = true\n" + WATCH + SUSPEND + text))
    watch, suspend, challenge = playbook.rule
    assert playbook.dry_run
    assert (watch.name, watch.then, watch.for_) == ("rule 1", State.WATCH, 3_600)
    assert watch.when == Condition(score=0.9, for_calls=20)
    assert (suspend.then, suspend.for_, suspend.when.refusals_per_hour) == (State.SUSPEND, None, 10)
    assert (challenge.name, challenge.hook, challenge.for_) == ("who are you", "captcha", 172_800)
    assert str(challenge.when) == "a score of 1.5 and an alarm"
    assert str(watch.when) == "a score of 0.9 for 20 calls"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'rule' is required"),
        ("rule = 5", "'rule' is 5; it must be tables, [[rule]]"),
        ("rule = [1]", "it must be tables, [[rule]]"),
        ("[rule]\nthen = 5", "it must be tables, [[rule]]"),
        ("dry_rnu = true\n" + WATCH, "unknown key 'dry_rnu'. Did you mean 'dry_run'?"),
        (WATCH.replace("then", "than"), "rule 1: 'then' is required; unknown key 'than'. Did you mean 'then'?"),
        (WATCH.replace("for_calls", "for_cals"), "rule 1, when: unknown key 'for_cals'. Did you mean 'for_calls'?"),
        (WATCH.replace("watch", "wach"), "'then' is 'wach'"),
        (WATCH.replace("watch", "normal"), "accounts return to it by themselves"),
        (WATCH.replace('"1h"', '"1 hour"'), "'for' is '1 hour': it must be a number and a unit, such as '30s'"),
        (WATCH.replace('"1h"', "3600"), "rule 1: 'for' is 3600; it must be a number and a unit, such as '1h'"),
        (WATCH.replace('"1h"', '"0h"'), "'for' is '0h': Input should be greater than 0"),
        (WATCH.replace('for = "1h"\n', ""), "'for' is required: only a suspension may last until an operator ends it"),
        (WATCH.replace("0.9", "0"), "'score' is 0: Input should be greater than 0"),
        (WATCH.replace("0.9", "nan"), "'score' is nan"),
        (WATCH.replace("= 20", "= 0"), "'for_calls' is 0: Input should be greater than 0"),
        (WATCH.replace("score = 0.9, ", ""), "'for_calls' counts calls by their score; give 'score' too"),
        (rule("alarm = false", "watch"), "nothing is asked; give 'score', 'alarm = true' or 'refusals_per_hour'"),
        (rule("", "watch"), "nothing is asked"),
        (rule("alarm = true", "throttle"), "'factor' is required with then = \"throttle\""),
        (rule("alarm = true", "watch", more="factor = 0.5"), "has no meaning with another state"),
        (rule("alarm = true", "throttle", more="factor = 0"), "'factor' is 0: Input should be greater than 0"),
        (rule("alarm = true", "throttle", more="factor = 1.0"), "'factor' is 1.0: Input should be less than 1"),
        (rule("alarm = true", "challenge"), "'hook' is required with then = \"challenge\""),
        (rule("alarm = true", "decoy", more='hook = "x"'), "'hook' is required with then = \"challenge\", and has no"),
        (rule("alarm = true", "decoy", more='name = ""'), "'name' is ''"),
        (WATCH + WATCH.replace("[[rule]]", '[[rule]]\nname = "rule 1"'), "'rule 1' names several rules"),
        (WATCH + WATCH, "rule 1 changes nothing: whenever it is met, rule 2 does as much for as long"),
        (WATCH + rule("score = 0.8, for_calls = 9", "watch", "2h"), "rule 1 changes nothing"),
        (rule("alarm = true", "watch") + rule("alarm = true", "decoy"), "rule 1 changes nothing"),
        (
            rule("refusals_per_hour = 9", "watch", "9d") + rule("refusals_per_hour = 5", "decoy"),
            "rule 1 asks more for watch than rule 2 for decoy; ask more of the latter",
        ),
        (
            rule("alarm = true", "throttle", "1h", "factor = 0.1")
            + rule("alarm = true, score = 2.0", "throttle", "1h", "factor = 0.5"),
            "rule 2 changes nothing",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_line(write: Write, text: str, said: str) -> None:
    path = write(text)
    assert said in refused(path)
    assert str(path) in refused(path)


@pytest.mark.parametrize(
    "text",
    [
        rule("alarm = true", "throttle", "1h", "factor = 0.1") + rule("alarm = true", "watch", "7d"),
        rule("alarm = true", "throttle", "1h", "factor = 0.5")
        + rule("alarm = true, score = 2.0", "throttle", "1h", "factor = 0.1"),
        WATCH + SUSPEND,
    ],
    ids=["it steps down", "it throttles harder", "it rises"],
)
def test_what_can_be_meant_is_read(write: Write, text: str) -> None:
    assert len(read_playbook(write(text)).rule) == 2


def test_hooks_are_registered(write: Write) -> None:
    playbook = read_playbook(write(rule("alarm = true", "challenge", more='hook = "captchas"')))
    playbook.check({"captchas"})
    with pytest.raises(ConfigError, match=r"rule 1: no hook 'captchas' is registered\. Did you mean 'captcha'\?"):
        playbook.check({"captcha", "sms"})
    with pytest.raises(ConfigError, match="Registered: none"):
        playbook.check(())


def test_a_playbook_that_is_not_there(tmp_path: Path) -> None:
    assert refused("defualt").startswith(
        "no playbook 'defualt'. Did you mean 'default'? Playbooks: default, watch-only,"
    )
    assert "no such file" in refused(tmp_path / "none.toml")


CONDITIONS = st.builds(
    Condition,
    score=st.sampled_from([0.5, 1.0, 2.0]),
    for_calls=st.integers(1, 3),
    alarm=st.booleans(),
    refusals_per_hour=st.none() | st.integers(1, 3),
)


@given(CONDITIONS, CONDITIONS, CONDITIONS)
def test_implication_is_a_partial_order(one: Condition, two: Condition, three: Condition) -> None:
    assert one.implies(one)
    if one.implies(two) and two.implies(three):
        assert one.implies(three)
    if one.implies(two) and two.implies(one):
        assert one == two


def test_a_playbook_of_python_is_checked_alike() -> None:
    with pytest.raises(ConfigError, match="'factor' is required"):
        Playbook.make({"rule": ({"name": "a", "when": {"alarm": True}, "then": "throttle", "for": "1h"},)})
