"""The verb ``gro.attack``: one thief against one run, and the copy that is left."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gro import artifacts
from gro.artifacts import Artifact
from gro.config import AttackCommand, ProtectionSettings, RedteamCommand
from gro.data import HeldOut, Sequences
from gro.defenses.served import defence_of, digest, exposed_by, served
from gro.defenses.shadows import shadow_targets
from gro.evaluation import theft_report
from gro.models import Popularity, Recommender, StateRecommender
from gro.runs import Run, dataset_of, device_named, finished_as, identity, lists_of
from gro.serving import RankingService
from gro.training import Progress, Quiet
from gro_surrogates.cards import thief_settings
from gro_surrogates.fusion import RankFusion
from gro_surrogates.inversion import Shadows
from gro_surrogates.knowledge import held_histories
from gro_surrogates.thief import Thief, clone_folder

logger = logging.getLogger(__name__)

PLACES = "places"


def attack(progress: Progress | None = None, **settings: Any) -> Run:
    """Rob a run; see :class:`gro.config.AttackCommand`. Other settings override those of the thief's card.

    The thief sees the target through a :class:`gro.serving.RankingService` alone. A theft that was interrupted goes on
    where it stopped, from the answers it had recorded.

    Raises:
        GroError: as :func:`gro.evaluate`; or the thief's card or settings are wrong, or the budget is too small.
    """
    own = {key: value for key, value in settings.items() if key in AttackCommand.model_fields}
    command = AttackCommand.make(own)
    artifact = artifacts.load(command.run)
    overrides = {key: value for key, value in settings.items() if key not in own}
    card = thief_settings(command.thief, {"max_length": artifact.model.max_length, **overrides})
    out = command.out or _theft_folder(command, overrides)
    behind = digest(artifact) or ""
    described = {**identity(command), **card.model_dump(mode="json"), "target": artifact.manifest.files}
    described |= {"behind": behind} if behind else {}
    if found := finished_as(out, described):
        return _theft(out, found.report)
    for number in range(1, len(card.clones)):
        artifacts.require_replaceable(clone_folder(out, number))
    sequences = dataset_of(artifact, command.data_path)
    device = device_named(command.device)
    k = command.k or lists_of(artifact)
    target, asked = (served(artifact, k, command.seed, device) for _ in range(2))  # asking draws the noise of calls
    service = RankingService(asked, exposed_by(asked, k))
    length = card.sequence_length or card.max_length
    thief = Thief(
        settings=card,
        device=device,
        folder=out,
        progress=progress or Quiet(),
        victim=f"{artifact.manifest.files} k {service.k}{behind}",
        held=held_histories(sequences.train, card.known, length, command.seed) if card.known else None,
        recordings=_thefts(command.run) / "answers",
        shadows=_shadows(artifact, device),
    )
    theft = thief(service, sequences.n_items, command.calls, command.seed)
    if theft.faults.any:
        logger.warning("%s: of %s answers: %s", command.run, f"{theft.calls:,}", theft.faults)
    interactions = np.bincount(sequences.train.items, minlength=sequences.n_items + 1)[1:]
    floors = floors_of(thief, sequences, command.seed)
    report = {
        "dataset": sequences.name,
        "users": sequences.n_users,
        "model": artifact.manifest.model.model,
        "thief": Path(command.thief).stem,
        "knowledge": card.knowledge,
        "known": card.known,
        "k": service.k,
        "calls": theft.calls,
        "faults": asdict(theft.faults),
        "held_out_agreement@10": [log.best["held_out_agreement@10"] for log in theft.logs],
        "seed": command.seed,
        **theft_report(target, theft.surrogate, floors, sequences.test, interactions),
    }
    for number, clone in reversed(list(enumerate(theft.clones))):
        architecture = card.clones[number] if card.clones else card.model
        artifacts.save(
            clone_folder(out, number),
            model=clone,
            settings=card.model_copy(update={"model": architecture, "max_length": clone.max_length}),
            item_tokens=artifact.item_tokens,
            dataset=artifact.manifest.dataset.model_dump(),
            seed=command.seed,
            command=described,
            metrics=report,
        )
    return _theft(out, report)


def stolen_copy(theft: Path) -> StateRecommender | RankFusion:
    """The copy that :func:`attack` left in a folder: a model, or the clones of an ensemble fused by rank.

    Raises:
        ArtifactError: a clone is missing or damaged.
    """
    first = artifacts.load(theft)
    number = len(first.manifest.settings.get("clones") or ())  # type: ignore[arg-type]
    others = [artifacts.load(clone_folder(theft, place)).model for place in range(1, number)]
    return RankFusion([first.model, *others]) if others else first.model


def robbed(command: AttackCommand | RedteamCommand) -> tuple[Recommender, HeldOut]:
    """The target that a command is about, as it is served, and the held-out items to measure it on.

    Raises:
        GroError: as :func:`gro.evaluate`.
    """
    artifact = artifacts.load(command.run)
    k = command.k or lists_of(artifact)
    return served(artifact, k, command.seed, device_named(command.device)), dataset_of(artifact, command.data_path).test


def _theft(out: Path, metrics: Mapping[str, Any]) -> Run:
    return Run(out, {key: value for key, value in metrics.items() if key != PLACES}, dict(metrics[PLACES]))


def _shadows(artifact: Artifact, device: torch.device) -> Shadows | None:
    """How a thief who knows the target's defence rehearses it; ``None`` for a plain target."""
    defence = defence_of(artifact)
    if defence is None:
        return None
    settings = artifact.manifest.settings
    known = ProtectionSettings.make({k: v for k, v in settings.items() if k in ProtectionSettings.model_fields})
    n_items = artifact.model.n_items
    return lambda histories, seed: shadow_targets(histories, n_items, defence, known, seed, device)


def floors_of(thief: Thief, sequences: Sequences, seed: int) -> dict[str, Recommender]:
    """What a thief could have had without a call: we grant it popularity, and what its real histories teach."""
    own = thief.without_calls(sequences.n_items, seed)
    return {"popularity": Popularity(sequences.train), **({"own data": own} if own is not None else {})}


def _theft_folder(command: AttackCommand, overrides: Mapping[str, Any]) -> Path:
    name = f"{Path(command.thief).stem}-{command.calls}-{command.seed}"
    unusual = {**overrides, **({"k": command.k} if command.k else {})}
    if unusual:
        name += "-" + hashlib.sha256(repr(sorted(unusual.items())).encode()).hexdigest()[:8]
    return _thefts(command.run) / name


def _thefts(run: Path) -> Path:
    return run.with_name(f"{run.name}.thefts")
