"""The verb ``gro.redteam``: a suite of thieves against one target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gro.audit import report
from gro.audit.poisoning import poisoning
from gro.config import RedteamCommand
from gro.errors import ConfigError
from gro.metrics import FloatArray, access_advantage, advantage_intervals, ndcg
from gro.runs import Run
from gro.theft import attack, robbed, stolen_copy
from gro.training import Progress, Quiet
from gro_surrogates.suites import Suite, SuiteThief, read_suite

KNOWLEDGE = ("data-free", "data-limited", "adaptive")
Watch = Callable[[str, int], AbstractContextManager[Progress]]
"""From what is being done and the most epochs of it to a progress."""


@dataclass(frozen=True)
class Played:
    """One thief and its thefts, a seed each."""

    thief: SuiteThief
    runs: Sequence[Run]

    def gains(self, who: str) -> FloatArray:
        """NDCG@10 of each test user, mean over the thefts: ``[n_users]``."""
        return np.asarray(np.mean([ndcg(np.array(run.places[who]), 10) for run in self.runs], axis=0))

    def mean(self, *keys: str) -> float:
        """Mean of one figure of the thefts' reports."""
        return float(np.mean([_at(run.report, keys) for run in self.runs]))


def redteam(
    watch: Watch = lambda label, epochs: nullcontext(Quiet()),
    told: Callable[[Mapping[str, Any]], None] = lambda row: None,
    **settings: Any,
) -> Run:
    """Play a suite against a run and write a report; see :class:`gro.config.RedteamCommand`.

    Every theft is one of :func:`gro.attack`: it is kept beside the run, and one that is there is not played again.

    Args:
        watch: shows the progress of each theft.
        told: receives each thief's row as it is known.
        settings: those of the command.

    Returns:
        A folder with ``report.json``, ``report.md``, ``report.html`` and pictures. The report has "worst", "thieves"
        and "curve"; "passed" is whether the worst thief is within ``max_advantage`` (``None`` where none was set).

    Raises:
        GroError: as :func:`gro.attack`; or the suite is malformed or has no thief of that knowledge.
    """
    command = RedteamCommand.make(settings)
    suite = _chosen(read_suite(command.suite), command)
    played = []
    for thief in suite.thieves:
        played.append(Played(thief, _thefts(command, thief, suite.calls, watch)))
        told(_row(played[-1]))
    found = _judged(played, command)
    worst = next(each for each in played if each.thief.name == found["worst"]["thief"])
    found["curve"] = _curve(command, suite, worst, watch)
    found["worst"]["poisoning"] = _poisoning(command, worst.runs[0])
    out = command.out or command.run.with_name(f"{command.run.name}.redteam") / suite.name
    about = {"run": str(command.run), "suite": suite.name, "knowledge": command.knowledge or "any", **_about(played)}
    found = {**about, **found}
    report.write(out, found)
    return Run(out, found)


def _chosen(suite: Suite, command: RedteamCommand) -> Suite:
    most = KNOWLEDGE.index(command.knowledge or KNOWLEDGE[-1])
    thieves = tuple(t for t in suite.thieves if KNOWLEDGE.index(t.settings.knowledge) <= most)
    if not thieves:
        raise ConfigError(f"suite '{suite.name}' has no thief that is {command.knowledge}; leave --knowledge out")
    return replace(suite, thieves=thieves, calls=command.calls or suite.calls)


def _thefts(command: RedteamCommand, thief: SuiteThief, calls: int, watch: Watch) -> list[Run]:
    shared = {"run": command.run, "thief": thief.card, "calls": calls, "k": command.k}
    where = {"device": command.device, "data_path": command.data_path}
    runs = []
    for seed in range(command.seed, command.seed + command.seeds):
        with watch(f"{thief.name}, {calls:,} calls, seed {seed}", thief.settings.epochs) as progress:
            runs.append(attack(progress=progress, seed=seed, **shared, **where, **thief.overrides))
    return runs


def _row(played: Played) -> dict[str, Any]:
    """One thief's figures, means over its thefts; the interval follows when all are known."""
    target, floor, stolen = (played.mean(who, "ndcg@10") for who in ("target", "floor", "surrogate"))
    advantage = access_advantage(stolen, floor, target)
    first = played.runs[0].report
    return {
        "thief": played.thief.name,
        "knowledge": first["knowledge"],
        "known": first["known"],
        "calls": round(played.mean("calls")),
        "surrogate": {key: played.mean("surrogate", key) for key in ("hr@10", "ndcg@10")},
        "floor": {"is": first["floor_is"], **{key: played.mean("floor", key) for key in ("hr@10", "ndcg@10")}},
        "agreement@10": played.mean("agreement@10"),
        "rbo@10": played.mean("rbo@10"),
        "shared_by_popularity": first["shared_by_popularity"],
        "access_advantage": None if np.isnan(advantage) else advantage,
        "per_seed": [run.report["access_advantage"] for run in played.runs],
        "faults": first["faults"],
    }


def _judged(played: Sequence[Played], command: RedteamCommand) -> dict[str, Any]:
    rows = [_row(each) for each in played]
    surrogates, floors = ([each.gains(who) for each in played] for who in ("surrogate", "floor"))
    intervals, of_the_worst = advantage_intervals(surrogates, floors, played[0].gains("target"), seed=command.seed)
    for row, interval in zip(rows, intervals, strict=True):
        row["interval"] = _bounds(interval)
    rows.sort(key=lambda row: _size(row["access_advantage"]), reverse=True)
    worst = {
        key: rows[0][key] for key in ("thief", "knowledge", "calls", "access_advantage", "interval", "agreement@10")
    }
    worst["interval_of_the_worst_case"] = _bounds(of_the_worst)
    bar = command.max_advantage
    passed = None if bar is None else worst["access_advantage"] is not None and worst["access_advantage"] <= bar
    return {"worst": worst, "max_advantage": bar, "passed": passed, "thieves": rows}


def _curve(command: RedteamCommand, suite: Suite, worst: Played, watch: Watch) -> list[dict[str, Any]]:
    """What the worst thief gets for parts of the budget."""
    points = []
    for part in suite.curve:
        with suppress(ConfigError):  # the same thief was played with more calls: these are too few for it
            played = Played(worst.thief, _thefts(command, worst.thief, round(part * suite.calls), watch))
            points.append({"thief": worst.thief.name, **{key: _row(played)[key] for key in CURVE}})
    return [*points, {"thief": worst.thief.name, **{key: _row(worst)[key] for key in CURVE}}] if points else []


CURVE = ("calls", "surrogate", "agreement@10", "access_advantage")


def _poisoning(command: RedteamCommand, theft: Run) -> dict[str, float]:
    target, held_out = robbed(command)
    return poisoning(target, stolen_copy(theft.path), held_out, command.seed)


def _about(played: Sequence[Played]) -> dict[str, Any]:
    first = played[0].runs[0].report
    about = {key: first[key] for key in ("dataset", "users", "model", "k", "seed", "target")}
    return {**about, "seeds": len(played[0].runs), "n_thieves": len(played)}


def _at(values: Any, keys: Sequence[str]) -> float:
    for key in keys:
        values = values[key]
    return float(values)


def _size(advantage: float | None) -> float:
    return -np.inf if advantage is None else advantage


def _bounds(interval: Sequence[float]) -> list[float] | None:
    return list(interval) if np.isfinite(interval).all() else None
