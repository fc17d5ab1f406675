"""How the gate learns: from histories of people whom the witness does not know, and of thieves who ask the service.

The thieves ask twice: first a service that tells everybody the truth, then one behind the gate that has learnt from
that, for what false ones are told leads to other histories; the gate learns from both, as an imitator learns from what
comes of his own doing (dataset aggregation; Ross, Gordon & Bagnell, AISTATS 2011). Some begin with what people did, as
those do who hold a part of the real histories.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from gro.data import Sequences
from gro.defenses.astray import others
from gro.defenses.personas import Personas, misled
from gro.defenses.witness import FEATURES, LIKELY, READERS, Network, features, gains
from gro.errors import DataError
from gro.metrics import ndcg
from gro.models import padded
from gro.models.base import device_of, expand_prefixes, lengths
from gro.optimizer.staged import HELD, Staged, strangers
from gro.ranking import evaluating, places, ranks, top_k
from gro.subgroups import by_length, least_typical
from gro_surrogates.strategies import Agent, Autoregressive, Coverage, Mimic, Random, RankBiased, Strategy

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
"""Whom the gate learns to know; of those who need nothing but the catalogue."""
GOING_ON: Final[tuple[Callable[[], Strategy], ...]] = (Random, Autoregressive, partial(RankBiased, 1.0))
"""How thieves go on who begin with what people did."""
WINDOWS, MOST = 12, 4000
"""Parts of each history that are learnt, and of all, about; of each one at least."""
LAST: Final = 10
"""Items at the end of each part by which it is measured what people lose; and all, while histories are young."""
YOUNG: Final = 2
"""Times as many items as beginners have; up to there a history is young."""
OFTEN: Final = 2
"""Times as many people who are false while their histories are young, where a thief shows least of himself."""
UNEVEN: Final = 2.5
"""Budgets that beginners, the least typical, and those with histories of like length may lose of what they earn."""
SEVERAL: Final = 20
"""People who earn something in a group; of fewer it cannot be told what the group loses, nor with what error."""
SHARES: Final = tuple(n / 400 for n in range(80, -1, -1))
"""Of people whose histories may be false after each item when they are young no more, from the most on."""
NEAR: Final = 400
"""Parts by which a threshold is found, or those after one item more or fewer, and so on, are taken with them."""
TURNS: Final = 4
"""In which thieves grow their histories."""
ROWS: Final = 512
EPOCHS, BATCH, RATE = 25, 64, 6e-3
"""Of the network; the rate falls to 0."""

Judge: TypeAlias = tuple[Network, Tensor]
"""A network and its thresholds ``[T]``."""


class Begun:
    """Begins with the first items of real histories and lets another strategy go on.

    Args:
        held: real histories ``[H, L]``, right-padded.
        then: chooses the items that come after the real ones.
    """

    together = 64

    def __init__(self, held: Tensor, then: Strategy) -> None:
        self._held, self._then = held, then

    def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
        """Begin with as many items of each, a number that is drawn for the batch."""
        length = lengths(self._held)
        part = int(torch.randint(1, int(length.max()), (1,), generator=generator))
        enough = self._held[length >= part, :part]
        self._then.start(size, n_items, generator)
        return enough[torch.randint(len(enough), (size,), generator=generator)]

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Let the other go on."""
        return self._then.pick(histories, lists, n_items, generator)


class Lesson:
    """What the gate learns from, and the learning.

    Attributes:
        parts: of real histories ``[N, L]``, right-padded.
        people: what is read of them ``[N, T, 17]``.
        length: of the whole history before each item of the parts ``[N, T]``.
        judged: items after which the gate judges them ``[N, T]``: all but the first ones of parts that begin later.
        better: how many times the NDCG@10 of the witness the target earns.
        earned: NDCG@10 that the personas or the target earn with each item ``[N, T]``, 0 for the first.
        others: items that pass for each other where people are led astray; see :func:`gro.defenses.astray.others`.
        whose: number of the person whose each part is ``[N]``.
        fold: the network that does not learn from each ``[N]``; all parts of one history have the same.
    """

    def __init__(self, model: Staged, personas: Personas, sequences: Sequences, thefts: int) -> None:
        """Read the people.

        Args:
            model: what is asked, and reads.
            personas: who answer beginners.
            sequences: all interactions; the last two items of each user are held out.
            thefts: histories of each kind of thief.

        Raises:
            DataError: there are too few people whose histories are longer than those of beginners.
        """
        self.model, self.personas, self.thefts = model, personas, thefts
        seed = int.from_bytes(hashlib.blake2b(sequences.digest.encode(), digest_size=7).digest(), "little")
        self.generator, self.rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        self.parts, skipped, self.whose = self._windows(sequences)
        self.fold = self.whose % READERS
        place = torch.arange(model.max_length)
        self.people = F.pad(self._read(self.parts), (0, 0, 0, model.max_length - self.parts.shape[1]))
        self.length = skipped[:, None] + place
        self.judged = self.people.any(dim=2) & ((place >= model.short) | (skipped[:, None] == 0))
        self.better, self.others = self._better(sequences), others(model.popularity, sequences.digest.encode())
        few = self.judged & (self.length > 0) & (self.length <= model.short)
        begun = self._gained(few, lambda asked, rows, ends: personas.scores(asked))
        self.earned = torch.where(self.length <= model.short, begun, self.better * gains(self.people))

    def learnt(self, utility_budget: float) -> dict[str, str | list[float]]:
        """Weights, and the lowest thresholds that take no more from people than they may.

        As many are false after each item, and :data:`OFTEN` times as many while histories are young. Nobody's gain
        makes up for another's loss, and the budget holds by a standard error, of the young and of all. Beginners, the
        least typical tenth, and those with histories of like length may lose :data:`UNEVEN` times as much of what they
        earn, less a standard error: what a few lose cannot be told any closer, and of a group of less than
        :data:`SEVERAL` not at all. Everybody is judged by the network that has not learnt from him.
        """
        thefts = self._thefts(None)
        gate = self._judging(thefts, utility_budget)
        network, thresholds = self._judging([*thefts, *self._thefts(gate)], utility_budget)
        return {"weights": network.written(), "thresholds": thresholds.tolist()}

    def _judging(self, thefts: list[tuple[Tensor, Tensor]], utility_budget: float) -> Judge:
        """A network that has learnt from people and thefts, and its thresholds ``[T]``."""
        network = self._taught(*map(torch.cat, zip(*thefts, strict=True)))
        with torch.no_grad():
            logits = network.opinions(self.people)[self.fold, torch.arange(len(self.fold))]
        young, last, *groups = self._groups()
        counted = torch.stack([young, last, *groups]).any(dim=0)

        def affordable(share: float) -> bool:
            lost = self._lost(self.judged & (logits > self._thresholds(logits, share)), counted)
            most = [loss + error for loss, error in (self._part(lost, some) for some in (young, last))]
            least = [loss - error for loss, error in (self._part(lost, some) for some in groups)]
            return max(most) <= utility_budget and max(least, default=0.0) <= UNEVEN * utility_budget

        share = SHARES[bisect_left(SHARES, True, hi=len(SHARES) - 1, key=affordable)]
        return network, self._thresholds(logits, share)

    def _thresholds(self, logits: Tensor, share: float) -> Tensor:
        """Logits ``[T]`` that such a share of people's histories surpass after each item, or about there."""
        place = torch.arange(logits.shape[1])
        away, there = (place[:, None] - place).abs(), self.judged.sum(dim=0)
        near = ((away[:, :, None] <= place) * there[:, None]).sum(dim=1)
        enough = (near < NEAR).sum(dim=1).clamp(max=len(place) - 1)
        around = (self.judged & (far <= most) for far, most in zip(away, enough, strict=True))
        shares = share * torch.where(place < YOUNG * self.model.short, OFTEN, 1)
        return torch.stack([logits[some].quantile(1 - of) for some, of in zip(around, shares.tolist(), strict=True)])

    def _groups(self) -> list[Tensor]:
        """Items ``[N, T]`` by which losses are measured: of the young, last ones, then of those who may lose more.

        Of the latter only groups of several people.
        """
        last = self.judged & (torch.arange(self.judged.shape[1]) >= lengths(self.parts)[:, None] - LAST)
        measured = self.judged & ((self.length[:, :1] == 0) | last)
        beginners, young = (measured & (self.length <= times * self.model.short) for times in (1, YOUNG))
        typical = self._least_typical()
        alike = [torch.from_numpy(group) & measured for group in by_length(self.length.numpy()).values()]
        groups = (beginners, measured & typical, last & typical, *alike)
        return [young, last, *(some for some in groups if self._people(some) >= SEVERAL)]

    def _people(self, some: Tensor) -> int:
        """How many people earn anything with some items ``[N, T]``."""
        return len(self.whose[((self.earned > 0) & some).any(dim=1)].unique())

    def _part(self, lost: Tensor, some: Tensor) -> tuple[float, float]:
        """Part of what they earn that people lose by some items ``[N, T]``, and its standard error.

        By ratio estimation (Cochran, Sampling Techniques, 1977, ch. 6) over people, whose parts are no samples.
        """
        sums = torch.stack([(each * some).sum(dim=1).double() for each in (lost, self.earned)])
        loss, gain = torch.zeros(2, int(self.whose.max()) + 1, dtype=torch.float64).index_add(1, self.whose, sums)
        total = gain.sum().clamp(min=torch.finfo().tiny)
        part = loss.sum() / total
        return float(part), float((loss - part * gain).norm() / total)

    def _lost(self, false: Tensor, counted: Tensor) -> Tensor:
        """NDCG@10 that is lost of each item that is ``counted`` where the history is ``false`` before: all ``[N, T]``.

        What the target is worth to people whom it leads astray is judged by the witness, who does not know them.
        """
        some, since = F.pad(false, (1, -1), value=False) & counted & (self.earned > 0), became(false)

        def heard(asked: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
            instead, led = self.others.to(asked.device), since[rows, ends - 1].to(asked.device)
            return misled(self.model.witness, self.personas, asked, led, instead)

        begun = torch.arange(some.shape[1]) <= self.model.short
        left = self._gained(some, heard) * torch.where(begun, 1.0, self.better)
        return (self.earned - left).clamp(min=0) * some

    def _gained(self, some: Tensor, answered: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """NDCG@10 of some items, 0 of the others: both ``[N, T]``.

        Args:
            some: items that have others before them.
            answered: scores after what was asked before them ``[B, T]``, so many items ``[B]`` of such parts ``[B]``.
        """
        found, (rows, ends) = torch.zeros(some.shape), some.nonzero(as_tuple=True)
        with evaluating(self.model):
            for start in range(0, len(rows), ROWS):
                row, end = rows[start : start + ROWS], ends[start : start + ROWS]
                asked = expand_prefixes(self.parts[row], end[:, None] - 1).to(device_of(self.model))
                place = places(answered(asked, row, end), self.parts[row, end].to(asked.device))
                found[row, end] = torch.from_numpy(ndcg(place.cpu().numpy(), 10)).float()
        return found

    def _least_typical(self) -> Tensor:
        """Items of that tenth of the parts of histories that the witness finds least likely ``[N, T]``."""
        likely = self.people[..., LIKELY].sum(dim=1) / (lengths(self.parts) - 1)
        return torch.from_numpy(least_typical(likely.double().numpy()))[:, None].expand_as(self.earned)

    def _better(self, sequences: Sequences) -> float:
        """How many times the NDCG@10 of the witness the target earns, at least once.

        The target has learnt the parts, so what it makes of them says nothing; this is of the validation items of all
        whom the witness does not know.
        """
        held_out = sequences.of(strangers(sequences)).valid
        later, witness = (ndcg(ranks(model, held_out), 10).mean() for model in (self.model.later, self.model.witness))
        return max(1.0, float(later / (witness or later or 1.0)))

    def _windows(self, sequences: Sequences) -> tuple[Tensor, Tensor, Tensor]:
        """Parts of histories ``[N, T]``, half or more from the beginning; items before, and whose, each ``[N]``."""
        users = self.rng.permutation(teachers(sequences, self.model.short))
        longest, found, skipped, whose = self.model.max_length, list[Tensor](), list[int](), list[int]()
        count = min(WINDOWS, max(1, MOST // len(users)))
        for number, user in enumerate(users):
            history = torch.from_numpy(sequences.history(int(user))[:-HELD].astype(np.int64))
            begins = self.rng.integers(0, max(0, len(history) - longest) + 1, count) * self.rng.integers(0, 2, count)
            skipped += begins.tolist()
            whose += [number] * count
            found += [history[begin : begin + longest] for begin in begins.tolist()]
        return padded(found), torch.tensor(skipped), torch.tensor(whose)

    def _thefts(self, gate: Judge | None) -> list[tuple[Tensor, Tensor]]:
        thieves: list[Callable[[], Strategy]] = [*THIEVES]
        thieves += [partial(Begun, self.parts[:, :-1], then()) for then in GOING_ON]
        return [self._theft(make(), gate) for make in thieves]

    def _read(self, histories: Tensor, begin: int = 0) -> Tensor:
        return features(self.model, self.personas, histories.to(device_of(self.model)), begin).cpu()

    def _further(self, read: Tensor, histories: Tensor) -> Tensor:
        """What is read of histories ``[B, t]``, of whose first items there is ``read`` already."""
        return torch.cat([read, self._read(histories, read.shape[1])], dim=1)

    def _theft(self, strategy: Strategy, gate: Judge | None) -> tuple[Tensor, Tensor]:
        """What is read of the histories of a thief, and with how many items each began.

        Histories have ``max_length`` items: ``[N, max_length, 17]`` and ``[N]``. They are grown in turns, so that who
        learns from the lists where to begin has learnt it.
        """
        model, found, begun = self.model, list[Tensor](), list[int]()
        k, together = min(100, model.n_items), min(strategy.together, -(-self.thefts // TURNS))
        with evaluating(model):
            while (left := self.thefts - len(begun)) > 0:
                histories = strategy.start(min(left, together), model.n_items, self.generator)
                begun += [histories.shape[1]] * len(histories)
                read = torch.empty(len(histories), 0, FEATURES)
                while histories.shape[1] < model.max_length:
                    if gate is not None:
                        read = self._further(read, histories)
                    lists = top_k(self._answered(histories, read, gate), k).cpu()
                    following = strategy.pick(histories, lists, model.n_items, self.generator)
                    histories = torch.cat([histories, following[:, None]], dim=1)
                found.append(self._further(read, histories))
        return torch.cat(found), torch.tensor(begun)

    def _answered(self, histories: Tensor, read: Tensor, gate: Judge | None) -> Tensor:
        """Scores after histories ``[B, t]`` of which a gate, if there is one, has ``read [B, t, 17]``."""
        model, asked, size = self.model, histories.to(device_of(self.model)), histories.shape[1]
        scores = torch.empty(len(asked), model.n_items, device=asked.device)
        since = torch.full((len(asked),), size, device=asked.device)
        if gate is not None:
            network, thresholds = gate
            since = became(network(read) > thresholds[:size])[:, -1].to(asked.device)
        if (false := since < size).any():
            instead = self.others.to(asked.device)
            scores[false] = misled(model.later, self.personas, asked[false], since[false], instead)
        if (truly := ~false).any():
            scores[truly] = (self.personas if size <= model.short else model.later).scores(asked[truly])
        return scores

    def _taught(self, thefts: Tensor, begun: Tensor) -> Network:
        """Train networks on equal shares of people and thieves, after every item that counts."""
        with torch.random.fork_rng():
            torch.manual_seed(self.generator.initial_seed())
            network = Network()
            shown, weight = torch.cat([self.people, thefts]), self._weight(thefts, begun)
            false = torch.cat([torch.zeros(len(self.people)), torch.ones(len(thefts))])
            optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
            steps = [rows for _ in range(EPOCHS) for rows in torch.randperm(len(shown)).split(BATCH)]
            falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(steps))
            for rows in steps:
                opinions, weights = network.opinions(shown[rows]), weight[:, rows]
                truth = false[rows, None].expand_as(opinions)
                losses = F.binary_cross_entropy_with_logits(opinions, truth, reduction="none") * weights
                optimizer.zero_grad()
                (losses.sum() / (weights > 0).sum().clamp(min=1)).backward()
                optimizer.step()
                falling.step()
        return network.eval().requires_grad_(False)

    def _weight(self, thefts: Tensor, begun: Tensor) -> Tensor:
        """What the verdict after each item counts for each network ``[R, N, T]``.

        People count where they are judged, but not those of its own fold, and thieves behind what they took from real
        histories, their first ``begun`` items.
        """
        place, own = torch.arange(thefts.shape[1]), begun.where(begun > 1, 0)
        counted = torch.cat([self.judged, thefts.any(dim=2) & (place >= own[:, None])])
        taught = (self.fold != torch.arange(READERS)[:, None]).float()
        share = torch.cat(
            [taught / taught.sum(dim=1, keepdim=True), torch.full((READERS, len(thefts)), 1 / len(thefts))], 1
        )
        return share[:, :, None] * len(counted) / 2 * counted


def teachers(sequences: Sequences, short: int) -> npt.NDArray[np.int64]:
    """Users whom the witness does not know, with histories that are longer than those of beginners.

    Raises:
        DataError: there are too few.
    """
    enough = np.flatnonzero(np.diff(sequences.indptr) > short + HELD)
    found = np.intersect1d(enough, strangers(sequences))
    if len(found) < READERS:
        raise DataError(
            f"{sequences.name}: the gate learns from people with more than {short + HELD} interactions; "
            "there are too few: protect it otherwise, such as by --defence gro, or lower 'short'"
        )
    return found


def became(false: Tensor) -> Tensor:
    """Items before those since which each history is false without a break, after each item: both ``[N, T]``."""
    place = torch.arange(1, false.shape[1] + 1, device=false.device)
    return (place * ~false).cummax(dim=1).values
