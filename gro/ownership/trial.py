"""Whether marks and fingerprints tell copies from innocents: claims against stolen, washed and independent models."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from random import Random
from secrets import token_bytes
from typing import Any, Final, cast

import numpy as np
import torch

from gro import artifacts, provenance, reports
from gro.artifacts import Artifact
from gro.artifacts.manifest import ITEMS
from gro.config import ModelSettings, TrainingSettings
from gro.data import Sequences
from gro.errors import DataError
from gro.metrics import utility
from gro.models import Recommender, StateRecommender
from gro.ownership import fingerprint, washing
from gro.ownership.calibration import Keyed, Test, conformal, proportion, uniformity, weigh
from gro.ownership.parameters import KEY
from gro.ownership.population import Innocent, population, some_users, statistics
from gro.ownership.settings import TrialCommand
from gro.ownership.statement import verified
from gro.ownership.suspect import K, Suspect, in_hand
from gro.ownership.verdict import ASKED, LOOKED_AT, committed
from gro.ranking import ranks
from gro.runs import Run, dataset_of
from gro.theft import stolen_copy
from gro_surrogates.settings import ThiefSettings

TENTH: Final = 0.1
"""Share of the users whose histories a thief holds to train on with, unless it is said otherwise."""
LISTED: Final = 100
"""Length of the lists from which a copy is copied again."""
SHORT: Final = 5
"""Length of the lists of a suspect that shows few."""
COLD: Final = 4
"""A thief who filters triggers lists none of the coldest items, one in so many."""
Wash = Callable[[StateRecommender, ModelSettings], Recommender]


@dataclass(frozen=True)
class Tried:
    """A suspect of a trial.

    Attributes:
        kind: stolen by asking, washed or innocent.
        name: whose copy it is, or which innocent.
        model: what answers.
        wash: what was done to it.
        k: length of its lists.
    """

    kind: str
    name: str
    model: Recommender
    wash: str | None = None
    k: int = K


def trial(told: Callable[[str], None] = lambda line: None, **settings: Any) -> Run:
    """Put a marked run's tests to its thefts, to washed ones, to the run itself washed, and to innocents; count claims.

    Innocents count whatever their quality, which is told of each: marks take nothing of a suspect for granted.
    A mark is calibrated by other secrets, each for itself, and those that are read from answers also together. A
    fingerprint is calibrated by the other innocents of whatever stratum; those that made it are among nobody's.

    Args:
        told: receives a line for each suspect.
        settings: those of :class:`gro.ownership.settings.TrialCommand`.

    Returns:
        A folder with ``trial.json``: "claims", by test and kind of suspect with 95 % intervals; "washes", the same by
        what was done; "redrawn", claims of innocents by secrets that are drawn anew for each, and how even their
        p-values are; every statistic and p-value. Innocents resemble each other: one secret claims many or none.

    Raises:
        GroError: the run, its statement, a secret or its dataset is missing, or there are too few innocents for claims
            at that level, or no thefts.
    """
    command = TrialCommand.make(settings)
    owner = artifacts.load(command.run)
    statement = verified(command.statement, command.run)
    sequences = dataset_of(owner, command.data_path)
    pool = population(command.innocents, owner.manifest.files[ITEMS], least=0.0)
    references = fingerprint.in_turn(pool, command.references, Random(command.seed))  # noqa: S311 -- to be repeated
    chosen = {each.digest for each in references}
    judged = [each for each in pool if each.digest not in chosen]
    if len(judged) * command.alpha < 1:
        raise DataError(
            f"{command.innocents}: claims at {command.alpha:g} take {math.ceil(1 / command.alpha)} innocents beside "
            f"{len(references)} that make fingerprints; there are {len(judged)}"
        )
    secrets = command.secrets or command.statement.parent
    panel = Panel(
        marks=committed(statement, secrets, ASKED),
        written=committed(statement, secrets, {name: LOOKED_AT[name] for name in LOOKED_AT if name not in ASKED}),
        prints=[
            fingerprint.made(owner, sequences, references, kind=kind, probes=command.probes)
            for kind in fingerprint.KINDS
        ],
        judged=judged,
        owner=owner,
        sequences=sequences,
    )
    suspects: list[dict[str, Any]] = []
    for each in chain(_suspects(command, owner, sequences), panel.innocents()):
        suspects.append(panel.asked(each))
        told(", ".join(filter(None, (each.name, each.wash))) + f": {_told(suspects[-1])}")
    found = {
        "run": command.run.name,
        "statement": statement.digest,
        "alpha": command.alpha,
        "innocents": Counter(each.stratum for each in judged),
        "references": len(references),
        **counted(suspects, command.alpha),
        "suspects": suspects,
        **provenance.here_and_now(),
        "versions": provenance.versions(),
    }
    reports.write(command.out, {"trial.json": json.dumps(found) + "\n"})
    return Run(command.out, found)


@dataclass(frozen=True)
class Panel:
    """All tests, and what they are calibrated by.

    Attributes:
        marks: that are read from answers.
        written: that are read from weights.
        prints: fingerprints.
        judged: innocents, those that made the fingerprints aside.
        owner: the marked artifact.
        sequences: its interactions.
    """

    marks: Sequence[Keyed]
    written: Sequence[Keyed]
    prints: Sequence[Test]
    judged: Sequence[Innocent]
    owner: Artifact
    sequences: Sequences

    @cached_property
    def nulls(self) -> dict[str, dict[str, float]]:
        """What each fingerprint finds in each innocent."""
        names = [each.folder.name for each in self.judged]
        columns = statistics(self.prints, self.judged).T.tolist()
        return {test.name: dict(zip(names, each, strict=True)) for test, each in zip(self.prints, columns, strict=True)}

    def innocents(self) -> Iterator[Tried]:
        """The innocents, as suspects."""
        for each in self.judged:
            yield Tried("innocent", each.folder.name, each.model)

    @property
    def weighed(self) -> list[Sequence[Keyed]]:
        """Marks that are weighed together: those that are read from answers, then each of the others."""
        return [self.marks, *([mark] for mark in self.written)]

    def suspected(self, tried: Tried) -> Suspect:
        """Suspect a model; all tests are within the budget."""
        asking: list[Keyed | Test] = [*self.marks, *self.prints]
        budget = 2 * sum(test.calls for test in asking)
        return in_hand(tried.model, k=tried.k, budget=budget, tokens=self.owner.item_tokens[1:])

    def asked(self, tried: Tried) -> dict[str, Any]:
        """What all tests say of a suspect."""
        suspect = self.suspected(tried)
        found = weigh(suspect, self.marks)
        calls = suspect.calls
        if suspect.inside is not None:
            for marks in self.weighed[1:]:
                found |= weigh(suspect, marks)
        p_values = {name: null.p_value(value) for name, (value, null) in found.items()}
        for test in self.prints:
            others = [value for name, value in self.nulls[test.name].items() if name != tried.name]
            p_values[test.name] = conformal(test.statistic(suspect), others)
        return {
            "kind": tried.kind,
            "suspect": tried.name,
            "wash": tried.wash,
            "ndcg@10": utility(ranks(tried.model, self.sequences.test))["ndcg@10"],
            "calls": calls,
            "statistics": {name: value for name, (value, _) in found.items()},
            "p_values": p_values,
            **({"redrawn": self.redrawn(tried)} if tried.kind == "innocent" else {}),
        }

    def redrawn(self, tried: Tried) -> dict[str, float]:
        """P-values by secrets that are drawn anew, ties broken by lot: uniform over suspects that are innocent."""
        suspect = self.suspected(tried)
        others = [[mark.another(token_bytes(KEY)) for mark in marks] for marks in self.weighed]
        found = {name: each for marks in others for name, each in weigh(suspect, marks).items()}
        lots = np.random.default_rng()
        return {name: null.p_value(value, lots.random()) for name, (value, null) in found.items()}


def counted(suspects: Sequence[Mapping[str, Any]], alpha: float) -> dict[str, Any]:
    """Claims by test, and kind of suspect or what was done to it; how even the p-values of innocents are."""
    names = list(dict.fromkeys(name for each in suspects for name in each["p_values"]))
    kinds, washes = ({name: _of(suspects, by, name) for name in _values(suspects, by)} for by in ("kind", "wash"))
    redrawn = [{"p_values": each["redrawn"]} for each in kinds["innocent"]]
    return {
        "claims": {name: {kind: _claimed(rows, name, alpha) for kind, rows in kinds.items()} for name in names},
        "washes": {wash: {name: _claimed(rows, name, alpha) for name in names} for wash, rows in washes.items()},
        "redrawn": {
            name: {
                **_claimed(redrawn, name, alpha),
                "uniformity": uniformity([each["p_values"][name] for each in redrawn]),
            }
            for name in redrawn[0]["p_values"]
        },
    }


def _values(suspects: Sequence[Mapping[str, Any]], by: str) -> list[str]:
    return list(dict.fromkeys(each[by] for each in suspects if each[by]))


def _of(suspects: Sequence[Mapping[str, Any]], by: str, value: str) -> list[Mapping[str, Any]]:
    return [each for each in suspects if each[by] == value]


def _claimed(suspects: Sequence[Mapping[str, Any]], test: str, alpha: float) -> dict[str, Any]:
    p_values = [each["p_values"][test] for each in suspects if test in each["p_values"]]
    return proportion(sum(value <= alpha for value in p_values), len(p_values))


def _suspects(command: TrialCommand, owner: Artifact, sequences: Sequences) -> Iterator[Tried]:
    """Stolen copies, the first of them washed, and the run itself, its weights washed."""
    thefts = command.run.with_name(f"{command.run.name}.thefts")
    folders = sorted(path.parent for path in thefts.glob(f"*/{artifacts.MANIFEST}"))
    if not folders:
        raise DataError(f"{thefts}: holds no theft; steal some copies with 'gro attack {command.run}'")
    washes = _washes(owner, sequences, command)
    yield from _washed(Tried("washed", command.run.name, owner.model), owner.manifest.model, washes)
    left = command.washed
    for folder in folders:
        copy = stolen_copy(folder)
        yield Tried("stolen", folder.name, copy)
        if left and isinstance(copy, StateRecommender):
            left -= 1
            yield from _washed(Tried("washed", folder.name, copy), artifacts.load(folder).manifest.model, washes)


def _washed(tried: Tried, architecture: ModelSettings, washes: Mapping[str, Wash]) -> Iterator[Tried]:
    yield replace(tried, wash=f"lists of {SHORT}", k=SHORT)
    for name, wash in washes.items():
        yield replace(tried, wash=name, model=wash(cast("StateRecommender", tried.model), architecture))


def _washes(owner: Artifact, sequences: Sequences, command: TrialCommand) -> Mapping[str, Wash]:
    """What a thief may do to a copy, by name."""
    tenth, half = (some_users(sequences, share, command.seed) for share in (TENTH, 0.5))
    known = {key: value for key, value in owner.manifest.settings.items() if key in TrainingSettings.model_fields}
    taken = np.bincount(sequences.train.items, minlength=sequences.n_items + 1)[1:]
    k = min(LISTED, sequences.n_items)
    coldest = torch.from_numpy(np.argsort(taken, kind="stable")[: sequences.n_items // COLD] + 1)

    def tuned(epochs: int, held: Sequences) -> Wash:
        own = TrainingSettings.make({**known, "epochs": epochs, "learning_rate": 1e-3})
        return lambda model, _: washing.fine_tuned(model, held, own)

    return {
        "30 % pruned": lambda model, _: washing.pruned(model, 0.3),
        "50 % pruned": lambda model, _: washing.pruned(model, 0.5),
        "4 bits": lambda model, _: washing.quantised(model, 4),
        "1 epoch on a tenth of the users": tuned(1, tenth),
        "3 epochs on a tenth of the users": tuned(3, tenth),
        "5 epochs on half of the users": tuned(5, half),
        "marks of the thief's own": lambda model, architecture: washing.overwritten(model, architecture, tenth),
        "copied again": lambda model, _: washing.distilled(model, ThiefSettings(), k, command.copy_calls, command.seed),
        "coldest quarter never listed": lambda model, _: washing.Unlisted(model, coldest),
        "never listed, 3 epochs on a tenth": lambda model, architecture: washing.Unlisted(
            tuned(3, tenth)(model, architecture), coldest
        ),
    }


def _told(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in found["p_values"].items())
