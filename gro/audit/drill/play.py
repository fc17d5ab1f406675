"""The verb ``gro.audit.drill.play.drill``: what the guard does to thieves, and to people, before it has to."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gro import artifacts, provenance
from gro.artifacts import Artifact
from gro.audit.drill import report
from gro.audit.drill.door import Door, opened
from gro.audit.drill.people import People, account, answer, split
from gro.audit.drill.settings import DrillCommand
from gro.audit.drill.thieves import Alarm, Gang, Play, School, Sharing, distinct
from gro.defenses.served import digest, exposed_by, served
from gro.errors import DataError
from gro.evaluation import utility_report
from gro.models import Recommender
from gro.runs import Run, dataset_of, device_named, lists_of
from gro.service.monitor.calibration import calibrate
from gro.service.monitor.files import read, write
from gro.service.playbook import State, read_playbook
from gro.service.reference import About
from gro.serving import RankingService
from gro_surrogates.suites import Suite, SuiteThief, read_suite

CALIBRATION, ABOUT = "calibration.safetensors", "calibration.json"


def drill(told: Callable[[str], None] = lambda line: None, **settings: Any) -> Run:
    """Serve a run behind the guard, send it thieves and real users over HTTP, and say what the guard did to each.

    The monitor is calibrated on two thirds of the dataset's users; the others are replayed while the thieves ask, each
    thief alone and with colluding accounts that share its questions. A calibration that is there is used again.

    Args:
        told: receives a line as each thing is done.
        settings: those of :class:`gro.audit.drill.settings.DrillCommand`.

    Returns:
        A folder with the calibration, ``report.json`` and ``report.md``. The report has "people", who was flagged of
        the users held out; "thieves", a row for each way of asking and sharing, with what the copy is worth when the
        last account is flagged; and "date", "machine" and "versions".

    Raises:
        GroError: as :func:`gro.attack`; or the suite or the playbook is malformed, or the dataset has too few users for
            that share of false alarms.
    """
    command = DrillCommand.make(settings)
    read_playbook(command.playbook)
    suite, artifact = read_suite(command.suite), artifacts.load(command.run)
    sequences, device = dataset_of(artifact, command.data_path), device_named(command.device)
    k = command.k or lists_of(artifact)
    target, asked = (served(artifact, k, command.seed, device) for _ in range(2))  # asking draws the noise of calls
    service = RankingService(asked, exposed_by(asked, k))
    out = command.out or command.run.with_name(f"{command.run.name}.drill") / suite.name
    longest, model = artifact.model.max_length, artifact.manifest.model.model
    calibrating, held_out = split(sequences.n_users, command.seed)
    calibration = _calibrated(command, artifact, service, People(sequences, calibrating, longest, command.seed), out)
    told(f"calibrated on {len(calibrating):,} users")
    replayed = np.random.default_rng(command.seed).permutation(held_out)[: command.users]
    people = _Passers(People(sequences, replayed, longest, command.seed + 1))
    stage = _Stage(command, suite, School(sequences, longest, command.calls, command.together, device), told)
    about = About(dataset=sequences.name, model=model, n_items=sequences.n_items, k=service.k)
    with TemporaryDirectory(prefix="gro-drill-") as folder:
        accounts = [*map(account, replayed.tolist()), *stage.accounts]
        with opened(service, about, accounts, Path(folder), calibration, command.playbook) as door:
            plays = stage.play(door, people, service.k)
            people.finish(door)
    told(f"replayed {people.calls:,} calls of {len(replayed):,} users")
    found = {
        "run": str(command.run),
        "users": sequences.n_users,
        "suite": suite.name,
        "playbook": Path(command.playbook).stem,
        **about.model_dump(),
        **{name: getattr(command, name) for name in ("calls", "together", "seed", "seeds")},
        "target": utility_report(target, sequences.test, command.seed),
        "calibration": _rests_on(calibration),
        "people": people.report(),
        "thieves": stage.rows(plays, target),
        **provenance.here_and_now(),
        "versions": provenance.versions(),
    }
    report.write_to(out, found)
    return Run(out, found)


def _calibrated(command: DrillCommand, artifact: Artifact, service: RankingService, people: People, out: Path) -> Path:
    """Calibrate, or find the calibration of the same command; it sees the given people alone."""
    path, about = out / CALIBRATION, out / ABOUT
    described = {
        "target": artifact.manifest.files,
        "behind": digest(artifact),
        "dataset": artifact.manifest.dataset.digest,
        "k": service.k,
        **{name: getattr(command, name) for name in ("seed", "false_alarms", "confidence")},
        "versions": provenance.versions(),
    }
    with suppress(OSError, ValueError):
        if json.loads(about.read_text(encoding="utf-8")) == described and path.exists():
            return path
    with TemporaryDirectory(prefix="gro-drill-") as folder:
        log = answer(people, service, service.k, service.model.n_items, Path(folder) / "lists.npy")
        made = calibrate(log, command.false_alarms, command.confidence)
    try:
        about.unlink(missing_ok=True)
        write(path, made)
        about.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{out}: the calibration cannot be written: {error.strerror or error}") from None
    return path


def _rests_on(calibration: Path) -> dict[str, Any]:
    made = read(calibration)
    return {
        "accounts": made.accounts,
        "false_alarms": made.false_alarms,
        "confidence": made.confidence,
        "threshold": made.detector.threshold,
        "ignored": list(made.detector.ignored),
    }


@dataclass
class _Passers:
    """The users held out, who call whenever a thief does, and what was done to them."""

    people: People
    calls: int = 0
    refused: int = 0
    alarms: dict[int, Alarm] = field(default_factory=dict)
    states: dict[int, State] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._coming = iter(self.people)
        self._own = defaultdict[int, int](int)

    def step(self, door: Door) -> bool:
        """Let the next call be made; whether there was one."""
        user, history = next(self._coming, (None, None))
        if user is None or history is None:
            return False
        name = account(user)
        self.refused += not door.ask(name, history.tolist())
        self.calls += 1
        self._own[user] += 1
        judged = door.alarm(name)
        if judged is not None:
            self.alarms.setdefault(user, Alarm(self.calls, self._own[user], judged))
            self.states[user] = max(self.states.get(user, State.NORMAL), door.state(name))
        return True

    def finish(self, door: Door) -> None:
        """Let all calls be made that are left."""
        while self.step(door):
            pass

    def report(self) -> dict[str, Any]:
        """Who was flagged in their whole history."""
        flagged = [
            {"user": user, "harshest": str(self.states[user]), **report.alarm(alarm), "calls_in_all": self._own[user]}
            for user, alarm in sorted(self.alarms.items())
        ]
        counts = {"users": len(self.people.users), "calls": self.calls, "refused": self.refused}
        return {**counts, **report.share(len(flagged), len(self.people.users)), "flagged": flagged}


@dataclass(frozen=True)
class _Cast:
    """A thief with its accounts, a seed."""

    thief: SuiteThief
    sharing: Sharing | None
    seed: int
    accounts: Sequence[str]

    @property
    def name(self) -> str:
        """What it is called while it plays."""
        shared = f", {len(self.accounts)} accounts by {self.sharing}" if self.sharing else ""
        return f"{self.thief.name}{shared}, seed {self.seed}"


class _Stage:
    """Every thief of a suite, alone and in company, with every seed."""

    def __init__(self, command: DrillCommand, suite: Suite, school: School, told: Callable[[str], None]) -> None:
        self._school, self._told = school, told
        self._seeds = range(command.seed, command.seed + command.seeds)
        self._casts = list(self._cast(command, list(distinct(suite))))

    @property
    def accounts(self) -> Iterator[str]:
        """Names of all accounts."""
        return (name for cast in self._casts for name in cast.accounts)

    def play(self, door: Door, people: _Passers, k: int) -> list[Play]:
        """Let all thieves ask, one after the other."""
        plays = []
        for cast in self._casts:
            gang = Gang(door, cast.accounts, cast.sharing or "call", k, lambda: people.step(door))
            plays.append(self._school.play(cast.thief, gang, cast.seed))
            self._told(f"{cast.name}: {'caught' if gang.caught else 'not caught'} after {gang.calls:,} calls")
        return plays

    def rows(self, plays: Sequence[Play], target: Recommender) -> list[dict[str, Any]]:
        """The figures of each thief and way of sharing over the seeds, and what the copy of the first is worth."""
        rows = []
        for start in range(0, len(plays), len(self._seeds)):
            cast, some = self._casts[start], plays[start : start + len(self._seeds)]
            who = {
                "thief": cast.thief.name,
                "knowledge": cast.thief.settings.knowledge,
                "known": cast.thief.settings.known,
                "accounts": len(cast.accounts),
                "sharing": cast.sharing,
            }
            stolen = self._school.copy(cast.thief, some[0], target, cast.seed)
            rows.append({**who, **report.caught([play.gang for play in some]), "copy": stolen})
            self._told(f"{cast.name}: a copy of {stolen['calls']:,} calls")
        return rows

    def _cast(self, command: DrillCommand, thieves: Sequence[SuiteThief]) -> Iterator[_Cast]:
        ways: Mapping[Sharing | None, int] = {None: 1, "call": command.accounts, "history": command.accounts}
        for number, thief in enumerate(thieves):
            for sharing, size in ways.items():
                for seed in self._seeds:
                    names = [f"thief-{number}-{sharing or 'alone'}-{seed}-{place}" for place in range(size)]
                    yield _Cast(thief, sharing, seed, names)
