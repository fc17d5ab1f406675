"""What the gate reads of a history, and the network that judges it.

A history is told by how three models take it, not by what is in it: a witness that has learnt other people's, another
that has learnt the first items of those (:mod:`gro.optimizer.staged`), and the personas that answer beginners, whose
lists a thief cannot help following while he is taken for one (:mod:`gro.defenses.personas`). The model of beginners
itself would not do: it knows how everybody began of whom the gate learns, and nobody who comes later.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from gro.defenses.personas import Personas
from gro.errors import ConfigError
from gro.models import PADDING, StateRecommender
from gro.models.base import most_recent
from gro.optimizer.staged import Staged
from gro.ranking import evaluating
from gro.serving import Remembering, goes_on

TOP: Final = (10, 100, 200)
"""Places by which the network reads where an item stood."""
TAKEN: Final = 2 + len(TOP)
"""Figures that tell how a model takes an item."""
FEATURES: Final = 2 + 3 * TAKEN
HIDDEN: Final = 32
READERS: Final = 4
"""Networks; each judges those people from whom only the others have learnt."""
TOGETHER: Final = 1 << 23
"""Scores of a model that are looked at at a time, at most."""
PLACE, LIKELY = 2, 3
"""Columns of :func:`features` that tell the place of each item and its log probability after the witness, scaled."""
SCALE: Final = 7.0


class Network(nn.Module):
    """Tells after every item how false a history looks: features ``[B, T, 17]`` to logits ``[B, T]``.

    The mean of recurrent networks that have learnt from different people.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reading = nn.ModuleList(nn.LSTM(FEATURES, HIDDEN, batch_first=True) for _ in range(READERS))
        self.judging = nn.ModuleList(nn.Linear(HIDDEN, 1) for _ in range(READERS))

    def opinions(self, features: Tensor) -> Tensor:
        """Logits of each network ``[R, B, T]``."""
        parts = zip(self.reading, self.judging, strict=True)
        return torch.stack([judging(reading(features)[0])[..., 0] for reading, judging in parts])

    def forward(self, features: Tensor) -> Tensor:
        """Read a history from its beginning."""
        return self.opinions(features).mean(dim=0)

    def written(self) -> str:
        """All weights, 32-bit, in base64."""
        weights = nn.utils.parameters_to_vector(self.parameters()).detach().cpu().numpy()
        return base64.b64encode(weights.astype("<f4").tobytes()).decode()

    @classmethod
    def read(cls, written: str) -> Network:
        """The network again.

        Raises:
            ConfigError: these are not its weights.
        """
        made = cls()
        try:
            weights = np.frombuffer(base64.b64decode(written, validate=True), dtype="<f4")
        except ValueError:
            weights = np.empty(0, dtype="<f4")
        if len(weights) != sum(each.numel() for each in made.parameters()) or not np.isfinite(weights).all():
            raise ConfigError("the gate's 'weights' are not those of its network; protect the target again")
        nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), made.parameters())
        return made.eval().requires_grad_(False)


@torch.no_grad()
def features(model: Staged, personas: Personas, histories: Tensor, begin: int = 0) -> Tensor:
    """What the models make of each item of histories ``[B, T]``: ``[B, T', 17]``, zeros where there is none.

    Of the last ``max_length`` items, from the one at place ``begin`` on: how popular it is; and of all but the first,
    whether it is there for another time and, by the witness, by that of beginnings and, as long as they answer, by the
    personas, place and log probability after those before it, and whether it was among the first 10, 100 and 200.
    """
    read = most_recent(histories, model.max_length)
    rows = max(1, TOGETHER // ((read.shape[1] - begin) * model.n_items))
    found = list[Tensor]()
    for part in read.split(rows):
        scores = (_before(witness, part, begin) for witness in _witnesses(model))
        found.append(_features(model, personas, part, begin, scores))
    return torch.cat(found)


class Reading:
    """Reads histories as :func:`features` does.

    Where they are those of the call before, each longer by one item, only the new items are read.

    Attributes:
        model: the target and its witnesses.
        personas: who answer beginners.
    """

    def __init__(self, model: Staged, personas: Personas) -> None:
        self.model, self.personas = model, personas
        self._witnesses = [Remembering(witness) for witness in _witnesses(model)]
        self._last: Tensor | None = None
        self._read = torch.empty(0)

    @torch.no_grad()
    def __call__(self, histories: Tensor) -> Tensor:
        """Read histories of at most ``max_length`` items ``[B, T]``: ``[B, T, 17]``."""
        if goes_on(histories, self._last):
            known = histories.shape[1] - 1
            with evaluating(self.model):
                scores = [witness.scores(histories[:, :known])[:, None] for witness in self._witnesses]
            new = _features(self.model, self.personas, histories, known, scores)
            self._read = torch.cat([self._read, new], dim=1)
        else:
            self._read = features(self.model, self.personas, histories)
        self._last = histories.clone()
        return self._read


def _witnesses(model: Staged) -> tuple[StateRecommender, StateRecommender]:
    return model.witness, model.early_witness


def _features(model: Staged, personas: Personas, read: Tensor, begin: int, scores: Iterable[Tensor]) -> Tensor:
    at = torch.arange(begin, read.shape[1], device=read.device)
    known = read[:, at] != PADDING
    popular = model.popularity.clamp(min=torch.finfo().tiny).log()[read[:, at] - known.long()][..., None] / 8 + 1
    again = torch.tril(read[:, :, None] == read[:, None, :], diagonal=-1).any(dim=2)[:, at, None]
    expected = (_expected(each, read[:, at]) for each in scores)
    found = torch.cat([again, *expected, _told(personas, read, begin)], dim=-1)
    return torch.cat([popular, found * (at > 0)[:, None]], dim=-1) * known[..., None]


def _told(personas: Personas, read: Tensor, begin: int) -> Tensor:
    """How personas take the items behind those of beginners, zeros for all others and where there are none."""
    found = torch.zeros(len(read), read.shape[1] - begin, TAKEN, device=read.device)
    begun = read[:, : personas.max_length + 1]
    if personas.codebook is not None and begin < begun.shape[1]:
        found[:, : begun.shape[1] - begin] = _expected(_before(personas, begun, begin), begun[:, begin:])
    return found


def _before(model: StateRecommender | Personas, read: Tensor, begin: int) -> Tensor:
    """A model's scores before each item from one on ``[B, E, n_items]``; those before the first mean nothing."""
    ends = torch.arange(begin - 1, read.shape[1] - 1, device=read.device).clamp(min=0)
    with evaluating(model):
        return model.prefix_scores(read, ends.expand(len(read), -1))


def _expected(scores: Tensor, items: Tensor) -> Tensor:
    """How items ``[B, E]`` are taken by whose scores ``[B, E, n_items]`` before each are given: ``[B, E, 5]``."""
    likely = scores.log_softmax(dim=-1)
    given = likely.gather(2, (items - 1).clamp(min=0)[..., None])
    place = (likely > given).sum(dim=2)
    near = [(place < most).float() for most in TOP]
    return torch.stack([torch.log1p(place) / SCALE, given[..., 0] / 8 + 1, *near], dim=-1)


def gains(features: Tensor) -> Tensor:
    """NDCG@10 that the witness earns with each item of features ``[B, T, 17]``: ``[B, T]``, 0 for the first."""
    place = torch.expm1(SCALE * features[..., PLACE]).round()
    earned = (place < 10) / torch.log2(place + 2)
    return earned * features.any(dim=2) * (torch.arange(features.shape[1], device=features.device) > 0)
