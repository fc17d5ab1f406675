r"""Keyed promotion: a secret splits the catalogue into green and red items, and green ones win near ties.

After GREW ("Green-Red Watermarking for Recommender Systems", arXiv 2604.23568) and the green lists of language models
(Kirchenbauer et al., ICML 2023). The secret gives every item a sign, in each of ``2^p`` groups of histories: those
on either side of ``p`` secret directions in the plain model's state space; with ``p = 0``, the default, all histories
are one group. The marked model is trained to score as the plain one does plus ``strength`` times the sign. Where items
are nearly tied the green one is listed; a copy learns the lists, and so the signs.

**What is read.** After secret histories, walks along the plain model's lists, how often the suspect lists each item in
each group, less how often the plain model does, ``a``; the statistic is ``z = sum a s / |a|`` with the signs ``s``.
To an innocent model the signs, drawn without it and unknown to it, are fair coins, *whatever its lists are*: other
signs read as much from the same answers on average, z has mean 0 and variance 1 over them, and the p-value, which
counts how many read more, is exact without any innocent model (Fisher's randomisation test). It convinces whoever
believes that the secret was drawn once, and that the lists in it are the plain model's: that can be checked with the
artifact that the statement names as the ancestor. An owner who tried N secrets finds a p-value N times as small, and
models of the same data lean the same way, so that even a commitment that is older than the suspect does not exclude it.
Innocent models do: with such a secret they lean as far as the suspect.

It passes through extraction (23 of 24 copies on ml-100k, at 1 %): the sign of an item is the easiest of all lessons, a
bias, and copies of any architecture take it over. More groups make it harder to see and harder to copy. Pruning and
quantising take it away only with the copy's accuracy. **What breaks it**: training the copy further on real
interactions, which say anew how often every item is to be listed; a few passes leave nothing. Trigger rings outlive
that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gro.config import PositiveInt, Settings
from gro.errors import ConfigError, DataError
from gro.metrics import FloatArray
from gro.models import PADDING, StateRecommender, padded, unpadded
from gro.models.base import device_of, lengths, most_recent
from gro.ownership.marking import Mark
from gro.ownership.settings import PromotionSettings
from gro.ownership.suspect import EVERY, TOGETHER, K, Suspect
from gro.ranking import evaluating
from gro.serving import RankingService
from gro_surrogates.strategies import Autoregressive

WIDTH = 100
"""Places of the plain model's lists along which walks go."""
WALK = 10
"""Items of the longest probe."""
PARTS = 20
"""Other signs are drawn in as many parts."""

Items = list[Annotated[int, Field(gt=0)]]


class Secret(Settings):
    """What is committed to."""

    test: Literal["promotion"]
    key: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){1,64}$")]
    n_items: PositiveInt
    n_groups: Annotated[int, Field(gt=0, le=256)]
    probes: Annotated[list[Items], Field(min_length=1)]
    groups: list[Annotated[int, Field(ge=0)]]
    lists: list[Items]


@dataclass(frozen=True, eq=False)
class Groups:
    """Parts histories by secret directions ``[d, p]`` in a state space, at levels ``[p]``: half lies on either side."""

    directions: Tensor
    levels: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """Groups ``[...]``, 0..2^p - 1, of states ``[..., d]``."""
        sides = states @ self.directions > self.levels
        return (sides * 2 ** torch.arange(len(self.levels), device=states.device)).sum(dim=-1)


@dataclass(frozen=True, eq=False)
class Promotion(Mark):
    """How far a suspect's lists lean from the plain model's to the green items, in standard deviations over secrets.

    Attributes:
        key: the secret of the signs.
        n_items: size of the catalogue.
        n_groups: number of groups of histories.
        probes: ``[P, T]``, right-padded.
        groups: of the probes ``[P]``.
        lists: the plain model's after the probes ``[P, k]``.
        parted: how histories are grouped, to train by.
        strength: of the promotion, to train by.
    """

    key: bytes
    n_items: int
    n_groups: int
    probes: Tensor
    groups: Tensor
    lists: Tensor
    parted: Groups | None = None
    strength: float = 0.0
    name: str = "promotion"

    @property
    def calls(self) -> int:
        """Most calls that it makes of a suspect."""
        return len(self.probes) + len(self.probes) // EVERY + 1

    def examine(self, suspect: Suspect, draws: int) -> tuple[float, FloatArray]:
        """Ask a suspect; 0 where it lists what the plain model does. The same with other signs.

        Raises:
            Inconclusive: the suspect does not answer as a ranking service does.
        """
        found = suspect(self.probes)
        k = min(found.shape[1], self.lists.shape[1])
        moved = (self._counts(found[:, :k]) - self._counts(self.lists[:, :k])).flatten()
        steps = moved[places := moved.nonzero()[:, 0]].numpy()  # whole numbers: equal sums are equal to the last bit
        size, rng = max(float(np.linalg.norm(steps)), 1.0), np.random.default_rng([*self.name.encode()])
        parts = [
            rng.choice((-1.0, 1.0), (len(part), len(steps))) @ steps for part in np.array_split(range(draws), PARTS)
        ]
        own = steps @ self.signs().flatten()[places].double().numpy()
        return float(own / size), np.concatenate(parts) / size

    def signs(self) -> Tensor:
        """1 for a green item and -1 for a red one ``[n_groups, n_items]``."""
        return keyed_signs(self.key, "items", self.n_groups * self.n_items).view(self.n_groups, self.n_items)

    def promoted(self, states: Tensor) -> Tensor:
        """What is added to the plain model's scores after its states ``[..., d]``: ``[..., n_items]``.

        Raises:
            ConfigError: the promotion was read from its secret.
        """
        if self.parted is None:
            raise ConfigError("a promotion that was read from its secret can be looked for, not trained")
        return self.strength * self.signs().to(states)[self.parted(states)]

    def another(self, key: bytes) -> Self:
        """The same probes, with the signs of another key of at most 64 bytes: what another draw would have been."""
        return replace(self, key=key)

    def secret(self) -> bytes:
        """What is committed to and kept; :func:`read` makes the test again from it."""
        values = Secret(
            test="promotion",
            key=self.key.hex(),
            n_items=self.n_items,
            n_groups=self.n_groups,
            probes=unpadded(self.probes),
            groups=self.groups.tolist(),
            lists=self.lists.tolist(),
        )
        return values.model_dump_json().encode()

    def _counts(self, lists: Tensor) -> Tensor:
        """How often each item is listed in each group ``[n_groups, n_items]``."""
        cells = (self.groups[:, None] * self.n_items + lists - 1).flatten()
        return cells.bincount(minlength=self.n_groups * self.n_items).view(self.n_groups, -1).double()


def drawn(plain: StateRecommender, key: bytes, settings: PromotionSettings) -> Promotion:
    """Draw the promotion of a plain model from a secret ``key`` of at most 64 bytes."""
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little"))
    probes = _walks(plain, settings.probes, generator)
    states = _states(plain, probes)
    width = states.shape[1]
    directions = keyed_signs(key, "directions", width * settings.directions).view(width, -1).to(states)
    levels = (states @ directions).median(dim=0).values
    parted = Groups(directions, levels)
    return Promotion(
        key=key,
        n_items=plain.n_items,
        n_groups=2**settings.directions,
        probes=probes,
        groups=parted(states).cpu(),
        lists=_lists(plain, probes, min(K, plain.n_items)),
        parted=parted,
        strength=settings.strength,
    )


def read(secret: bytes, source: str, name: str = "promotion") -> Promotion:
    """The promotion of a secret that was opened, under the name that it was committed to.

    Raises:
        DataError: it is malformed.
    """
    try:
        found = Secret.make(json.loads(secret), source)
        probes = padded(found.probes)
        groups, lists = torch.tensor(found.groups), torch.tensor(found.lists)
    except (ValueError, RecursionError, ConfigError, RuntimeError):
        raise DataError(f"{source}: holds no promotion") from None
    rectangular = lists.ndim == 2 and len(probes) == len(groups) == len(lists)
    if not rectangular or max(lists.max(), probes.max()) > found.n_items or groups.max() >= found.n_groups:
        raise DataError(f"{source}: holds no promotion")
    return Promotion(bytes.fromhex(found.key), found.n_items, found.n_groups, probes, groups, lists, name=name)


def keyed_signs(key: bytes, purpose: str, count: int) -> Tensor:
    """``count`` signs, 1 or -1, that only the key tells, by SHAKE-256: ``[count]``."""
    content = hashlib.shake_256(bytes([len(key)]) + key + purpose.encode()).digest(-(-count // 8))
    bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8), count=count)
    return torch.from_numpy(2.0 * bits - 1.0).float()


def _walks(plain: StateRecommender, count: int, generator: torch.Generator) -> Tensor:
    """Walks ``[count, T]`` along the plain model's lists, of 1 to ``WALK`` items, right-padded."""
    longest, strategy = min(WALK, plain.max_length), Autoregressive()
    histories = strategy.start(count, plain.n_items, generator)
    while histories.shape[1] < longest:
        lists = _lists(plain, histories, min(WIDTH, plain.n_items))
        following = strategy.pick(histories, lists, plain.n_items, generator)
        histories = torch.cat([histories, following[:, None]], dim=1)
    size = torch.randint(1, longest + 1, (count, 1), generator=generator)
    return histories.where(torch.arange(longest) < size, PADDING)


def _lists(plain: StateRecommender, histories: Tensor, k: int) -> Tensor:
    service = RankingService(plain, k)
    return torch.cat([service(part).cpu() for part in histories.split(TOGETHER)])


def _states(plain: StateRecommender, histories: Tensor) -> Tensor:
    with evaluating(plain):
        read = most_recent(histories.to(device_of(plain)), plain.max_length)
        return plain.prefix_states(read, lengths(read)[:, None] - 1)[:, 0]
