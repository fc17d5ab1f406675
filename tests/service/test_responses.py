"""Responses to accounts: rules, time, operators, challenges, dry runs, restarts; and what no sequence may do."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gro.errors import ConfigError
from gro.service.playbook import Playbook, State, read_playbook
from gro.service.responses import CALM, Response, Responses, Transition

HOUR = 3_600.0
START = 1.8e9
RULES: tuple[dict[str, Any], ...] = (
    {"name": "near", "when": {"score": 0.9, "for_calls": 20}, "then": "watch", "for": "4h"},
    {"name": "alarm", "when": {"alarm": True}, "then": "throttle", "factor": 0.1, "for": "1h"},
    {"name": "refused", "when": {"refusals_per_hour": 100}, "then": "throttle", "factor": 0.5, "for": "30m"},
    {"name": "ask", "when": {"score": 1.2, "for_calls": 40}, "then": "challenge", "hook": "captcha", "for": "2h"},
    {"name": "far", "when": {"score": 1.5, "for_calls": 60}, "then": "decoy", "for": "1d"},
    {"name": "gone", "when": {"score": 2.0, "for_calls": 100}, "then": "suspend"},
)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Desk:
    """Responses, with a clock that is set by hand and everything that was told."""

    def __init__(self, path: Path | None = None, *, dry_run: bool = False, passes: Any = True) -> None:
        self.clock, self.told, self.asked = Clock(), list[Transition](), list[str]()
        self.path, self.passes = path, passes
        self.start(dry_run)

    def start(self, dry_run: bool = False) -> None:
        playbook = Playbook.make({"dry_run": dry_run, "rule": RULES})
        self.responses = Responses(playbook, {"captcha": self.captcha}, self.clock, self.told.append, self.path)

    def restart(self, dry_run: bool = False) -> None:
        self.responses.close()
        self.start(dry_run)

    async def captcha(self, account: str) -> bool:
        self.asked.append(account)
        await asyncio.sleep(0)
        if isinstance(self.passes, Exception):
            raise self.passes
        return bool(self.passes)

    def state(self, account: str = "a") -> State:
        return self.responses.response(account).state

    @property
    def last(self) -> Transition:
        return self.told[-1]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_an_account_that_does_nothing_is_left_alone_and_not_remembered(desk: Desk) -> None:
    for account in range(100):
        desk.responses.scored(str(account), 0.5, alarm=False)
    assert (len(desk.responses), list(desk.responses), desk.told) == (0, [], [])
    assert len(desk.responses._evidence) == 0
    assert desk.responses.response("7") == CALM == Response(State.NORMAL, 1.0)


def test_a_score_counts_after_so_many_calls_in_a_row(desk: Desk) -> None:
    desk.responses.scored("a", 0.95, alarm=False, calls=19)
    desk.responses.scored("a", 0.5, alarm=False)
    desk.responses.scored("a", 0.95, alarm=False, calls=19)
    assert desk.state() is State.NORMAL
    desk.responses.scored("a", 0.9, alarm=False)
    assert desk.state() is State.WATCH
    why = "a score of 0.9 for 20 calls (score 0.9)"
    until = START + 4 * HOUR
    expected = Transition("a", State.NORMAL, State.WATCH, 1.0, why, "near", "playbook", START, until, False)
    assert desk.told == [expected]


def test_a_run_ends_with_a_day_of_silence(desk: Desk) -> None:
    desk.responses.scored("a", 0.95, alarm=False, calls=19)
    desk.clock.now += 24 * HOUR
    desk.responses.scored("a", 0.95, alarm=False)
    assert desk.state() is State.NORMAL
    for account in range(200):
        desk.clock.now += 24 * HOUR
        desk.responses.scored(f"other-{account}", 0.95, alarm=False)
    assert len(desk.responses._evidence) == 1, "the silent ones are forgotten"


def test_an_account_recovers_when_the_rule_was_not_met_for_its_time(desk: Desk) -> None:
    desk.responses.scored("a", 1.0, alarm=True)
    desk.clock.now += 0.9 * HOUR
    desk.responses.scored("a", 1.0, alarm=True)
    desk.clock.now += 0.9 * HOUR
    assert desk.responses.response("a") == Response(State.THROTTLE, 0.1)
    assert len(desk.told) == 1, "that it goes on is no transition"
    desk.clock.now += 0.1 * HOUR
    desk.responses.settle()
    assert (desk.last.before, desk.last.after, desk.last.by) == (State.THROTTLE, State.NORMAL, "playbook")
    assert (desk.last.why, desk.last.rule, desk.last.until) == ("its time is over: an alarm", "alarm", None)
    assert len(desk.responses) == 0


def test_an_account_falls_back_to_what_still_holds_it(desk: Desk) -> None:
    desk.responses.scored("a", 0.95, alarm=True, calls=20)
    assert desk.state() is State.THROTTLE
    desk.clock.now += HOUR
    assert desk.state() is State.WATCH
    assert [(one.before, one.after) for one in desk.told] == [
        (State.NORMAL, State.THROTTLE),
        (State.THROTTLE, State.WATCH),
    ]
    assert desk.last.until == START + 4 * HOUR


def test_refusals_of_an_hour_throttle_and_an_alarm_throttles_harder(desk: Desk) -> None:
    for _ in range(50):
        desk.clock.now += 10
        desk.responses.refused("a", 2)
    assert desk.responses.response("a") == Response(State.THROTTLE, 0.5)
    desk.responses.scored("a", 1.0, alarm=True)
    assert (desk.last.before, desk.last.after, desk.last.factor) == (State.THROTTLE, State.THROTTLE, 0.1)
    desk.clock.now += 2 * HOUR
    for _ in range(99):
        desk.responses.refused("a")
    assert desk.state() is State.NORMAL


def test_only_an_operator_ends_a_suspension_without_a_time(desk: Desk) -> None:
    desk.responses.scored("a", 2.0, alarm=False, calls=100)
    desk.clock.now += 1e9
    desk.responses.settle()
    assert desk.state() is State.SUSPEND
    made = desk.responses.release("a", by="olga", why="a customer's load test")
    assert made is not None
    assert made is desk.last
    assert (made.before, made.after, made.by, made.rule) == (State.SUSPEND, State.NORMAL, "olga", "")
    assert made.why == "a customer's load test"
    assert desk.responses.release("a", by="olga", why="again") is None


def test_what_was_observed_before_a_release_no_longer_counts(desk: Desk) -> None:
    desk.responses.scored("a", 2.0, alarm=False, calls=100)
    desk.responses.refused("a", 99)
    desk.responses.release("a", "olga", "x")
    desk.responses.scored("a", 2.0, alarm=False, calls=19)
    desk.responses.refused("a")
    assert desk.state() is State.NORMAL


def test_an_operator_holds_an_account_and_rules_may_go_further(desk: Desk) -> None:
    desk.responses.scored("a", 1.5, alarm=True, calls=60)
    assert desk.state() is State.DECOY
    made = desk.responses.hold("a", State.WATCH, "olga", "seems fine", until=START + 5 * HOUR)
    assert made is not None
    assert (made.before, made.after, made.until) == (State.DECOY, State.WATCH, START + 5 * HOUR)
    desk.responses.scored("a", 1.0, alarm=True)
    assert desk.state() is State.THROTTLE
    desk.clock.now += HOUR
    assert desk.state() is State.WATCH
    desk.clock.now += 4 * HOUR
    assert desk.state() is State.NORMAL
    assert desk.last.why == "its time is over: seems fine"


def test_a_throttle_by_hand_has_a_factor(desk: Desk) -> None:
    desk.responses.hold("a", State.THROTTLE, "olga", "x")
    assert desk.responses.response("a").factor == 0.1, "the least of the playbook's"
    desk.responses.hold("a", State.THROTTLE, "olga", "x", factor=0.7)
    assert desk.responses.response("a").factor == 0.7


@pytest.mark.parametrize(
    ("state", "more", "said"),
    [
        (State.NORMAL, {}, "cannot be held in 'normal'; release it"),
        (State.WATCH, {"until": START}, "'until' is 1800000000; it must be Unix seconds after 1800000000, now"),
        (State.WATCH, {"until": float("nan")}, "'until' is nan"),
        (State.THROTTLE, {"factor": 1.0}, "'factor' is 1.0"),
    ],
)
def test_a_hold_that_cannot_be_meant_is_refused(desk: Desk, state: State, more: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        desk.responses.hold("a", state, "olga", "x", **more)
    assert desk.told == []


def test_a_challenge_needs_a_hook() -> None:
    responses = Responses(read_playbook("default"))
    with pytest.raises(ConfigError, match="the application registered no hook"):
        responses.hold("a", State.CHALLENGE, "olga", "x")
    with pytest.raises(ConfigError, match="no hook 'captcha' is registered"):
        Responses(Playbook.make({"rule": RULES}))


def test_who_passes_the_challenge_is_let_go_and_who_fails_is_not(desk: Desk) -> None:
    desk.responses.scored("a", 1.2, alarm=True, calls=40)
    assert desk.state() is State.CHALLENGE
    desk.passes = False
    assert not asyncio.run(desk.responses.challenge("a"))
    assert desk.state() is State.CHALLENGE
    desk.passes = True
    assert asyncio.run(desk.responses.challenge("a"))
    assert (desk.last.before, desk.last.after, desk.last.why) == (
        State.CHALLENGE,
        State.THROTTLE,
        "the challenge was passed",
    )
    desk.responses.scored("a", 1.2, alarm=False, calls=39)
    assert desk.state() is State.THROTTLE
    assert not asyncio.run(desk.responses.challenge("a"))
    assert desk.asked == ["a", "a"]


def test_a_hook_that_fails_frees_nobody(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.responses.hold("a", State.CHALLENGE, "olga", "x")
    desk.passes = ValueError("the captcha service is down")
    with pytest.raises(ValueError, match="is down"):
        asyncio.run(desk.responses.challenge("a"))
    monkeypatch.setattr("gro.service.responses.HOOK_SECONDS", 0.01)
    monkeypatch.setattr(desk.responses, "_hooks", {"captcha": lambda account: asyncio.sleep(5, True)})
    with pytest.raises(TimeoutError):
        asyncio.run(desk.responses.challenge("a"))
    assert desk.state() is State.CHALLENGE


def test_one_challenge_at_a_time_and_a_suspension_meanwhile_stays(desk: Desk) -> None:
    desk.responses.hold("a", State.CHALLENGE, "olga", "x")

    async def meanwhile() -> list[bool]:
        first = asyncio.create_task(desk.responses.challenge("a"))
        await asyncio.sleep(0)
        others = [await desk.responses.challenge("a") for _ in range(3)]
        desk.responses.hold("a", State.SUSPEND, "olga", "y")
        return [await first, *others]

    assert asyncio.run(meanwhile()) == [True, False, False, False]
    assert desk.asked == ["a"]
    assert desk.state() is State.SUSPEND


def test_a_dry_run_says_what_it_would_do_and_does_nothing() -> None:
    desk = Desk(dry_run=True)
    desk.responses.scored("a", 1.2, alarm=True, calls=40)
    desk.responses.hold("b", State.SUSPEND, "olga", "x")
    assert [(one.account, one.after, one.dry_run) for one in desk.told] == [
        ("a", State.CHALLENGE, True),
        ("b", State.SUSPEND, True),
    ]
    assert desk.responses.response("a") == desk.responses.response("b") == CALM
    assert not asyncio.run(desk.responses.challenge("a"))
    assert desk.asked == []
    assert [hold.state for hold in desk.responses.holds("a")] == [State.CHALLENGE, State.THROTTLE, State.WATCH]


def test_a_clock_that_goes_back_frees_nobody_and_holds_nobody_longer(desk: Desk) -> None:
    desk.responses.scored("a", 1.0, alarm=True)
    desk.responses.hold("b", State.SUSPEND, "olga", "until a date", until=START + 2 * HOUR)
    desk.clock.now += 0.5 * HOUR
    desk.responses.settle()
    desk.clock.now -= 1_000 * HOUR
    assert desk.state() is State.THROTTLE
    desk.clock.now += 0.49 * HOUR
    assert desk.state() is State.THROTTLE
    desk.clock.now += 0.02 * HOUR
    assert desk.state() is State.NORMAL
    desk.clock.now += 1.9 * HOUR
    assert desk.state("b") is State.SUSPEND, "a date is a date"


def test_a_clock_that_goes_back_over_a_restart_holds_nobody_longer(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "held.jsonl")
    desk.responses.scored("a", 1.0, alarm=True)
    desk.clock.now -= 1_000 * HOUR
    desk.restart()
    assert desk.state() is State.THROTTLE
    desk.clock.now += HOUR
    assert desk.state() is State.NORMAL


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_is_a_number(desk: Desk, score: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        desk.responses.scored("a", score, alarm=False)


# On disk.


def test_a_restart_frees_nobody(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "held.jsonl")
    desk.responses.scored("a", 2.0, alarm=True, calls=100)
    desk.responses.hold('b\n"ö', State.DECOY, "olga", "x", until=START + HOUR)
    desk.responses.scored("c", 1.0, alarm=True)
    desk.responses.release("c", "olga", "y")
    told, before = len(desk.told), desk.responses.holds("a")
    desk.restart()
    assert desk.responses.holds("a") == before
    assert desk.responses.response("a") == Response(State.SUSPEND, 0.1)
    assert (desk.state('b\n"ö'), desk.state("c"), len(desk.responses)) == (State.DECOY, State.NORMAL, 2)
    assert len(desk.told) == told, "a restart is no transition"
    desk.clock.now += HOUR
    desk.responses.settle()
    assert {one.account for one in desk.told[told:]} == {'b\n"ö', "a"}


def test_what_was_held_longer_is_held_longer_after_a_kill(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "held.jsonl")
    desk.responses.scored("a", 1.0, alarm=True)
    desk.clock.now += 0.9 * HOUR
    desk.responses.scored("a", 1.0, alarm=True)
    desk.responses.settle()
    desk.responses._journal.close()  # type: ignore[union-attr]  # as a kill does
    desk.start()
    desk.clock.now += 0.9 * HOUR
    assert desk.state() is State.THROTTLE


def test_a_dry_run_neither_acts_on_nor_forgets_what_was_held_and_leaves_nothing_behind(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "held.jsonl")
    desk.responses.scored("a", 2.0, alarm=False, calls=100)
    desk.restart(dry_run=True)
    assert desk.state() is State.NORMAL
    for account in "ab":
        desk.responses.scored(account, 2.0, alarm=True, calls=100)
    desk.restart(dry_run=False)
    assert (desk.state("a"), desk.state("b")) == (State.SUSPEND, State.NORMAL)


def test_a_long_file_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gro.service.journal.SPARE", 50)
    desk = Desk(tmp_path / "held.jsonl")
    desk.responses.hold("held", State.SUSPEND, "olga", "x")
    for _ in range(40):
        desk.responses.hold("a", State.DECOY, "olga", "x")
        desk.responses.release("a", "olga", "y")
    desk.responses.settle()
    assert len((tmp_path / "held.jsonl").read_text().splitlines()) == 2
    desk.restart()
    assert list(desk.responses) == ["held"]


def test_what_cannot_be_written_is_in_force_and_said_and_written_later(tmp_path: Path) -> None:
    path = tmp_path / "held.jsonl"
    desk = Desk(path)
    path.rename(tmp_path / "away")
    path.mkdir()
    desk.responses.hold("a", State.SUSPEND, "olga", "x")
    assert desk.state() is State.SUSPEND
    with pytest.raises(ConfigError, match=r"held\.jsonl: is a directory"):
        desk.responses.settle()
    path.rmdir()
    desk.responses.settle()
    desk.restart()
    assert desk.state() is State.SUSPEND


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[:-7], "line 3 is cut off; restore held.jsonl from a backup, or remove the line"),
        (lambda text: text.replace('"state":"suspend"', '"state":"asleep"'), "line 2: 'holds.0.state' is 'asleep'"),
        (lambda text: text.replace('{"at"', '{"at'), "line 2: "),
        (lambda text: text.replace('"account":"a",', ""), "line 2: 'account' is required"),
        (lambda text: "\n" + text, "not a file of held accounts"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "not a file of held accounts"),
        (lambda text: "", "not a file of held accounts"),
        (lambda text: text.splitlines()[0], "line 2 is cut off"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, damage: Callable[[str], str], said: str) -> None:
    path = tmp_path / "held.jsonl"
    desk = Desk(path)
    desk.responses.hold("a", State.SUSPEND, "olga", "x")
    desk.responses.hold("b", State.SUSPEND, "olga", "x")
    desk.responses.close()
    path.write_text(damage(path.read_text()))
    with pytest.raises(ConfigError) as error:
        desk.start()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "held.jsonl"
    Desk(path).responses.close()
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="mode 0666 leaves it to others"):
        Desk(path)


def test_a_file_belongs_to_one_process(tmp_path: Path) -> None:
    path = tmp_path / "held.jsonl"
    desk = Desk(path)
    with pytest.raises(ConfigError) as error:
        Desk(path)
    assert str(error.value) == f"{path}: another process has it; each replica needs a file of its own"
    desk.responses.close()
    Desk(path).responses.close()


def test_a_hook_that_is_gone_is_named_at_the_start(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "held.jsonl")
    desk.responses.hold("a", State.CHALLENGE, "olga", "x")
    desk.responses.close()
    with pytest.raises(ConfigError, match="account 'a' is held for hook 'captcha', which is not registered"):
        Responses(read_playbook("default"), path=tmp_path / "held.jsonl")


ACCOUNTS = st.sampled_from("abc")
HARSH = [state for state in State if state is not State.NORMAL]


class Sequences(RuleBasedStateMachine):
    """Any sequence of scores, refusals, operators, time, clocks and restarts."""

    @initialize(dry_run=st.booleans())
    def begin(self, dry_run: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.dry_run = dry_run
        self.desk = Desk(Path(self.folder.name) / "held.jsonl", dry_run=dry_run)
        self.highest = dict.fromkeys("abc", State.NORMAL)  # that a rule or an operator gave since the last release
        self.followed = dict.fromkeys("abc", Response(State.NORMAL, 1.0))  # by the transitions that were told
        self.seen = 0

    @rule(
        account=ACCOUNTS,
        score=st.sampled_from([0.1, 0.9, 1.2, 1.5, 2.0]),
        alarm=st.booleans(),
        calls=st.sampled_from([1, 20, 40, 100]),
    )
    def scored(self, account: str, score: float, alarm: bool, calls: int) -> None:
        self.desk.responses.scored(account, score, alarm, calls)
        for one in RULES:
            when = one["when"]
            if score >= when.get("score", 9) or (alarm and when.get("alarm")):
                self.highest[account] = max(self.highest[account], State(one["then"]))

    @rule(account=ACCOUNTS, calls=st.sampled_from([1, 60]))
    def refused(self, account: str, calls: int) -> None:
        self.desk.responses.refused(account, calls)
        self.highest[account] = max(self.highest[account], State.THROTTLE)

    @rule(account=ACCOUNTS, state=st.sampled_from(HARSH), hours=st.none() | st.sampled_from([0.5, 3.0]))
    def hold(self, account: str, state: State, hours: float | None) -> None:
        until = None if hours is None else self.desk.clock.now + hours * HOUR
        made = self.desk.responses.hold(account, state, "olga", "by hand", until)
        assert self.followed_now(account).state is state
        assert made is None or made is self.desk.last
        self.highest[account] = max(self.highest[account], state)

    @rule(account=ACCOUNTS)
    def release(self, account: str) -> None:
        self.desk.responses.release(account, "olga", "fine")
        assert self.followed_now(account) == CALM
        assert self.desk.responses.holds(account) == ()
        self.highest[account] = State.NORMAL

    @rule(account=ACCOUNTS, passes=st.booleans())
    def challenge(self, account: str, passes: bool) -> None:
        self.desk.passes = passes
        was = self.desk.state(account)
        passed = asyncio.run(self.desk.responses.challenge(account))
        assert passed is (was is State.CHALLENGE and passes)
        assert not passed or self.desk.state(account) < State.CHALLENGE

    @rule(hours=st.sampled_from([-50.0, -1.0, 0.1, 0.6, 2.0, 30.0]))
    def time(self, hours: float) -> None:
        self.desk.clock.now += hours * HOUR

    @rule()
    def settle(self) -> None:
        self.desk.responses.settle()

    @rule()
    def restart(self) -> None:
        before = {account: self.desk.responses.holds(account) for account in "abc"}
        self.desk.restart(self.dry_run)
        assert {account: self.desk.responses.holds(account) for account in "abc"} == before

    def followed_now(self, account: str) -> Response:
        """What transitions say of an account, once what is over has been let go."""
        self.desk.responses.holds(account)
        for made in self.desk.told[self.seen :]:
            at = self.followed[made.account]
            assert made.before is at.state
            assert (made.after, made.factor) != (at.state, at.factor), "a transition changes something"
            assert made.dry_run is self.dry_run
            assert made.why
            self.followed[made.account] = Response(made.after, made.factor)
        self.seen = len(self.desk.told)
        return self.followed[account]

    @invariant()
    def what_was_told_is_what_is_done(self) -> None:
        for account in "abc":
            told = self.followed_now(account)
            assert self.desk.responses.response(account) == (CALM if self.dry_run else told)
            held = [hold.state for hold in self.desk.responses.holds(account)]
            assert told.state is max(held, default=State.NORMAL)

    @invariant()
    def no_state_is_harsher_than_was_given(self) -> None:
        for account in "abc":
            assert self.followed_now(account).state <= self.highest[account]

    @precondition(lambda self: self.dry_run)
    @invariant()
    def a_dry_run_asks_nobody(self) -> None:
        assert self.desk.asked == []

    @invariant()
    def only_what_is_held_is_remembered(self) -> None:
        assert set(self.desk.responses) == {account for account in "abc" if self.desk.responses.holds(account)}

    def teardown(self) -> None:
        if hasattr(self, "desk"):
            self.desk.responses.close()
            lines = Path(self.folder.name, "held.jsonl").read_text().splitlines()
            assert all(json.loads(line) for line in lines)
            self.folder.cleanup()


Sequences.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_any_sequence = Sequences.TestCase


def test_a_transition_can_be_logged() -> None:
    desk = Desk()
    desk.responses.scored("a", 1.0, alarm=True)
    fields = {name: str(value) for name, value in dataclasses.asdict(desk.last).items()}
    assert fields["before"] == "normal"
    assert fields["after"] == "throttle"
