"""Whether fingerprints tell copies from innocents: claims against stolen copies, washed ones and independent models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, Final

import numpy as np

from gro import artifacts, provenance, reports
from gro.artifacts import Artifact
from gro.artifacts.manifest import ITEMS
from gro.config import TrainingSettings
from gro.data import Sequences
from gro.errors import DataError
from gro.metrics import FloatArray
from gro.models import Recommender, StateRecommender
from gro.ownership import fingerprint, washing
from gro.ownership.calibration import Calibration, Test, cross_fitted, joint, proportion, uniformity
from gro.ownership.population import by_stratum, population, some_users, statistics
from gro.ownership.settings import TrialCommand
from gro.ownership.suspect import in_hand
from gro.runs import Run, dataset_of
from gro.theft import stolen_copy

TOGETHER: Final = "together"
TENTH: Final = 0.1
"""Share of the users whose histories a thief fine-tunes on."""
Wash = Callable[[StateRecommender], Recommender]


def trial(told: Callable[[str], None] = lambda line: None, **settings: Any) -> Run:
    """Put a run's fingerprints to its thefts, to some of them washed, and to innocents, and count the claims.

    Innocents are calibrated by those of other folds, suspects by all; reference models are nobody's.

    Args:
        told: receives a line for each suspect.
        settings: those of :class:`gro.ownership.settings.TrialCommand`.

    Returns:
        A folder with ``trial.json``: "claims", by test and kind of suspect with 95 % intervals; "uniformity" of the
        p-values of innocents of the nearest stratum; every statistic and p-value.

    Raises:
        GroError: the run or its dataset is missing, or there are too few innocents for claims at that level, or no
            thefts.
    """
    command = TrialCommand.make(settings)
    owner = artifacts.load(command.run)
    sequences = dataset_of(owner, command.data_path)
    pool = population(command.innocents, owner.manifest.files[ITEMS])
    drawn = Random(command.seed)  # noqa: S311 -- a trial is to be repeated, and its secrets protect nobody
    references = fingerprint.in_turn(pool, command.references, drawn)
    chosen = {each.digest for each in references}
    judged = [each for each in pool if each.digest not in chosen]
    tests = [
        fingerprint.made(owner, sequences, references, kind=kind, probes=command.probes) for kind in fingerprint.KINDS
    ]
    nulls = by_stratum(statistics(tests, judged, told=lambda done: told(f"{done} innocents were asked")), judged)
    _require_enough(Calibration({name: rows[:, 0].tolist() for name, rows in nulls.items()}), command.alpha)
    suspects = [_asked(*each, tests, nulls, told) for each in _suspects(command, owner, sequences)]
    innocents = {name: _innocents(calibration, command.alpha) for name, calibration in _calibrations(tests, nulls)}
    found = {
        "run": command.run.name,
        "alpha": command.alpha,
        "innocents": {name: len(rows) for name, rows in nulls.items()},
        "references": len(references),
        "claims": {
            name: {**_claims(name, suspects, command.alpha), "innocent": innocents[name]["claims"]}
            for name in innocents
        },
        "uniformity": {name: each["uniformity"] for name, each in innocents.items()},
        "suspects": suspects,
        "nulls": {name: rows.tolist() for name, rows in nulls.items()},
        "tests": [test.name for test in tests],
        **provenance.here_and_now(),
        "versions": provenance.versions(),
    }
    reports.write(command.out, {"trial.json": json.dumps(found) + "\n"})
    return Run(command.out, found)


def _suspects(command: TrialCommand, owner: Artifact, sequences: Sequences) -> Iterator[tuple[str, str, Recommender]]:
    """Stolen copies, and the first of them washed: ``(kind, name, model)``."""
    thefts = command.run.with_name(f"{command.run.name}.thefts")
    folders = sorted(path.parent for path in thefts.glob(f"*/{artifacts.MANIFEST}"))
    if not folders:
        raise DataError(f"{thefts}: holds no theft; steal some copies with 'gro attack {command.run}'")
    washes, left = _washes(owner, some_users(sequences, TENTH, command.seed)), command.washed
    for folder in folders:
        copy = stolen_copy(folder)
        yield "stolen", folder.name, copy
        if left and isinstance(copy, StateRecommender):
            left -= 1
            for name, wash in washes.items():
                yield "washed", f"{folder.name}, {name}", wash(copy)


def _washes(owner: Artifact, held: Sequences) -> Mapping[str, Wash]:
    """What a thief may do to a copy, by name."""
    known = {key: value for key, value in owner.manifest.settings.items() if key in TrainingSettings.model_fields}

    def tuned(epochs: int) -> Wash:
        own = TrainingSettings.make({**known, "epochs": epochs, "learning_rate": 1e-3})
        return lambda model: washing.fine_tuned(model, held, own)

    return {
        "30 % pruned": lambda model: washing.pruned(model, 0.3),
        "50 % pruned": lambda model: washing.pruned(model, 0.5),
        "4 bits": lambda model: washing.quantised(model, 4),
        "1 epoch on a tenth of the users": tuned(1),
        "3 epochs on a tenth of the users": tuned(3),
    }


def _asked(
    kind: str,
    name: str,
    model: Recommender,
    tests: Sequence[Test],
    nulls: Mapping[str, FloatArray],
    told: Callable[[str], None],
) -> dict[str, Any]:
    suspect = in_hand(model)
    found = [test.statistic(suspect) for test in tests]
    together, calibration = joint(found, nulls)
    p_values = {name: each.p_value(value) for (name, each), value in zip(_alone(tests, nulls), found, strict=True)}
    p_values[TOGETHER] = calibration.p_value(together)
    told(f"{name}: p {p_values[TOGETHER]:.3f}")
    return {
        "kind": kind,
        "suspect": name,
        "calls": suspect.calls,
        "statistics": dict(zip((test.name for test in tests), found, strict=True)),
        "p_values": p_values,
        "effect": calibration.effect(together),
    }


def _alone(tests: Sequence[Test], nulls: Mapping[str, FloatArray]) -> Iterator[tuple[str, Calibration]]:
    for at, test in enumerate(tests):
        yield test.name, Calibration({stratum: rows[:, at].tolist() for stratum, rows in nulls.items()})


def _calibrations(tests: Sequence[Test], nulls: Mapping[str, FloatArray]) -> Iterator[tuple[str, Calibration]]:
    """What innocents are like in each test, and in all together: scaled by themselves and their mean."""
    yield from _alone(tests, nulls)
    mean = np.concatenate(list(nulls.values())).mean(axis=0)
    yield TOGETHER, joint(mean.tolist(), nulls)[1]


def _claims(test: str, suspects: Sequence[Mapping[str, Any]], alpha: float) -> dict[str, Any]:
    kinds = dict.fromkeys(each["kind"] for each in suspects)
    return {
        kind: proportion(sum(values <= alpha for values in of_kind), len(of_kind))
        for kind in kinds
        for of_kind in [[each["p_values"][test] for each in suspects if each["kind"] == kind]]
    }


def _innocents(calibration: Calibration, alpha: float) -> dict[str, Any]:
    """Claims that innocents meet with, and how even the p-values of the nearest are."""
    near = len(calibration.nulls[calibration.nearest])
    spare = near - _enough(alpha)
    folds = max(2, math.ceil(near / spare)) if spare else near
    p_values = cross_fitted(calibration.nulls, folds, 0)
    everybody = [value for each in p_values.values() for value in each]
    claimed = proportion(sum(value <= alpha for value in everybody), len(everybody))
    return {"claims": claimed, "uniformity": uniformity(p_values[calibration.nearest])}


def _enough(alpha: float) -> int:
    return math.ceil(1 / alpha) - 1


def _require_enough(calibration: Calibration, alpha: float) -> None:
    if calibration.least > alpha:
        there = len(calibration.nulls[calibration.nearest])
        raise DataError(f"claims at {alpha:g} take {_enough(alpha)} innocents of the nearest kind; there are {there}")
