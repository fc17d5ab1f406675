"""What a part of a serving-time defence is: it changes the history, what is read of it, its scores or its list."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from pydantic import ConfigDict
from torch import Tensor

from gro.config import Settings
from gro.data import Sequences
from gro.models import Recommender


@dataclass(frozen=True)
class Answer:
    """A batch of answers on its way out.

    Attributes:
        model: the recommender that is defended.
        histories: what was asked ``[B, T]``, right-padded.
        scores: of the whole catalogue ``[B, n_items]``, after the parts that change scores.
        lists: item ids ``[B, k]``, best first, right-padded.
        states: of the model after each prefix of the items that it read ``[B, T, d]``, where a part
            :attr:`~Part.reads_states`, the model is causal, and no part changed what it read.
        keys: the randomness of each answer ``[B]``; see :mod:`gro.defenses.noise`.
        stream: which of the streams of the keys belongs to this part.
        secret: what the owner alone knows.
    """

    model: Recommender
    histories: Tensor
    scores: Tensor
    lists: Tensor
    states: Tensor | None
    keys: Tensor
    stream: int
    secret: bytes


class Part(Settings):
    """One step between a history and the list that is served.

    A part is frozen and has no state: the same answer and the same keys give the same result, row by row. Bring your
    own by subclassing one of the four below, with a field ``kind: Literal["its-name"] = "its-name"``;
    :class:`gro.testing.defence.DefenceContract` is the test suite that it inherits.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    reads_states: ClassVar[bool] = False
    """Whether the part uses :attr:`Answer.states`: the pass that scores then keeps them, and none is made twice."""

    reads_table: ClassVar[bool] = False
    """Whether the part works on the model's item table, so that it is refused before a model that has none."""

    reads_secret: ClassVar[bool] = False
    """Whether the part uses :attr:`Answer.secret`, on which then depends how well it protects."""

    spends: ClassVar[bool] = False
    """Whether the part measures by a utility budget how far it may go."""

    @classmethod
    def name(cls) -> str:
        """What the part is called in a card: the value of its field "kind"."""
        return str(cls.model_fields["kind"].default)

    def exposed(self, k: int, n_items: int) -> int:
        """How many items a list of ``k`` has after this part; the place to refuse what cannot be done.

        Raises:
            ConfigError: the part cannot apply to lists of ``k`` of ``n_items`` items.
        """
        return k

    def require(self, model: Recommender) -> None:
        """Check, before anything is trained, that the part can stand before such a model.

        Raises:
            ConfigError: it cannot.
        """

    def require_people(self, sequences: Sequences, training: Settings | None) -> None:
        """Check, before anything is trained, that the part can measure what it has to on the owner's interactions.

        Args:
            sequences: the owner's interactions.
            training: how the target will be trained; ``None`` keeps the plain one.

        Raises:
            DataError: it cannot.
        """

    def fitted(self, model: Recommender, sequences: Sequences, utility_budget: float = 1.0) -> Self:
        """Return this part with what it has to measure on the owner's interactions before it can serve.

        Args:
            model: what the part will stand before.
            sequences: the owner's interactions.
            utility_budget: largest relative loss of NDCG@10, for a part that :attr:`spends` it.
        """
        return self


class HistoryPart(Part):
    """Changes what the model is asked."""

    @abstractmethod
    def histories(self, histories: Tensor, n_items: int, keys: Tensor, stream: int) -> Tensor:
        """Change right-padded histories ``[B, T]``; none becomes empty."""


class EmbeddingPart(Part):
    """Changes the vectors that the model reads in place of items, also when it answers."""

    reads_table = True

    @abstractmethod
    def embeddings(self, vectors: Tensor, table: Tensor, keys: Tensor, stream: int) -> Tensor:
        """Change vectors ``[B, T, d]``, rows of the table ``[n_rows, d]``."""


class ScorePart(Part):
    """Changes the scores that the list is made of."""

    @abstractmethod
    def scores(self, scores: Tensor, keys: Tensor, stream: int) -> Tensor:
        """Change scores ``[B, n_items]``; an item whose score becomes -inf is left out, and one at least is not."""


class ListPart(Part):
    """Changes the list."""

    @abstractmethod
    def lists(self, answer: Answer) -> Tensor:
        """Return the lists of an answer, changed: ``[B, k]``, distinct ids, right-padded."""

    def before(self, model: Recommender) -> Callable[[Answer], Tensor]:
        """What :attr:`lists` does, for a part that remembers from one answer of ``model`` to the next what it computed.

        What is remembered changes no list.
        """
        return self.lists
