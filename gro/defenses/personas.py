"""A few lists for all beginners: each is answered as the kind of person that he looks most like.

What a service tells anybody it tells a thief, however often he asks; so it is the number of lists, not of answers, that
bounds what beginners' answers can teach. The states of the model of beginners are reduced to a few by k-means (vector
quantisation; Lloyd, IEEE Trans. Inf. Theory 1982).
"""

from __future__ import annotations

import base64
import warnings
from typing import Final, Literal

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from gro.data import HeldOut, Sequences
from gro.defenses.astray import astray, elsewhere, held, renamed
from gro.errors import ConfigError
from gro.metrics import FloatArray, ndcg
from gro.models import Recommender, StateRecommender, TrainableRecommender, padded
from gro.models.base import device_of, lengths, most_recent
from gro.optimizer.staged import HELD, Staged, strangers
from gro.ranking import evaluating, ranks

GROWTH, TRIES = 4, 4
"""Where the personas cost too much there are so many times more, so often."""
ENOUGH: Final = 0.75
"""Part of what the witness is worth to beginners whom it does not know that the personas must be worth to them."""
STEPS: Final = 20_000
"""Beginners' items by which it is measured, at most."""
LEARNT: Final = 50_000
"""Beginnings of histories that the personas are learnt from, at most."""
TOGETHER, ROUNDS = 1024, 30
AFFORDABLE: Final = 1 << 28
"""Distances for which k-means++ chooses where to begin; it takes ``N * C ** 2``."""
SELDOM: Final = 0.01
"""Largest share of items that people have for another time where nobody is told again what he has."""


class Personas(nn.Module):
    """Answers as a model does, but from a few of its states only.

    Attributes:
        model: of beginners, or the plain target where there is no codebook.
        codebook: the states ``[C, d]``; ``None`` leaves them as they are.
        again: whether what is in a history may be told again; otherwise it stands behind everything else.
        max_length: items that are read.
    """

    codebook: Tensor | None

    def __init__(self, model: StateRecommender, short: int, codebook: Tensor | None, *, again: bool = True) -> None:
        super().__init__()
        self.model, self.n_items, self.max_length, self.again = model, model.n_items, short, again
        self.register_buffer("codebook", codebook)

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` to ``[B, n_items]``; the latest items are read."""
        return self._told(histories, histories)

    def astray(self, histories: Tensor, others: Tensor) -> Tensor:
        """Scores of the persona that is meant for the items that pass for those asked; see :mod:`gro.defenses.astray`.

        Without personas, of a catalogue where items have the names of others.
        """
        if self.codebook is None:
            return elsewhere(self, histories, others)
        return self._told(renamed(others, histories), histories)

    def prefix_scores(self, histories: Tensor, ends: Tensor) -> Tensor:
        """Score the next item after prefixes, as models do; what is in the history stands where it would."""
        states = self.model.prefix_states(histories, ends)
        if self.codebook is not None:
            codebook = self.codebook.to(states)
            away = torch.cdist(states, codebook, compute_mode="donot_use_mm_for_euclid_dist")
            states = codebook[away.argmin(dim=2)]
        return self.model.item_scores(states)

    def _told(self, meant: Tensor, asked: Tensor) -> Tensor:
        read = most_recent(meant, self.max_length)
        scores = self.prefix_scores(read, lengths(read)[:, None] - 1)[:, 0]
        return scores if self.again else _behind(scores, asked)

    def written(self) -> str:
        """The codebook, 32-bit, in base64; empty where there is none."""
        figures = np.empty(0) if self.codebook is None else self.codebook.cpu().numpy()
        return base64.b64encode(figures.astype("<f4").tobytes()).decode()

    @classmethod
    def read(cls, model: StateRecommender, short: int, written: str, *, again: bool = True) -> Personas:
        """The personas of a model again.

        Raises:
            ConfigError: these are no states of the model.
        """
        width = model.item_embedding.embedding_dim
        try:
            figures = np.frombuffer(base64.b64decode(written, validate=True), dtype="<f4")
        except ValueError:
            figures = np.full(width, np.nan, dtype="<f4")
        if len(figures) % width or not np.isfinite(figures).all():
            raise ConfigError(f"the gate's 'codebook' is not one of states of {width} figures")
        codebook = torch.from_numpy(figures.reshape(-1, width).copy()) if len(figures) else None
        return cls(model, short, codebook, again=again)


def misled(model: TrainableRecommender, personas: Personas, histories: Tensor, since: Tensor, others: Tensor) -> Tensor:
    """What those hear who are taken for false ``[B, n_items]``: beginners a persona, others as the model leads astray.

    Args:
        model: whose scores they are.
        personas: who answer beginners.
        histories: of at most ``max_length`` items ``[B, T]``.
        since: items before those since which each is false ``[B]``.
        others: see :func:`gro.defenses.astray.others`.
    """
    if (few := lengths(histories) <= personas.max_length).all():
        return personas.astray(histories, others)
    silent = 0 if personas.codebook is None else personas.max_length
    scores = astray(model, histories, since, silent, others)
    if few.any():
        scores[few] = personas.astray(histories[few], others)
    return scores


def fewest_personas(model: Staged, sequences: Sequences, count: int, budget: float) -> tuple[Personas, float]:
    """Learn ``count`` personas, or as many more as it takes to serve people.

    People lose at most a part ``budget`` of NDCG@10 on validation items. As there may be no beginners among those, the
    personas are also held to a part :data:`ENOUGH` of what the witness makes of the first items of those whom it does
    not know. Where no number does, the plain target answers beginners as long as they look like people.

    Returns:
        The personas, and the part that they cost on validation items; see :func:`lost`.
    """
    rng = np.random.default_rng(0)
    states, again = _beginnings(model.early, model.short, sequences, rng), taken_again(sequences) > SELDOM
    before, steps = ndcg(ranks(model.later, sequences.valid), 10), first_steps(sequences, model.short)
    needed = ENOUGH * ndcg(ranks(model.witness, steps), 10).sum()
    for number in (count * GROWTH**n for n in range(TRIES)):
        found = Personas(model.early, model.short, _centroids(states, number, rng).to(device_of(model)), again=again)
        if (cost := lost(found, before, sequences.valid)) <= budget and ndcg(ranks(found, steps), 10).sum() >= needed:
            return found, cost
    return Personas(model.later, model.short, None), 0.0


def first_steps(sequences: Sequences, short: int) -> HeldOut:
    """The first items of people whom the witness does not know, each after the up to ``short`` ones before it."""
    known = sequences.train
    begun = [known.history(int(user))[: short + 1] for user in strangers(sequences)]
    steps = [history[: end + 1] for history in begun for end in range(1, len(history))]
    chosen = [steps[n] for n in np.random.default_rng(0).permutation(len(steps))[:STEPS]]
    bounds = np.cumsum([0, *map(len, chosen)])
    items = np.concatenate([np.empty(0, dtype=np.int32), *chosen])
    return HeldOut(Sequences(sequences.name, bounds, items, sequences.item_tokens, bounds[1:].astype(str)), 1)


def lost(found: Recommender, before: FloatArray, held_out: HeldOut) -> float:
    """Part of the NDCG@10 of all people, ``before [n_users]``, that is lost where ``found`` answers beginners."""
    begun = held_out.lengths <= found.max_length
    after = ndcg(ranks(found, held_out), 10)
    return max(0.0, float((before - after)[begun].sum() / (before.sum() or 1.0)))


def taken_again(sequences: Sequences) -> float:
    """Share of people's items, without what is held out, that they had before."""
    known = sequences.train
    owners = np.repeat(np.arange(known.n_users), np.diff(known.indptr))
    return 1 - len(np.unique(owners * (known.n_items + 1) + known.items)) / known.n_interactions


def _behind(scores: Tensor, histories: Tensor) -> Tensor:
    """Scores ``[B, n_items]`` by which what is in the histories ``[B, T]`` stands last."""
    return scores - held(histories, scores.shape[1]) * (scores.amax(dim=1) - scores.amin(dim=1) + 1)[:, None]


def _beginnings(model: StateRecommender, short: int, sequences: Sequences, rng: np.random.Generator) -> Tensor:
    """States after the beginnings of histories, without what is held out: ``[N, d]``, each once."""
    begun = [sequences.history(user)[:-HELD][:short].astype(np.int64) for user in range(sequences.n_users)]
    parts = [torch.from_numpy(history[: end + 1]) for history in begun for end in range(len(history))]
    chosen = rng.permutation(len(parts))[:LEARNT]
    with evaluating(model):
        states = [
            _states(model, padded([parts[n] for n in some]).to(device_of(model))).cpu()
            for some in np.array_split(chosen, max(1, len(chosen) // TOGETHER))
        ]
    return torch.cat(states).double().unique(dim=0)  # type: ignore[no-any-return]


def _centroids(states: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """At most ``count`` states in whose place all others can be taken."""
    number = min(count, len(states))
    begin: Literal["++", "points"] = "++" if len(states) * number**2 <= AFFORDABLE else "points"
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        found, nearest = kmeans2(states.numpy(), number, ROUNDS, minit=begin, rng=rng)
    return torch.from_numpy(found[np.unique(nearest)]).float()


def _states(model: StateRecommender, histories: Tensor) -> Tensor:
    return model.prefix_states(histories, lengths(histories)[:, None] - 1)[:, 0]
