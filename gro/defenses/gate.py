"""The gate: whoever has a history that no person has gets lists that teach nothing.

A history is judged by how a witness takes it (:mod:`gro.optimizer.staged`), a model that has learnt other people's: at
which place each item stood after those before it, how likely and how popular it was, whether it is there twice. A small
recurrent network, of which nobody sees more than what it makes of lists, has learnt from these figures to tell people,
whom the witness never saw, from every kind of data-free thief, and in a second round from thieves who were answered by
the gate itself. A history that ever looked false stays so, however it goes on.

The lists that it gives are those of the model of beginners after other items than were asked: they look like lists, are
the same whenever the same is asked, and hold nothing that a short history would not have told.

In the spirit of adaptive misinformation (Kariyappa & Qureshi, CVPR 2020), where the target's own confidence is the
judge and there is nothing to learn; :class:`gro.defenses.misinformation.Misinformation` is that.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from functools import cached_property, partial
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gro.config import PositiveInt
from gro.data import Sequences
from gro.defenses.base import Answer, ListPart
from gro.defenses.misinformation import false_names
from gro.errors import ConfigError, DataError
from gro.models import PADDING, Recommender, TrainableRecommender, padded
from gro.models.base import device_of, lengths, most_recent
from gro.optimizer.staged import HELD, Staged, witnesses
from gro.ranking import evaluating, top_k
from gro_surrogates.strategies import Agent, Autoregressive, Coverage, Mimic, Random, RankBiased, Strategy

FEATURES: Final = 7
HIDDEN: Final = 32
TOGETHER: Final = 1 << 23
"""Scores of the witness that are looked at at a time, at most."""
THIEVES: Final[tuple[Callable[[], Strategy], ...]] = (
    Random,
    Autoregressive,
    Coverage,
    Agent,
    partial(RankBiased, 0.5),
    partial(RankBiased, 1.0),
    partial(Mimic, 0.3, 0.4),
    partial(Mimic, 0.5, 0.6),
    partial(Mimic, 1.0, 0.8),
)
"""Whom the gate learns to know."""
JUDGES: Final = 0.15
"""Share of the users by whom the threshold is chosen; the witness and the network never see them."""
WINDOWS: Final = 12
"""Parts of each history that the network learns, and by which the threshold is chosen."""
EPOCHS, BATCH, RATE = 25, 128, 3e-3
"""Of the network."""


class Network(nn.Module):
    """Tells after every item how false a history looks: features ``[B, T, 7]`` to logits ``[B, T]``."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = nn.GRU(FEATURES, HIDDEN, batch_first=True)
        self.judging = nn.Linear(HIDDEN, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Read a history from its beginning."""
        logits: Tensor = self.judging(self.reading(features)[0])[..., 0]
        return logits

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
            raise ConfigError("the gate's 'weights' are not those of its network")
        nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), made.parameters())
        return made.eval().requires_grad_(False)


class Gate(ListPart):
    """Serve histories that no person has the lists of the model of beginners after other items."""

    reads_secret = True

    kind: Literal["gate"] = "gate"
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.015
    """Share of the longest histories that a person may have, of people nobody has learnt, that are taken for false."""
    thefts: PositiveInt = 96
    """Histories of each kind of thief in a round of learning."""
    rounds: PositiveInt = 2
    """The thieves of the first are answered without the gate, those of later ones by the gate as it is then."""
    weights: str | None = None
    """Of the network; learnt when the target is protected."""
    threshold: float | None = None
    """Logit above which a history is false; measured when the target is protected."""

    def require(self, model: Recommender) -> None:
        """See :meth:`gro.defenses.base.Part.require`."""
        _staged(model)

    def fitted(self, model: Recommender, sequences: Sequences) -> Self:
        """See :meth:`gro.defenses.base.Part.fitted`.

        Raises:
            ConfigError: the model has no witness.
            DataError: there are too few users, or none has a history that is longer than those of beginners.
        """
        return self.model_validate(self.model_dump() | Lesson(_staged(model), sequences, self).learnt())

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`."""
        model = _staged(answer.model)
        false = self.judged(model, answer.histories)
        if not false.any():
            return answer.lists
        names = false_names(model.n_items, answer.secret).to(answer.lists.device)
        asked = names[most_recent(answer.histories[false], model.short)]
        lists = answer.lists.clone()
        lists[false] = top_k(model.early.scores(asked), lists.shape[1])
        return lists

    def judged(self, model: Staged, histories: Tensor) -> Tensor:
        """Which of the histories ``[B, T]`` are false ``[B]``.

        Raises:
            ConfigError: the gate has learnt nothing.
        """
        if self.threshold is None:
            raise ConfigError("the gate has learnt nothing; protect a target with it")
        false = lengths(histories) > model.short
        if false.any():
            read = features(model, histories[false])
            false[false.clone()] = suspicion(self._network.to(read.device), read, model.short) > self.threshold
        return false

    @cached_property
    def _network(self) -> Network:
        return Network.read(self.weights or "")


class Lesson:
    """What the gate learns from: histories of people whom the witness does not know, and of thieves."""

    def __init__(self, model: Staged, sequences: Sequences, gate: Gate) -> None:
        self.model, self.gate = model, gate
        seed = int.from_bytes(hashlib.blake2b(sequences.digest.encode(), digest_size=7).digest(), "little")
        self.generator, self.rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        unknown = self.rng.permutation(np.setdiff1d(np.arange(sequences.n_users), witnesses(sequences)))
        judges = max(1, round(JUDGES * sequences.n_users))
        taught, judging = (self._windows(sequences, users) for users in (unknown[judges:], unknown[:judges]))
        if not (len(taught) and len(judging)):
            raise DataError(
                f"{sequences.name}: the gate learns from people with more than {model.short + HELD} interactions; "
                "there are too few: protect it otherwise, or lower 'short'"
            )
        self.people, self.judges = self._read(taught), self._read(judging)

    def learnt(self) -> dict[str, str | float]:
        """Weights and threshold."""
        thefts: list[Tensor] = []
        gate, values = None, dict[str, str | float]()
        for _ in range(self.gate.rounds):
            thefts += [self._read(self._theft(make(), gate)) for make in THIEVES]
            network = self._taught(torch.cat(thefts))
            found = suspicion(network, self.judges, self.model.short)
            threshold = found.quantile(1 - self.gate.false_alarms, interpolation="higher")
            values = {"weights": network.written(), "threshold": float(threshold)}
            gate = Gate.model_validate(self.gate.model_dump() | values)
        return values

    def _windows(self, sequences: Sequences, users: npt.NDArray[np.int64]) -> Tensor:
        """Parts of histories ``[N, T]``, half of them from the beginning."""
        longest, found = self.model.max_length, []
        for user in users:
            history = torch.from_numpy(sequences.history(int(user))[:-HELD].astype(np.int64))
            if len(history) <= self.model.short:
                continue
            begins = self.rng.integers(0, max(1, len(history) - longest), WINDOWS) * self.rng.integers(0, 2, WINDOWS)
            found += [history[begin : begin + longest] for begin in begins.tolist()]
        return padded(found) if found else torch.empty(0, longest, dtype=torch.int64)

    def _read(self, histories: Tensor) -> Tensor:
        short_of = self.model.max_length - histories.shape[1]
        return F.pad(features(self.model, histories.to(device_of(self.model))), (0, 0, 0, short_of)).cpu()

    def _theft(self, strategy: Strategy, gate: Gate | None) -> Tensor:
        """Histories ``[N, max_length]`` of a thief who is answered by the model, behind the gate if there is one."""
        model, found = self.model, list[Tensor]()
        k = min(100, model.n_items)
        with evaluating(model):
            while (left := self.gate.thefts - sum(map(len, found))) > 0:
                histories = strategy.start(min(left, strategy.together), model.n_items, self.generator)
                while histories.shape[1] < model.max_length:
                    lists = self._answered(histories.to(device_of(model)), k, gate).cpu()
                    following = strategy.pick(histories, lists, model.n_items, self.generator)
                    histories = torch.cat([histories, following[:, None]], dim=1)
                found.append(histories)
        return torch.cat(found)

    def _answered(self, histories: Tensor, k: int, gate: Gate | None) -> Tensor:
        scores = self.model.scores(histories)
        lists = top_k(scores, k)
        if gate is None or histories.shape[1] <= self.model.short:
            return lists
        return gate.lists(Answer(self.model, histories, scores, lists, None, torch.empty(0), 0, b"rehearsal"))

    def _taught(self, thefts: Tensor) -> Network:
        """Train a network on equal shares of people and thieves, after every item behind those of beginners."""
        with torch.random.fork_rng():
            torch.manual_seed(int(self.generator.initial_seed() % (1 << 62)))
            network = Network()
            shown = torch.cat([self.people, thefts])
            false = torch.cat([torch.zeros(len(self.people)), torch.ones(len(thefts))])
            share = torch.where(false > 0, len(shown) / (2 * len(thefts)), len(shown) / (2 * len(self.people)))
            counted = shown.any(dim=2) & (torch.arange(shown.shape[1]) >= self.model.short)
            optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
            for rows in (rows for _ in range(EPOCHS) for rows in torch.randperm(len(shown)).split(BATCH)):
                logits, truth = network(shown[rows]), false[rows, None].expand(-1, shown.shape[1])
                losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * share[rows, None]
                optimizer.zero_grad()
                (losses * counted[rows]).sum().div(counted[rows].sum().clamp(min=1)).backward()
                optimizer.step()
        return network.eval().requires_grad_(False)


@torch.no_grad()
def features(model: Staged, histories: Tensor) -> Tensor:
    """What the witness makes of each item of histories ``[B, T]``: ``[B, T', 7]``, zeros where there is none.

    Of the last ``max_length`` items: how popular it is; and of all but the first, place and log probability after those
    before it, whether that was among the first 10, 100 and 200, and whether the item is there for another time.
    """
    witness = model.witness
    read = most_recent(histories, witness.max_length)
    rows = max(1, TOGETHER // (read.shape[1] * witness.n_items))
    with evaluating(witness):
        return torch.cat([_features(witness, model.popularity, part) for part in read.split(rows)])


def _features(witness: TrainableRecommender, popularity: Tensor, read: Tensor) -> Tensor:
    known, place = read != PADDING, torch.arange(read.shape[1], device=read.device)
    scores = witness.prefix_scores(read, (place - 1).clamp(min=0).expand_as(read)).log_softmax(dim=-1)
    given = scores.gather(2, (read - 1).clamp(min=0)[..., None])
    rank = (scores > given).sum(dim=2)
    again = torch.tril(read[:, :, None] == read[:, None, :], diagonal=-1).any(dim=2)
    found = torch.stack(
        [
            torch.log1p(rank) / 7,
            given[..., 0] / 8 + 1,
            again.float(),
            *((rank < most).float() for most in (10, 100, 200)),
        ],
        dim=-1,
    )
    popular = popularity.clamp(min=torch.finfo().tiny).log()[read - known.long()][..., None] / 8 + 1
    return torch.cat([popular, found * (place > 0)[:, None]], dim=-1) * known[..., None]


def suspicion(network: Network, features: Tensor, short: int) -> Tensor:
    """The highest logit of histories ``[B, T, 7]`` behind their first ``short`` items: ``[B]``, or -inf."""
    with torch.no_grad():
        logits: Tensor = network(features)
    judged = features.any(dim=2) & (torch.arange(features.shape[1], device=features.device) >= short)
    return logits.masked_fill(~judged, -torch.inf).amax(dim=1)


def _staged(model: Recommender) -> Staged:
    if not isinstance(model, Staged):
        raise ConfigError(f"the gate needs a target that is trained by 'staged', not {type(model).__name__}")
    return model
