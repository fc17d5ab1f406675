"""From an artifact to a marked one, and the secrets by which the marks are found again."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gro import artifacts
from gro.artifacts import Artifact
from gro.config import ModelSettings
from gro.data import Sequences
from gro.defenses.served import defence_of
from gro.errors import ConfigError, GroError
from gro.metrics import ndcg, utility
from gro.models import StateRecommender
from gro.ownership import parameters, promotion, triggers
from gro.ownership.marking import Mark, marked, shown
from gro.ownership.parameters import KEY, ParameterMark
from gro.ownership.settings import Kind, MarkSettings, PromotionSettings, TriggerSettings
from gro.ranking import ranks
from gro.runs import lists_of
from gro.training import Progress

BEHAVIOUR: Final[tuple[Kind, ...]] = ("promotion", "triggers")
"""Marks that answer a suspect's questions, in the order in which they are trained: each leaves those before it."""


@dataclass(frozen=True)
class Marked:
    """A marked model.

    Attributes:
        model: with the marks in it.
        secrets: of every mark, by its name; they are written nowhere else.
        valid_loss: relative loss of validation NDCG@10.
        shown: the statistic of every mark in the model's behaviour.
    """

    model: StateRecommender
    secrets: Mapping[str, bytes]
    valid_loss: float
    shown: Mapping[str, float]


def mark(
    artifact: Artifact,
    sequences: Sequences,
    kinds: Sequence[Kind],
    settings: MarkSettings,
    message: bytes,
    progress: Progress | None = None,
) -> Marked:
    """Put marks into the model of an artifact, on the device where it is.

    What answers a suspect's questions is trained first, what is read from the weights is written at the end.

    Args:
        artifact: of a plain or a protected model; what stands in front of it when it is served stays there.
        sequences: its interactions.
        kinds: of the marks, each once.
        settings: of the training.
        message: what a mark in the parameters says.
        progress: receives steps and epochs.

    Raises:
        GroError: the artifact is an ensemble, its catalogue too small, or the marks cost more than the budget.
    """
    if artifact.others:
        raise ConfigError(f"{artifact.folder}: is an ensemble; marks are for a single model")
    plain, architecture = artifact.model, artifact.manifest.model.part(ModelSettings)
    model, behaviours = plain, [_drawn(kind, plain, sequences) for kind in BEHAVIOUR if kind in kinds]
    for each in behaviours:
        model, _ = marked(model, architecture, sequences, each, settings, progress, original=plain)
    kept = {each.name: each.secret() for each in behaviours}
    if "parameters" in kinds:
        written = ParameterMark(secrets.token_bytes(KEY), message)
        model = parameters.marked(model, written, artifact.item_tokens)
        kept["parameters"] = written.secret()
    lost = _loss(*(ranks(each, sequences.valid) for each in (plain, model)))
    if lost > settings.utility_budget:
        raise GroError(
            f"the marks cost {lost:.2%} of validation NDCG@10, and the budget is {settings.utility_budget:.2%}: "
            "ask for fewer, or a larger budget"
        )
    return Marked(model, kept, lost, {each.name: shown(each, model) for each in behaviours})


def save(artifact: Artifact, made: Marked, sequences: Sequences, out: Path) -> dict[str, Any]:
    """Write a marked copy of an artifact, which does not tell that it is marked; return what the marks cost.

    Raises:
        ArtifactError: ``out`` cannot be written.
    """
    manifest, defence, k = artifact.manifest, defence_of(artifact), lists_of(artifact)
    served = [
        each if defence is None else defence.before(each, k, manifest.seed) for each in (artifact.model, made.model)
    ]
    before, after = (ranks(each, sequences.test) for each in served)
    about = {
        "dataset": sequences.name,
        "users": sequences.n_users,
        "model": manifest.model.model,
        "k": k,
        "seed": manifest.seed,
    }
    artifacts.save(
        out,
        model=made.model,
        settings=manifest.model,
        item_tokens=artifact.item_tokens,
        dataset=manifest.dataset.model_dump(),
        seed=manifest.seed,
        command={**manifest.settings, "out": str(out)},
        metrics={**about, "target": utility(after)},
        defence=manifest.defence,
    )
    losses = {"utility_loss": _loss(before, after), "valid_utility_loss": made.valid_loss}
    return {**about, "plain": utility(before), "target": utility(after), **losses, "shown": dict(made.shown)}


def _drawn(kind: Kind, plain: StateRecommender, sequences: Sequences) -> Mark:
    key = secrets.token_bytes(KEY)
    if kind == "triggers":
        return triggers.drawn(sequences, key, plain.max_length, TriggerSettings())
    return promotion.drawn(plain, key, PromotionSettings())


def _loss(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> float:
    """Relative loss of NDCG@10, of places of the same held-out items."""
    was, now = (float(ndcg(places, 10).mean()) for places in (before, after))
    return 1 - now / was if was else 0.0
