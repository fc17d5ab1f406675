"""The verb ``gro.audit.ratelimit.ratelimit``: what thieves learn under a policy, in how many days and at what cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gro import api, provenance
from gro.audit import ratelimit_report
from gro.audit.budget import Budget
from gro.audit.ladder import Curve, ladder
from gro.audit.redteam import Watch
from gro.config import RateLimitCommand
from gro.errors import ConfigError
from gro.policy import Policy, read_policy
from gro.runs import Run
from gro.theft import attack
from gro.training import Quiet
from gro_surrogates.cards import thief_settings

POINTS = 60
"""Of the interpolated curve, evenly spaced in the logarithm of the calls."""


def ratelimit(
    watch: Watch = lambda label, epochs: nullcontext(Quiet()),
    told: Callable[[Mapping[str, Any]], None] = lambda row: None,
    **settings: Any,
) -> Run:
    """Play thieves at a ladder of budgets and say when, and at what cost, a policy lets them have each.

    Every theft is one of :func:`gro.attack`: it is kept beside the run, and one that is there is not played again.

    Args:
        watch: shows the progress of each theft.
        told: receives the thief, the calls, the copy's NDCG@10 and its access advantage after each theft.
        settings: those of :class:`gro.config.RateLimitCommand`.

    Returns:
        A folder with ``report.json``, ``report.md`` and a picture. The report has "through", what the policy lets the
        thief have in all; "rows", one a budget, and "curve", the same between the budgets, each with the thief who
        is worst there; "worst", the worst of the rows; "thieves", every theft; and "date", "machine" and "versions".

    Raises:
        GroError: as :func:`gro.attack`; or the policy is malformed, or lets too little through for any theft.
    """
    command = RateLimitCommand.make(settings)
    policy, name = read_policy(command.policy), Path(command.policy).stem
    cards = {card: thief_settings(card, {}).epochs for card in dict.fromkeys(command.thief)}
    about = api.evaluate(run=command.run, device=command.device, data_path=command.data_path).report
    budget = _budget(policy, name, about["k"])
    through = math.floor(budget.calls(policy.thief.days))
    budgets = ladder(min(through, command.calls))
    played = {card: _played(command, card, epochs, budgets, watch, told) for card, epochs in cards.items()}
    curves = [_curve(runs, budgets) for runs, _ in played.values() if runs]
    unplayed = {Path(card).stem: reason for card, (runs, reason) in played.items() if not runs}
    if not curves:
        reason = next(iter(unplayed.values()))
        raise ConfigError(f"policy '{name}' lets {through:,} calls through in {policy.thief.days} day(s): {reason}")
    described = {"run": str(command.run), "policy": name, **policy.model_dump(), "seed": command.seed}
    same = {key: about[key] for key in ("dataset", "users", "model", "k", "target")}
    made = {**provenance.here_and_now(), "versions": provenance.versions()}
    found = {**described, **same, **_found(budget, curves, budgets), "unplayed": unplayed, **made}
    out = command.out or command.run.with_name(f"{command.run.name}.ratelimit") / name
    ratelimit_report.write(out, found)
    return Run(out, found)


def _budget(policy: Policy, name: str, k: int) -> Budget:
    daily = policy.limits.daily_calls(k)
    if not daily:
        entries = policy.limits.list_entries_per_day
        raise ConfigError(f"policy '{name}': list_entries_per_day is {entries}, less than one list of {k}; allow more")
    return Budget(daily, policy.thief)


def _played(
    command: RateLimitCommand,
    card: str,
    epochs: int,
    budgets: Sequence[int],
    watch: Watch,
    told: Callable[[Mapping[str, Any]], None],
) -> tuple[list[Run], str]:
    """Thefts of one thief, those of the largest budgets, and why there are no more."""
    where = {"run": command.run, "device": command.device, "data_path": command.data_path}
    runs: list[Run] = []
    for calls in reversed(budgets):
        try:
            with watch(f"{Path(card).stem}, {calls:,} calls", epochs) as progress:
                runs.insert(0, attack(progress=progress, thief=card, calls=calls, seed=command.seed, **where))
        except ConfigError as error:  # so few calls do not pay for a theft, and fewer do not either
            return runs, str(error)
        told({"calls": calls, **_copy(runs[0])})
    return runs, ""


def _copy(theft: Run) -> dict[str, Any]:
    report = theft.report
    return {
        "thief": report["thief"],
        "ndcg@10": report["surrogate"]["ndcg@10"],
        "access_advantage": report["access_advantage"],
    }


def _curve(runs: Sequence[Run], budgets: Sequence[int]) -> Curve:
    first = runs[0].report
    return Curve(
        thief=first["thief"],
        knowledge=first["knowledge"],
        target=first["target"]["ndcg@10"],
        floor=first["floor"]["ndcg@10"],
        calls=tuple(budgets[-len(runs) :]),
        ndcg=tuple(run.report["surrogate"]["ndcg@10"] for run in runs),
    )


def _found(budget: Budget, curves: Sequence[Curve], budgets: Sequence[int]) -> dict[str, Any]:
    least, most = min(curve.calls[0] for curve in curves), budgets[-1]
    rows = [_row(budget, curves, calls) for calls in budgets if calls >= least]
    between = sorted({round(calls) for calls in np.geomspace(least, most, POINTS)})
    return {
        "through": _through(budget),
        "played": most,
        "worst": max(rows, key=_size),
        "rows": rows,
        "curve": [_row(budget, curves, calls) for calls in between],
        "thieves": [asdict(curve) for curve in curves],
    }


def _row(budget: Budget, curves: Sequence[Curve], calls: int) -> dict[str, Any]:
    """When and at what cost the thieves have ``calls``, and the best copy that one of them makes of those."""
    days = min(budget.days(calls), budget.thief.days)
    worst = max((copy for curve in curves if (copy := curve.at(calls))), key=_size)
    spent = {"cost": budget.cost(days), "caught": budget.caught(days), "chance": budget.chance(calls)}
    return {"calls": calls, "days": days, **spent, **worst}


def _through(budget: Budget) -> dict[str, Any]:
    days = budget.thief.days
    return {
        "calls": budget.calls(days),
        "calls_interval": list(budget.calls_interval()),
        "cost": budget.cost(days),
        "cost_interval": list(budget.cost_interval()),
        "caught": budget.caught(days),
        "daily": budget.daily,
    }


def _size(copy: Mapping[str, Any]) -> float:
    return -math.inf if copy["access_advantage"] is None else copy["access_advantage"]
