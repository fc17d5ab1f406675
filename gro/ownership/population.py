"""Innocents: models that were trained without the owner's model, to learn from what innocence looks like.

Half of them differ from it by the seed alone, since those resemble it most: no claim may be made against them either.
The others saw fewer users, are of another architecture or other settings, or are copies that were stolen from such a
model: copies resemble each other in more than whose they are.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch

from gro import artifacts
from gro.artifacts import Artifact
from gro.artifacts.manifest import ITEMS, WEIGHTS
from gro.config import ModelSettings, TrainingSettings
from gro.data import Sequences
from gro.errors import ArtifactError, DataError
from gro.metrics import FloatArray, utility
from gro.models import StateRecommender, build
from gro.optimizer.plain import fit
from gro.ownership.calibration import Test
from gro.ownership.suspect import CPU, K, Tokens, in_hand
from gro.ranking import ranks
from gro.serving import RankingService
from gro.training import Progress, Quiet
from gro_surrogates.settings import ThiefSettings
from gro_surrogates.thief import Thief

NEAREST: Final = "seed"
STRATA: Final = ("users", "architecture", "settings", "copy")
ARCHITECTURES: Final = ("SASRec", "GRU4Rec", "NARM")
SHARES: Final = (0.5, 0.9)
"""Least and largest share of the users of an innocent that saw fewer."""
DROPOUTS: Final = (0.1, 0.2, 0.3, 0.5)
TAKEN: Final = 100
"""Length of the lists from which the copies among innocents are made."""
GOOD: Final = 0.7
"""An innocent whose NDCG@10 is a smaller part of the owner's than this is too bad to be like a suspect."""


@dataclass(frozen=True)
class Cell:
    """What one innocent is made of.

    Attributes:
        stratum: in what it differs from the owner's model beside the seed.
        settings: of its training.
        users: share of the users that it sees.
    """

    stratum: str
    settings: TrainingSettings
    users: float = 1.0


@dataclass(frozen=True)
class Innocent:
    """A model that is no copy.

    Attributes:
        folder: of its artifact.
        stratum: as in :class:`Cell`.
        quality: its NDCG@10 on the test users, as a part of the owner's model's.
        digest: SHA-256 of the file of its weights.
        catalogue: SHA-256 of the file of its item tokens.
    """

    folder: Path
    stratum: str
    quality: float
    digest: str
    catalogue: str

    @property
    def model(self) -> StateRecommender:
        """The recommender, read anew."""
        return artifacts.load(self.folder).model

    @property
    def tokens(self) -> Tokens:
        """Tokens of its items 1..n_items, read anew."""
        return artifacts.load(self.folder).item_tokens[1:]


def cell(number: int, owner: TrainingSettings, seed: int) -> Cell:
    """Innocent ``number`` of the population of ``seed``: every second differs by the seed alone, the others in turn."""
    rng = np.random.default_rng([seed, number])
    settings = owner.model_copy(update={"seed": int(rng.integers(1 << 31))})
    stratum = NEAREST if number % 2 == 0 else STRATA[number // 2 % len(STRATA)]
    match stratum:
        case "users":
            return Cell(stratum, settings, float(rng.uniform(*SHARES)))
        case "architecture":
            others = [name for name in ARCHITECTURES if name != owner.model]
            return Cell(stratum, settings.model_copy(update={"model": str(rng.choice(others))}))
        case "settings":
            changed = {
                "dropout": float(rng.choice([each for each in DROPOUTS if each != owner.dropout])),
                "hidden_size": owner.hidden_size * int(rng.choice([1, 2])) // int(rng.choice([1, 2])),
                "learning_rate": owner.learning_rate * float(rng.uniform(0.7, 1.4)),
            }
            return Cell(stratum, settings.model_copy(update=changed))
    return Cell(stratum, settings)


def raise_innocent(
    number: int,
    owner: Artifact,
    sequences: Sequences,
    settings: TrainingSettings,
    seed: int,
    out: Path,
    calls: int,
    device: torch.device = CPU,
    progress: Progress | None = None,
) -> Innocent:
    """Train innocent ``number`` into ``out``, or go on where it was interrupted, or find it there.

    Args:
        number: which one; what it is follows from this and the ``seed``.
        owner: the model that it must know nothing of but the data.
        sequences: the owner's interactions.
        settings: by which the owner's model was trained.
        seed: of the population.
        out: folder of the innocent's artifact.
        calls: lists by which an innocent is stolen that is to be a copy.
        device: where to train.
        progress: receives steps and epochs.

    Raises:
        ArtifactError: the folder holds something else.
    """
    planned = cell(number, settings, seed)
    described = {"innocent": number, "stratum": planned.stratum, "users": planned.users}
    if planned.stratum == "copy":
        described["copy_calls"] = calls
    command = {**planned.settings.model_dump(mode="json"), **described}
    if (out / artifacts.MANIFEST).exists():
        found = artifacts.load(out).manifest
        if found.dataset.digest != sequences.digest or {n: found.settings.get(n) for n in command} != command:
            raise ArtifactError(
                f"{out}: holds another model than innocent {number} of seed {seed}; choose another --out"
            )
        return innocent(out)
    seen = some_users(sequences, planned.users, planned.settings.seed)
    model = build(planned.settings, sequences.n_items, seed=planned.settings.seed).to(device)
    fit(model, seen, planned.settings, folder=out, progress=progress or Quiet())
    kept: ModelSettings = planned.settings
    if planned.stratum == "copy":
        kept = ThiefSettings()
        model = _stolen(model, kept, calls, planned.settings.seed)
    artifacts.save(
        out,
        model=model,
        settings=kept,
        item_tokens=owner.item_tokens,
        dataset={"name": sequences.name, "digest": sequences.digest},
        seed=planned.settings.seed,
        command=command,
        metrics={"target": utility(ranks(model, sequences.test)), "owner": owner.manifest.metrics["target"]},
    )
    return innocent(out)


def _stolen(model: StateRecommender, settings: ThiefSettings, calls: int, seed: int) -> StateRecommender:
    theft = Thief(settings)(RankingService(model, min(TAKEN, model.n_items)), model.n_items, calls, seed)
    return cast("StateRecommender", theft.surrogate)


def some_users(sequences: Sequences, share: float, seed: int) -> Sequences:
    """The histories of a random share of the users, over the same catalogue."""
    if share == 1:
        return sequences
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(sequences.n_users)[: max(1, round(share * sequences.n_users))])
    return sequences.of(chosen)


def innocent(folder: Path) -> Innocent:
    """The innocent in a folder.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    manifest = artifacts.load(folder).manifest
    try:
        own, owner = (float(manifest.metrics[who]["ndcg@10"]) for who in ("target", "owner"))  # type: ignore[arg-type, call-overload, index]
        stratum = str(manifest.settings["stratum"])
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(f"{folder}: not an innocent; 'gro own innocents' makes them") from None
    return Innocent(folder, stratum, own / owner, manifest.files[WEIGHTS], manifest.files[ITEMS])


def population(folder: Path, catalogue: str, without: Container[str] = (), *, least: float = GOOD) -> list[Innocent]:
    """The innocents of a folder that are good enough to be like a suspect.

    Args:
        folder: that ``gro own innocents`` filled.
        catalogue: SHA-256 of the owner's file of item tokens, which must be theirs too.
        without: digests of those to leave out, such as the reference models of a fingerprint.
        least: quality that is good enough.

    Raises:
        DataError: there is none, or one is of another catalogue.
        ArtifactError: one is damaged.
    """
    found = [innocent(path.parent) for path in sorted(folder.glob(f"*/{artifacts.MANIFEST}"))]
    for each in found:
        if each.catalogue != catalogue:
            raise DataError(f"{each.folder}: of another catalogue than the owner's model")
    good = [each for each in found if each.quality >= least and each.digest not in without]
    if not good:
        raise DataError(f"{folder}: holds no innocent as good as the owner's model; make some with 'gro own innocents'")
    return good


def statistics(
    tests: Sequence[Test], innocents: Sequence[Innocent], k: int = K, told: Callable[[int], None] = lambda done: None
) -> FloatArray:
    """The statistic of every test of every innocent: ``[n, m]``; each is asked as a suspect is."""
    found = np.empty((len(innocents), len(tests)))
    for row, each in enumerate(innocents):
        budget = 2 * sum(test.calls for test in tests)
        suspect = in_hand(each.model, k=k, budget=budget)
        found[row] = [test.statistic(suspect) for test in tests]
        told(row + 1)
    return found


def by_stratum(found: FloatArray, innocents: Sequence[Innocent]) -> dict[str, FloatArray]:
    """Rows ``[n, m]`` by the stratum of their innocent."""
    strata = np.array([each.stratum for each in innocents])
    return {name: found[strata == name] for name in dict.fromkeys(strata.tolist())}


def strata(folder: Path) -> dict[str, dict[str, float]]:
    """What a folder of innocents holds: of each stratum, models, good ones, and mean quality."""
    found: dict[str, list[Innocent]] = {}
    for path in sorted(folder.glob(f"*/{artifacts.MANIFEST}")):
        each = innocent(path.parent)
        found.setdefault(each.stratum, []).append(each)
    return {
        name: {
            "innocents": len(members),
            "good": sum(each.quality >= GOOD for each in members),
            "quality": float(np.mean([each.quality for each in members])),
        }
        for name, members in found.items()
    }
