"""Are two artifacts the same, and if not, how alike are they, next to what independent models have in common?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gro import artifacts
from gro.artifacts import Artifact
from gro.artifacts.manifest import ITEMS
from gro.data import HeldOut
from gro.errors import DataError
from gro.metrics import FloatArray, IntArray, agreement
from gro.models import PADDING, Recommender
from gro.ownership.calibration import Calibration
from gro.ownership.identity import identify
from gro.ownership.parameters import item_space
from gro.ownership.population import population
from gro.ownership.suspect import Tokens, answering, item_table
from gro.ranking import lists
from gro.runs import dataset_of, device_named

K: Final = 10
"""Items of each list that are compared."""
SAME: Final = 1 - 1e-6
"""Similarity from which two tables are one: what is missing is less than rounding to 16-bit floats takes."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike two recommenders of one catalogue are, each at most 1.

    Attributes:
        cka: of the item tables, see :func:`linear_cka`.
        space: of the item tables, see :func:`shared_space`.
        permuted: of the item tables, see :func:`after_permutation`; ``None`` where they differ in width.
        agreement: mean share of the 10 best items in common, over real histories.
    """

    cka: float
    space: float
    permuted: float | None
    agreement: float


def compare(first: Path, second: Path, innocents: Path | None, data_path: Path | None, device: str) -> dict[str, Any]:
    """Compare two artifacts, as they are served.

    Args:
        first: whose dataset and innocents are taken.
        second: of the same catalogue, in any order; a thief's copy is welcome.
        innocents: folder of independent models that ``gro own innocents`` made for ``first``.
        data_path: where the dataset is now; unset looks where it was.
        device: where lists are made.

    Returns:
        "same" by four standards: bytes of the "files", "weights", the item table up
        to a "permutation" of the hidden dimensions, a scale and a shift, or up to any "linear map". "similarity" as in
        :class:`Similarity`, and for "innocents", by the same names, what :meth:`Calibration.report` says of it.

    Raises:
        GroError: an artifact or the dataset cannot be read, the catalogues differ, or there are no innocents.
    """
    ours, theirs = artifacts.load(first), artifacts.load(second)
    like = _likeness(ours, dataset_of(ours, data_path).test, device)
    similarity = like(theirs)
    permuted = similarity.permuted
    return {
        "runs": [str(first), str(second)],
        "same": {
            "files": ours.manifest.files == theirs.manifest.files,
            "weights": identify(ours).weights == identify(theirs).weights,
            "permutation": permuted is not None and permuted >= SAME,
            "linear map": similarity.space >= SAME,
        },
        "similarity": asdict(similarity),
        "innocents": _calibrated(similarity, like, ours, innocents) if innocents else None,
    }


def linear_cka(x: FloatArray, y: FloatArray) -> float:
    """Linear centred kernel alignment (Kornblith et al., ICML 2019, eq. 3) of two tables ``[n, d]`` and ``[n, e]``.

    1 for tables that are one after a rotation, a scale and a shift; directions count by their variance.
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return _squares(x.T @ y) / float(np.sqrt(_squares(x.T @ x) * _squares(y.T @ y)))


def shared_space(x: FloatArray, y: FloatArray) -> float:
    """Mean squared canonical correlation (Hotelling, Biometrika 1936) of two tables ``[n, d]`` and ``[n, e]``.

    1 for tables that are one after an invertible map and a shift; all directions count alike. Tables that have
    nothing to do with each other have ``min(d, e) / (n - 1)`` on average.
    """
    one, other = item_space(x), item_space(y)
    return _squares(one.basis.T @ other.basis) / max(len(one.sizes), len(other.sizes))


def after_permutation(x: FloatArray, y: FloatArray) -> float:
    """Cosine of two centred tables ``[n, d]`` after the permutation of the dimensions that makes it largest."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    products = x.T @ y
    best = float(products[linear_sum_assignment(products, maximize=True)].sum())
    return best / float(np.sqrt(_squares(x) * _squares(y)))


class _Renumbered:
    """A recommender under the ids of another catalogue; ``ids [n_items + 1]`` are its own, by those."""

    def __init__(self, model: Recommender, ids: IntArray) -> None:
        self.n_items, self.max_length = model.n_items, model.max_length
        self._model, self._ids = model, torch.from_numpy(ids)

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` to ``[B, n_items]``."""
        ids = self._ids.to(histories.device)
        return self._model.scores(ids[histories])[:, ids[1:] - 1]


def _likeness(ours: Artifact, real: HeldOut, device: str) -> Callable[[Artifact], Similarity]:
    """How like one artifact others are."""
    table, where = item_table(ours.model), device_named(device)

    def best(artifact: Artifact, ids: IntArray) -> npt.NDArray[np.int64]:
        model = _Renumbered(answering(artifact, where), ids)
        return lists(model, real, min(K, model.n_items))

    wanted = best(ours, np.arange(ours.model.n_items + 1))

    def like(theirs: Artifact) -> Similarity:
        ids = _ids_of(ours.item_tokens, theirs)
        other = item_table(theirs.model)[ids[1:] - 1]
        return Similarity(
            cka=linear_cka(table, other),
            space=shared_space(table, other),
            permuted=after_permutation(table, other) if table.shape == other.shape else None,
            agreement=float(agreement(wanted, best(theirs, ids), wanted.shape[1]).mean()),
        )

    return like


def _ids_of(tokens: Tokens, artifact: Artifact) -> IntArray:
    """The id in an artifact of every token ``[n_items + 1]``; padding stays padding."""
    place = {token: number for number, token in enumerate(artifact.item_tokens.tolist()) if number != PADDING}
    found = [place.get(str(token)) for token in tokens[1:]]
    shared = [number for number in found if number is not None]
    if not len(shared) == len(found) == len(place):
        raise DataError(
            f"{artifact.folder}: is of another catalogue: of its {len(place):,} items and the other's {len(found):,}, "
            f"{len(shared):,} are shared; artifacts are compared over the same items"
        )
    return np.array([PADDING, *shared], dtype=np.int64)


def _calibrated(
    similarity: Similarity, like: Callable[[Artifact], Similarity], owner: Artifact, folder: Path
) -> dict[str, Any]:
    """What independent models make of every similarity, by its name."""
    innocents = population(folder, owner.manifest.files[ITEMS])
    found = [(each.stratum, asdict(like(artifacts.load(each.folder)))) for each in innocents]
    report = {}
    for name, value in asdict(similarity).items():
        nulls: dict[str, list[float]] = {}
        for stratum, each in found:
            if each[name] is not None:
                nulls.setdefault(stratum, []).append(each[name])
        report[name] = Calibration(nulls).report(value) if value is not None and nulls else None
    return report


def _squares(x: FloatArray) -> float:
    return float(np.square(x).sum())
