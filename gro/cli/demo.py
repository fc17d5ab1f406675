"""``gro demo``: a plain and a protected target, both robbed by the same thief, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gro import api
from gro.cli.output import percent, show
from gro.cli.progress import watch
from gro.cli.settings import DemoCommand, Output
from gro.cli.verbs import rob, stolen, title, trainings
from gro.config import DataSettings, ProtectCommand, TrainingSettings
from gro.runs import Run

COLUMNS = ("", "HR@10 %", "NDCG@10 %", "utility loss %", "Agr@10 %", "access advantage %")


def demo(settings: Mapping[str, Any], output: Output) -> int:
    """Train, protect, rob both, print; what an earlier call has finished is not done again."""
    command = DemoCommand.make(settings)
    runs = _runs(command, output)
    thefts = {name: _theft(command, output, name, run.path) for name, run in runs.items()}
    loss = runs["protected"].report["utility_loss"]
    report = {
        "dataset": command.dataset,
        "k": command.k,
        "calls": command.calls,
        "seed": command.seed,
        "plain": {"run": str(runs["plain"].path), **thefts["plain"]},
        "protected": {"run": str(runs["protected"].path), "utility_loss": loss, **thefts["protected"]},
    }
    heading = f"{title(runs['plain'].report)}; thief {thefts['plain']['thief']}, {command.calls:,} calls"
    return show(output, report, heading, COLUMNS, _rows(thefts, loss))


def _runs(command: DemoCommand, output: Output) -> dict[str, Run]:
    fields = DataSettings.model_fields | TrainingSettings.model_fields
    common = {name: value for name, value in command if name in fields} | {"device": command.device}
    plain, protected = command.out / "plain", command.out / "protected"
    first_epochs, *own = trainings(api.complete(ProtectCommand, {**common, "out": protected}))
    with watch(output, "plain target", [first_epochs]) as progress:
        first = api.train(progress=progress, **common, out=plain)
    with watch(output, "protected target", own) as progress:
        second = api.protect(progress=progress, **common, out=protected, from_=plain)
    return {"plain": first, "protected": second}


def _theft(command: DemoCommand, output: Output, name: str, run: Path) -> dict[str, Any]:
    shared = {key: getattr(command, key) for key in ("thief", "calls", "k", "seed", "device", "data_path")}
    return rob({**shared, "run": run}, output, f"theft of the {name} target").report


def _rows(thefts: Mapping[str, Mapping[str, Any]], loss: float | None) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, theft in thefts.items():
        cost = percent(loss) if name == "protected" else "-"
        rows.append((f"{name} target", *_utility(theft["target"]), cost, "-", "-"))
        rows.append(("  its stolen copy", *_utility(theft["surrogate"]), "-", *stolen(theft)))
    plain = thefts["plain"]
    return [*rows, (f"floor ({plain['floor_is']})", *_utility(plain["floor"]), "-", "-", "-")]


def _utility(figures: Mapping[str, float]) -> tuple[str, str]:
    return percent(figures["hr@10"]), percent(figures["ndcg@10"])
