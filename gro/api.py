"""The verbs of the library, which are also the commands of ``gro``: to train, to protect, to measure.

Settings are keyword arguments; each verb names the class of :mod:`gro.config` that lists and validates them. Every verb
returns a :class:`gro.runs.Run`, whose report is what ``--json`` prints. All metrics are fractions.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gro import artifacts
from gro.artifacts import Artifact
from gro.config import (
    GRO_SWITCHES,
    EvaluateCommand,
    ModelSettings,
    ProtectCommand,
    ProtectionSettings,
    SettingsT,
    TrainCommand,
    TrainingSettings,
)
from gro.data import Sequences, dataset_card, load
from gro.defenses import cards as defences
from gro.defenses.cards import Defence
from gro.defenses.served import exposed_by, served
from gro.defenses.training import PaperTraining, Training
from gro.errors import ArtifactError, ConfigError
from gro.evaluation import loss_report, utility_of, utility_report
from gro.metrics import CUTOFFS, IntArray, ndcg, utility
from gro.models import Popularity, StateRecommender, build
from gro.optimizer.plain import fit
from gro.ranking import ranks
from gro.runs import Run, dataset_of, device_named, finished, finished_as, identity, lists_of
from gro.training import Progress, Quiet


def complete(command: type[SettingsT], settings: Mapping[str, Any]) -> SettingsT:
    """Validate a command's settings; where they say nothing, the plain target or the dataset's card does.

    Raises:
        GroError: a setting is unknown or out of range, or the plain target cannot be read.
    """
    card = dataset_card(str(settings.get("dataset")))
    suggested: dict[str, Any] = dict(card.suggested) if card else {}
    if plain := settings.get("from") or settings.get("from_"):
        suggested |= artifacts.load(Path(plain)).manifest.model.model_dump()
    if GRO_SWITCHES & settings.keys():
        suggested["defence"] = "gro"
    known = {name: value for name, value in suggested.items() if name in command.model_fields}
    return command.make({**known, **settings})


def train(progress: Progress | None = None, **settings: Any) -> Run:
    """Train an undefended recommender; see :class:`gro.config.TrainCommand`.

    A run that was interrupted goes on where it stopped; one that is finished is returned as it is.

    Raises:
        GroError: a setting, the dataset or what lies at ``out`` is not as it must be.
    """
    command = complete(TrainCommand, settings)
    return finished(command.out, command) or _train(command, load(command), progress or Quiet())


def protect(progress: Progress | None = None, **settings: Any) -> Run:
    """Put a defence on a recommender; see :class:`gro.config.ProtectCommand`.

    Starts from the plain target ``from_``, or trains one as ``OUT.plain``. Resumes like :func:`train`. The report's
    "target" is measured as it will be served, its "utility_loss_at" says what the defence costs at every cutoff.

    Raises:
        GroError: as :func:`train`; or the plain target is of another dataset or architecture, or the defence's card is
            wrong or cannot apply.
    """
    command = complete(ProtectCommand, settings)
    defence = defences.read(command.defence)
    _require_meant(settings, defence)
    described = {**identity(command), "defence_card": defence.table()}
    if found := finished_as(command.out, described):
        return found
    sequences = load(command)
    _require_possible_k(command, sequences)
    defence = defence.suited(sequences)
    k = defence.exposes(command, sequences.n_items)
    defence.require_people(sequences)
    plain = _plain_target(command, sequences, progress or Quiet())
    defence = defence.keyed(sequences, command.seed)
    trained = Training(
        plain=plain,
        sequences=sequences,
        settings=command.part(ProtectionSettings),
        secret=defence.key,
        folder=command.out,
        progress=progress or Quiet(),
    )(defence.training)
    defence = defence.fitted(trained.target, sequences, command.utility_budget)
    target = defence.before(trained.target, command.k, command.seed)
    before, after = (ranks(model, sequences.test) for model in (plain, target))
    losses = {str(cutoff): _lost(before, after, cutoff) for cutoff in (*CUTOFFS, 50, 100) if cutoff <= k}
    report = {
        "defence": defence.name,
        "exposed": k,
        "target": utility(after),
        "plain": utility(before),
        "utility_loss": _lost(before, after, 10),
        "utility_loss_at": losses,
        **trained.report,
    }
    run = _save(command, trained.members, sequences, report, described, defence.table())
    for state in trained.states:
        shutil.rmtree(state, ignore_errors=True)
    return run


def evaluate(**settings: Any) -> Run:
    """Measure a run's utility on held-out items, and the floor's; see :class:`gro.config.EvaluateCommand`.

    With ``against``, a plain target, the report's "against" says who pays for the defence:
    :func:`gro.evaluation.loss_report`.

    Raises:
        GroError: the artifact or its dataset is missing or not the one it was made from; or ``against`` is not a plain
            target of the same interactions and catalogue.
    """
    command = EvaluateCommand.make(settings)
    artifact = artifacts.load(command.run)
    sequences = dataset_of(artifact, command.data_path)
    k, device = lists_of(artifact), device_named(command.device)
    plain = None if command.against is None else _compared(command.against, sequences).to(device)
    target = served(artifact, k, command.seed, device)
    places = ranks(target, sequences.test)
    report = {
        "dataset": sequences.name,
        "users": sequences.n_users,
        "model": artifact.manifest.model.model,
        "k": exposed_by(target, k),
        "seed": command.seed,
        "target": utility_of(places, command.seed),
        "floor": utility_report(Popularity(sequences.train), sequences.test, command.seed),
    }
    if plain is not None:
        report["against"] = loss_report(plain, places, sequences, command.seed)
    return Run(command.run, report)


def undefended(run: Path) -> dict[str, float]:
    """Utility of a plain target on test users, as :func:`train` found it.

    Raises:
        ArtifactError: the run is missing, damaged or not a plain target.
    """
    return dict(_undefended(run).manifest.metrics["target"])  # type: ignore[arg-type]


def _undefended(run: Path) -> Artifact:
    artifact = artifacts.load(run)
    if artifact.manifest.defence is not None:
        raise ArtifactError(f"{run}: has a defence already; give the plain target that it was made from")
    return artifact


def _compared(run: Path, sequences: Sequences) -> StateRecommender:
    """The plain target that a run of these interactions is compared with."""
    artifact = _undefended(run)
    _require_made_from(artifact, run, sequences)
    if not np.array_equal(artifact.item_tokens, sequences.item_tokens):
        raise ArtifactError(f"{run}: has another catalogue than {sequences.name}; give a plain target of its items")
    return artifact.model


def _require_made_from(artifact: Artifact, run: Path, sequences: Sequences) -> None:
    if artifact.manifest.dataset.digest != sequences.digest:
        raise ArtifactError(f"{run}: made from other interactions than {sequences.name} as it is read now")


def _train(command: TrainCommand, sequences: Sequences, progress: Progress) -> Run:
    model = _new(command, sequences)
    log = fit(model, sequences, command.part(TrainingSettings), folder=command.out, progress=progress)
    report = {"target": utility(ranks(model, sequences.test)), "epoch": log.best_epoch, "valid": log.best}
    return _save(command, [model], sequences, report, {})


def _plain_target(command: ProtectCommand, sequences: Sequences, progress: Progress) -> StateRecommender:
    if command.from_ is None:
        out = command.out.with_name(f"{command.out.name}.plain")
        fields = {name: getattr(command, name) for name in TrainCommand.model_fields}
        plain = TrainCommand.make({**fields, "out": out})
        run = finished(out, plain) or _train(plain, sequences, progress)
        return run.model.to(device_named(command.device))
    artifact = artifacts.load(command.from_)
    _require_made_from(artifact, command.from_, sequences)
    if artifact.manifest.model != command.part(ModelSettings):
        raise ConfigError(f"{command.from_}: has another architecture or size; give the settings that it was made with")
    return artifact.model.to(device_named(command.device))


def _new(command: TrainCommand, sequences: Sequences) -> StateRecommender:
    _require_possible_k(command, sequences)
    return build(command, sequences.n_items, seed=command.seed).to(device_named(command.device))


def _require_possible_k(command: TrainCommand | ProtectCommand, sequences: Sequences) -> None:
    if command.k > sequences.n_items:
        raise ConfigError(f"k is {command.k}; the catalogue of {sequences.name} has {sequences.n_items} items")


def _require_meant(settings: Mapping[str, Any], defence: Defence) -> None:
    """Refuse settings that the defence would ignore."""
    if not isinstance(defence.training, PaperTraining) and (given := sorted(GRO_SWITCHES & settings.keys())):
        raise ConfigError(f"{given[0]} is a switch of GRO, by which the defence '{defence.name}' does not train")
    if "utility_budget" in settings and not defence.spends:
        raise ConfigError(f"the defence '{defence.name}' has no use for a utility_budget; leave it out")


def _lost(before: IntArray, after: IntArray, k: int) -> float | None:
    """Relative loss of NDCG@k, of places of the same held-out items."""
    was, now = (float(ndcg(places, k).mean()) for places in (before, after))
    return 1 - now / was if was else None


def _save(
    command: TrainCommand | ProtectCommand,
    models: Sequence[StateRecommender],
    sequences: Sequences,
    report: dict[str, Any],
    described: Mapping[str, Any],
    defence: Mapping[str, Any] | None = None,
) -> Run:
    about = {"dataset": sequences.name, "users": sequences.n_users, "model": command.model}
    report = {**about, "k": command.k, "seed": command.seed, **report}
    artifacts.save(
        command.out,
        model=models[0],
        others=models[1:],
        defence=defence,
        settings=command,
        item_tokens=sequences.item_tokens,
        dataset={"name": sequences.name, "digest": sequences.digest},
        seed=command.seed,
        command={**command.model_dump(mode="json"), **described},
        metrics=report,
    )
    return Run(command.out, report)
