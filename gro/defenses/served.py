"""An artifact as it is served: its model, or its ensemble, behind its defence."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import torch

from gro.artifacts import Artifact
from gro.defenses.cards import Defence, parse
from gro.defenses.pipeline import Defended
from gro.models import Recommender
from gro.optimizer.ensemble import KeyedEnsemble
from gro.optimizer.staged import Staged, StagedSettings


def defence_of(artifact: Artifact) -> Defence | None:
    """The defence that travels in an artifact; ``None`` for a plain target.

    Raises:
        ConfigError: this version does not know it.
    """
    table = artifact.manifest.defence
    return None if table is None else parse(table, str(artifact.folder), str(artifact.manifest.settings.get("defence")))


def needs_secret(artifact: Artifact) -> bool:
    """Whether the defence of an artifact hides behind a secret: noise of histories, false names, or an ensemble.

    Raises:
        ConfigError: this version does not know the defence.
    """
    defence = defence_of(artifact)
    if defence is None:
        return False
    per_history = bool(defence.parts) and defence.noise == "per-history"
    return per_history or bool(artifact.others) or any(part.reads_secret for part in defence.parts)


def served(artifact: Artifact, k: int, seed: int, device: torch.device, secret: bytes | None = None) -> Recommender:
    """What answers behind the door of a service whose lists have ``k`` items before the defence.

    Args:
        artifact: what :func:`gro.train` or :func:`gro.protect` made.
        k: list length before the defence.
        seed: of noise that is new in every call.
        device: where to answer.
        secret: in place of the one that the artifact holds, for a service whose artifact others may have read.

    Raises:
        ConfigError: this version does not know the defence, or it cannot apply to lists of ``k``.
    """
    defence = defence_of(artifact)
    if defence is not None and secret is not None:
        defence = replace(defence, secret=secret.hex())
    model: Recommender = artifact.model.to(device)
    if artifact.others:
        model = _together(artifact, defence).to(device)
    return model if defence is None else defence.before(model, k, seed)


def _together(artifact: Artifact, defence: Defence | None) -> KeyedEnsemble | Staged:
    members = [artifact.model, *artifact.others]
    if defence is not None and isinstance(defence.training, StagedSettings):
        return Staged(members, defence.training.short)
    return KeyedEnsemble(members, b"" if defence is None else defence.key)


def exposed_by(target: Recommender, k: int) -> int:
    """Length of the lists that a target of ``k`` items exposes behind its defence."""
    return target.k if isinstance(target, Defended) else k


def digest(artifact: Artifact) -> str | None:
    """Tells what stands before one model from another, without its secret; ``None`` where the weights say it all."""
    table = artifact.manifest.defence
    if table is None or not (table["serving"] or artifact.others):
        return None
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]
