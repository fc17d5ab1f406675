"""Dataset inference: was a suspect trained on the owner's histories, itself or through a model that was?

Before training, the owner draws people at random and lets chance set half of them, the public ones, aside; the others
are members. A model that learnt from members lists the rest of their histories higher than the rest of public ones.

**The null is a coin.** A suspect that knows nothing of the owner's model or of who was set aside would have answered
the same had the coins fallen otherwise. So every other division of the people into members and public ones is as
likely, and :func:`chance` is an exact p-value for any such suspect, whatever its architecture, data, quality and
training, and without calibration (Fisher's randomisation test). The first dataset inference (Maini, Yaghini &
Papernot, ICLR 2021) accuses innocents (Szyller et al., arXiv 2210.13631); that a sound claim about training data needs
a chance that the owner himself drew is argued in arXiv 2409.19798. What histories explain by themselves is read off
reference models, which must not know the coins either: of the drawn people some saw nobody and others everybody.

**Which claim it supports.** Against models of other people of the same population, a small p-value says *trained on our
histories, or on the answers of a model that was*. It never says *copied from our model*: models that were trained on
the members' histories with another seed, whose makers are no thieves of the model, are claimed as surely as copies.
Whoever may hold the histories lawfully must be ruled out by other means;
:func:`gro.ownership.fingerprint.made` is a test of copying.

**Measured** once, on ml-100k: a SASRec trained without 189 of the 943 users, 189 members, two questions about each
person, 794 calls, five reference models of which three saw none of the people. The statistic where lists of 10 are
read, and of 100:

- the owner's model 5.3 and 7.7; the same data with another seed 3.8 and 4.4;
- five SASRec copies of 50,000 calls 2.8 to 4.0 (p <= 0.0024) and 4.8 to 6.7 (p = 0.0001), of which three were not
  looked at when the test was designed;
- two GRU4Rec copies, whose ten best items are the owner's in 40 % rather than 60 to 70 %, 1.7 and 1.7 (p = 0.046), and
  2.6 and 1.4: a theft into another architecture mostly washes membership off;
- 13 models that do not know the coins, nine of them copies of one other model: none at p <= 0.01; the least is 0.0485
  and 0.08. Too few to show that p-values are uniform, which they are by construction.

With 94 people of each kind and four questions about each, lists of 100 still claim the five SASRec copies
(p = 0.0001), at the price of half as many people set aside; lists of 10 did not claim the two that were tried.

**What breaks it.** A suspect that also learnt from the public people's histories. People who were chosen otherwise than
by chance, or after the suspect was known: commit to the test (:mod:`gro.ownership.commitment`) before the model is
served, drawn with a seed that the owner could not choose. And the model does without the public people's histories:
here NDCG@10 was 0.0593, and 0.0625 with them, one seed each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import FiniteFloat, model_validator
from torch import Tensor

from gro.config import PositiveInt, Settings
from gro.data import Sequences
from gro.errors import ConfigError, DataError
from gro.metrics import FloatArray
from gro.models import PADDING, padded, unpadded
from gro.ownership.suspect import EVERY, TOGETHER, Ask, Inconclusive, K, Suspect

NAME: Final = "inference"
WIDTH: Final = 50
"""Items of a stretch before the question and after it, at most."""
CUTS: Final = 2
"""Questions about a person."""
DRAWS: Final = 9_999
"""Other falls of the coins that a p-value is counted from."""
EXACT: Final = 1e-9
"""Difference up to which scores are the same: of 1, or of their size where they are larger."""

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Secret(Settings):
    """What is committed to; see :class:`Membership`."""

    test: Literal["inference"]
    stretches: list[list[PositiveInt]]
    asked: list[PositiveInt]
    person: list[int]
    members: list[bool]
    expected: list[list[FiniteFloat]]
    k: PositiveInt

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        sizes, models = ([len(row) for row in rows] for rows in (self.stretches, self.expected))
        if not (
            len(sizes) == len(self.asked) == len(self.person) == len(models)
            and len(set(models)) == 1
            and all(asked <= size for asked, size in zip(self.asked, sizes, strict=True))
            and set(self.person) == set(range(len(self.members)))
            and set(self.members) == {True, False}
        ):
            raise ValueError("the parts do not fit together")
        return self


@dataclass(frozen=True, eq=False)
class Membership:
    """How much better a suspect's lists fit the histories of members than those of public people.

    A stretch of a person's history is cut in two; the suspect is asked about the first part.

    Attributes:
        stretches: item ids ``[n, T]``, oldest first, right-padded.
        asked: number of items that each question holds ``[n]``; those after them are not shown.
        person: whose stretch it is, 0..U-1 ``[n]``.
        members: whether a person is a member ``[U]``.
        expected: :func:`fit` of each reference model to each stretch ``[n, R]``.
        k: items of a list that are read.
    """

    stretches: Tensor
    asked: Tensor
    person: Ids
    members: Flags
    expected: FloatArray
    k: int = K
    name: str = NAME

    @property
    def calls(self) -> int:
        """Most calls that it makes of a suspect."""
        return len(self.stretches) + len(self.stretches) // EVERY + 1

    def scores(self, suspect: Suspect) -> FloatArray:
        """How well a suspect's lists fit each person's stretches, beyond what the reference models' lists do: ``[U]``.

        That is what a linear regression leaves. It does not know who is a member, and so leaves chance as it was.

        Raises:
            Inconclusive: the suspect's lists are too short, or it does not answer as a ranking service does.
        """
        if suspect.k < self.k:
            raise Inconclusive(f"the suspect's lists have {suspect.k} items; dataset inference reads {self.k}")
        fits = fit(suspect(questions(self.stretches, self.asked))[:, : self.k], self.stretches)
        known = np.column_stack([np.ones(len(fits)), self.expected])
        unexplained = fits - known @ np.linalg.lstsq(known, fits, rcond=None)[0]
        return np.bincount(self.person, unexplained) / np.bincount(self.person)

    def statistic(self, suspect: Suspect) -> float:
        """The :func:`contrast` of a suspect's scores; raises as :meth:`scores`."""
        return contrast(self.scores(suspect), self.members)

    def secret(self) -> bytes:
        """What is committed to and kept; :func:`read` makes the test again from it."""
        values = Secret(
            test="inference",
            stretches=unpadded(self.stretches),
            asked=self.asked.tolist(),
            person=self.person.tolist(),
            members=self.members.tolist(),
            expected=self.expected.tolist(),
            k=self.k,
        )
        return values.model_dump_json().encode()


def read(secret: bytes, source: str, name: str = NAME) -> Membership:
    """The test of that name whose secret was opened.

    Raises:
        DataError: it is malformed.
    """
    try:
        found = Secret.make(json.loads(secret), source)
    except (ValueError, TypeError, RecursionError, ConfigError):
        raise DataError(f"{source}: holds no dataset inference") from None
    return Membership(
        stretches=padded(found.stretches),
        asked=torch.tensor(found.asked),
        person=np.array(found.person),
        members=np.array(found.members),
        expected=np.array(found.expected),
        k=found.k,
        name=name,
    )


def draw(n_users: int, size: int, seed: int) -> tuple[Ids, Ids]:
    """Draw ``size`` members and as many public people by chance, before a model is trained.

    Raises:
        ConfigError: there are too few users.
    """
    if not 1 <= size <= n_users // 2:
        raise ConfigError(f"{size} members and as many public people cannot be drawn from {n_users} users")
    drawn = np.random.default_rng(seed).permutation(n_users)[: 2 * size]
    return np.sort(drawn[:size]), np.sort(drawn[size:])


def without(sequences: Sequences, people: Ids) -> Sequences:
    """The histories of all others, over the same catalogue."""
    return sequences.of(np.setdiff1d(np.arange(sequences.n_users), people))


def made(
    sequences: Sequences,
    members: Ids,
    public: Ids,
    references: Sequence[Ask],
    *,
    cuts: int = CUTS,
    k: int = K,
    seed: int = 0,
) -> Membership:
    """Make the test.

    Args:
        sequences: histories as models are trained on them (:attr:`gro.data.Sequences.train`), of all users.
        members: drawn by :func:`draw` and trained on.
        public: drawn by :func:`draw` and set aside.
        references: models that know nothing of the draw; they answer with lists ``[B, >= k]``.
        cuts: questions about a person, fewer where the history is short.
        k: items of a list that are read.
        seed: where stretches are cut; who is a member has no part in that.

    Raises:
        DataError: there is no reference model, or a person has a single item.
    """
    if not references:
        raise DataError("what a history explains by itself is read off at least one reference model")
    rng = np.random.default_rng(seed)
    people = np.union1d(members, public)
    rows, asked, person = [], [], []
    for number, user in enumerate(people):
        history = torch.from_numpy(sequences.history(int(user)).astype(np.int64))
        if len(history) < 2:
            raise DataError(f"user '{sequences.user_tokens[user]}' has one item; a question and its answer need two")
        for cut in rng.permutation(np.arange(1, len(history)))[:cuts].tolist():
            rows.append(history[max(0, cut - WIDTH) : cut + WIDTH])
            asked.append(min(cut, WIDTH))
            person.append(number)
    stretches, shown = padded(rows), torch.tensor(asked)
    told = [torch.cat([ask(part) for part in questions(stretches, shown).split(TOGETHER)]) for ask in references]
    expected = np.column_stack([fit(lists.cpu()[:, :k], stretches) for lists in told])
    return Membership(stretches, shown, np.array(person), np.isin(people, members), expected, k)


def questions(stretches: Tensor, asked: Tensor) -> Tensor:
    """The first ``asked [n]`` items of stretches ``[n, T]``: ``[n, max(asked)]``, right-padded."""
    width = int(asked.max())
    return stretches[:, :width].masked_fill(torch.arange(width) >= asked[:, None], PADDING)


def fit(lists: Tensor, stretches: Tensor) -> FloatArray:
    """How high lists ``[n, k]`` have the items of stretches ``[n, T]``: ``[n]``.

    An item at place ``p`` counts ``log2(2 k / p)``, since one that is not listed is taken to be at place ``2 k``.
    """
    k = lists.shape[1]
    listed = (lists[:, :, None] == stretches[:, None, :]).any(dim=2)
    return (listed.double() @ torch.log2(2 * k / torch.arange(1, k + 1, dtype=torch.float64))).numpy()


def contrast(scores: FloatArray, members: Flags) -> float:
    """Mean score of members minus that of public people, in standard deviations that it has under the coins: ``[U]``.

    0 where all scores are alike.
    """
    inside, outside = scores[members], scores[~members]
    spread = float(scores.std(ddof=1)) * float(np.sqrt(1 / len(inside) + 1 / len(outside)))
    return float(inside.mean() - outside.mean()) / spread if spread > EXACT else 0.0


def chance(scores: FloatArray, members: Flags, draws: int = DRAWS, seed: int = 0) -> float:
    """Probability under the coins of a contrast at least as large: ``(1 + #{at least as large}) / (draws + 1)``.

    Exact for every suspect that does not depend on who was made a member, whichever ``draws`` are taken.
    """
    rng, size = np.random.default_rng(seed), int(members.sum())
    others = np.array([rng.permutation(scores)[:size].sum() for _ in range(draws)])
    least = scores[members].sum() - EXACT * (len(scores) + np.abs(scores).sum())
    return float(1 + (others >= least).sum()) / (draws + 1)
