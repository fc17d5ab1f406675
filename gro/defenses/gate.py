"""The gate: whoever has a history that no person has gets lists that teach nothing.

A history is judged by how a witness takes it, a model that has learnt other people's, and how the model of beginners
does: at which place each item stood after those before it, how likely and how popular it was, whether it is there twice
(:mod:`gro.defenses.witness`). A small recurrent network has learnt from these figures to tell people, whom the witness
never saw, from every kind of data-free thief (:mod:`gro.defenses.lesson`). A history that ever looked false stays so,
however it goes on.

The lists that it gives are those of the model of beginners after other items than were asked: they look like lists, are
the same whenever the same is asked, and hold nothing that a short history would not have told.

In the spirit of adaptive misinformation (Kariyappa & Qureshi, CVPR 2020), where the target's own confidence is the
judge and there is nothing to learn; :class:`gro.defenses.misinformation.Misinformation` is that.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field
from torch import Tensor

from gro.config import PositiveInt
from gro.data import Sequences
from gro.defenses.base import Answer, ListPart
from gro.defenses.lesson import Lesson
from gro.defenses.misinformation import false_names
from gro.defenses.witness import Network, features, suspicion
from gro.errors import ConfigError
from gro.models import Recommender
from gro.models.base import lengths, most_recent
from gro.optimizer.staged import Staged
from gro.ranking import top_k


class Gate(ListPart):
    """Serve histories that no person has the lists of the model of beginners after other items."""

    reads_secret = True
    spends = True

    kind: Literal["gate"] = "gate"
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.015
    """Largest share of the longest histories that a person may have, of people whom the witness does not know, that is
    taken for false; less where the utility budget says so."""
    thefts: PositiveInt = 192
    """Histories of each kind of thief that it learns from."""
    weights: str | None = None
    """Of the network; learnt when the target is protected."""
    threshold: float | None = None
    """Logit above which a history is false; measured when the target is protected."""

    def require(self, model: Recommender) -> None:
        """See :meth:`gro.defenses.base.Part.require`."""
        _staged(model)

    def fitted(self, model: Recommender, sequences: Sequences, utility_budget: float = 1.0) -> Self:
        """See :meth:`gro.defenses.base.Part.fitted`.

        Raises:
            ConfigError: the model has no witness.
            DataError: there are too few users, or none has a history that is longer than those of beginners.
        """
        learnt = Lesson(_staged(model), sequences, self).learnt(utility_budget)
        return self.model_validate(self.model_dump() | learnt)

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


def _staged(model: Recommender) -> Staged:
    if not isinstance(model, Staged):
        raise ConfigError(f"the gate needs a target that is trained by 'staged', not {type(model).__name__}")
    return model
