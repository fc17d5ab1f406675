"""``gro train``, ``protect``, ``evaluate`` and ``attack``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gro import api, theft
from gro.artifacts import MANIFEST
from gro.cli.output import percent, print_table, show
from gro.cli.progress import watch
from gro.cli.settings import Output
from gro.config import AttackCommand, ProtectCommand, TrainCommand
from gro.defenses import cards as defences
from gro.defenses.training import most_epochs
from gro.runs import Run
from gro_surrogates.cards import thief_settings

Values = Mapping[str, Any]

UTILITY = {"hr@10": "HR@10 %", "hr@20": "HR@20 %", "ndcg@10": "NDCG@10 %", "ndcg@20": "NDCG@20 %"}
GROUPS = {"history_length": "items before", "next_item": "next item", "typicality": "history"}
LOSSES = ("people", "users", "plain NDCG@10 %", "NDCG@10 %", "loss %", "gross loss %")


def train(settings: Values, output: Output) -> int:
    """Train an undefended target."""
    command = api.complete(TrainCommand, settings)
    with watch(output, f"{command.model} on {command.dataset}", [command.epochs]) as progress:
        run = api.train(progress=progress, **settings)
    report = {"run": str(run.path), **run.report}
    return show(output, report, title(report), ("", *UTILITY.values()), [_row("target", report["target"])])


def protect(settings: Values, output: Output) -> int:
    """Train a protected target."""
    with watch(output, "protection", trainings(api.complete(ProtectCommand, settings))) as progress:
        run = api.protect(progress=progress, **settings)
    report = {"run": str(run.path), **run.report}
    models = {"plain target": "plain", "protected target": "target", "student": "student"}
    rows = [
        (*_row(name, report[key]), percent(report["utility_loss"]) if key == "target" else "-")
        for name, key in models.items()
        if key in report
    ]
    return show(output, report, "\n".join(_headlines(report)), ("", *UTILITY.values(), "utility loss %"), rows)


def evaluate(settings: Values, output: Output) -> int:
    """Measure a run's utility, and who pays for its defence where it is compared with a plain target."""
    run = api.evaluate(**settings)
    report = {"run": str(run.path), **run.report}
    rows = [_row("target", report["target"]), _row("floor (popularity)", report["floor"])]
    show(output, report, title(report), ("", *UTILITY.values()), rows)
    if "against" in report and not output.json_:
        heading = f"\nwhat people lose against {settings['against']}, in % of NDCG@10"
        print_table(heading, LOSSES, [*_losses(report["against"])])
    return 0


def attack(settings: Values, output: Output) -> int:
    """Rob a run."""
    run = rob(settings, output, "theft")
    report = {"run": str(run.path), **run.report}
    models = {"target": "target", "stolen copy": "surrogate", f"floor ({report['floor_is']})": "floor"}
    rows = [
        (*_row(name, report[key]), *(stolen(report) if key == "surrogate" else ("-", "-")))
        for name, key in models.items()
    ]
    heading = f"{title(report)}; thief {report['thief']} ({report['knowledge']}), {report['calls']:,} calls"
    return show(output, report, heading, ("", *UTILITY.values(), "Agr@10 %", "access advantage %"), rows)


def rob(settings: Values, output: Output, label: str) -> Run:
    """Run :func:`gro.attack` and show its progress."""
    command = AttackCommand.make({key: value for key, value in settings.items() if key in AttackCommand.model_fields})
    overrides = {key: value for key, value in settings.items() if key not in AttackCommand.model_fields}
    with watch(output, label, [thief_settings(command.thief, overrides).epochs]) as progress:
        return theft.attack(progress=progress, **settings)


def title(report: Values) -> str:
    """Return what a table's figures are about."""
    return (
        f"{report['dataset']}, {report['users']:,} users, {report['model']}, exposed k {report['k']}, "
        f"seed {report['seed']}"
    )


def stolen(report: Values) -> tuple[str, str]:
    """Return Agr@10 and access advantage of a theft with their 95 % intervals."""
    intervals = report["interval"]
    return (
        percent(report["agreement@10"], intervals["agreement@10"]),
        percent(report["access_advantage"], intervals["access_advantage"]),
    )


def _headlines(report: Values) -> Iterator[str]:
    """What a defence exposes, and what it costs at every cutoff."""
    yield f"{title(report)}; defence {report['defence']}, which exposes {report['exposed']}"
    losses = ", ".join(f"@{cutoff} {percent(loss)}" for cutoff, loss in report["utility_loss_at"].items())
    yield f"loss of NDCG in %: {losses}"
    if privacy := report.get("privacy"):
        yield f"differential privacy of a user: epsilon {privacy['epsilon']:.2f} at delta {privacy['delta']:.1e}"


def _losses(found: Values) -> Iterator[tuple[str, ...]]:
    """What all people lose, and each group of them."""
    groups = {f"{kind}: {name}": group for key, kind in GROUPS.items() for name, group in found[key].items()}
    for name, group in {"all": found["all"], **groups}.items():
        means = percent(group["plain"]), percent(group["served"])
        losses = percent(group["loss"], group["interval"]), percent(group["gross"])
        yield name, f"{group['users']:,}", *means, *losses


def _row(name: str, figures: Values) -> tuple[str, ...]:
    intervals = figures.get("interval", {})
    return (name, *(percent(figures[key], intervals.get(key)) for key in UTILITY))


def trainings(command: ProtectCommand) -> list[int]:
    """Most epochs of the trainings that ``gro protect`` runs: the plain target's, unless it is there, and its own."""
    plain = command.out.with_name(f"{command.out.name}.plain")
    own = most_epochs(defences.read(command.defence).training, command)
    return [*([] if command.from_ or (plain / MANIFEST).exists() else [command.epochs]), *own]
