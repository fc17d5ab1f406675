"""The gate: beginners get one of a few lists, and whoever has a history that no person has gets one of them too.

A history is judged by how a witness takes it, a model that has learnt other people's, and how the model of beginners
does: at which place each item stood after those before it, how likely and how popular it was, whether it is there twice
(:mod:`gro.defenses.witness`). A small recurrent network has learnt from these figures to tell people, whom the witness
never saw, from every kind of data-free thief (:mod:`gro.defenses.lesson`). A history that ever looked false stays so,
however it goes on, as long as it is read whole: of one that is longer than ``max_length`` the latest items are judged.

The list that it gives is the one that a beginner would get after other items than were asked
(:mod:`gro.defenses.personas`): it looks like a list, is the same whenever the same is asked, and holds nothing that a
short history would not have told.

In the spirit of adaptive misinformation (Kariyappa & Qureshi, CVPR 2020), where the target's own confidence is the
judge and there is nothing to learn; :class:`gro.defenses.misinformation.Misinformation` is that.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from gro.config import PositiveInt, Settings
from gro.data import Sequences
from gro.defenses.base import Answer, ListPart
from gro.defenses.lesson import Lesson, teachers
from gro.defenses.misinformation import false_names
from gro.defenses.personas import Personas, fewest_personas
from gro.defenses.witness import Network, features, suspicion
from gro.errors import ConfigError
from gro.models import Recommender
from gro.models.base import lengths
from gro.optimizer.staged import Staged, StagedSettings
from gro.ranking import top_k


class Gate(ListPart):
    """Serve beginners the lists of a few personas, and histories that no person has those after other items."""

    reads_secret = True
    spends = True

    kind: Literal["gate"] = "gate"
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Largest share of the longest histories that a person may have, of people whom the witness does not know, that is
    taken for false; less where the utility budget says so."""
    thefts: PositiveInt = 192
    """Histories of each kind of thief that it learns from."""
    personas: PositiveInt = 16
    """Lists that there are for beginners; more where they would spend half of the utility budget."""
    codebook: str | None = None
    """What the personas are like; learnt when the target is protected. Empty where beginners would lose too much by any
    number of them, and the plain target answers."""
    weights: str | None = None
    """Of the network; learnt when the target is protected."""
    threshold: float | None = None
    """Logit above which a history is false; measured when the target is protected."""

    def require(self, model: Recommender) -> None:
        """See :meth:`gro.defenses.base.Part.require`."""
        _staged(model)

    def require_people(self, sequences: Sequences, training: Settings | None) -> None:
        """See :meth:`gro.defenses.base.Part.require_people`."""
        if isinstance(training, StagedSettings):
            teachers(sequences, training.short)

    def fitted(self, model: Recommender, sequences: Sequences, utility_budget: float = 1.0) -> Self:
        """See :meth:`gro.defenses.base.Part.fitted`.

        Raises:
            ConfigError: the model has no witness.
            DataError: there are too few users, or none has a history that is longer than those of beginners.
        """
        staged = _staged(model)
        found, spent = fewest_personas(staged, sequences, self.personas, utility_budget / 2)
        left = max(0.0, utility_budget - spent)
        learnt = Lesson(staged, found, sequences, self.thefts).learnt(self.false_alarms, left)
        return self.model_validate(self.model_dump() | {"codebook": found.written()} | learnt)

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`."""
        model, asked = _staged(answer.model), answer.histories
        false = self.judged(model, asked)
        few = (lengths(asked) <= model.short) | false
        if not few.any():
            return answer.lists
        if false.any():
            names = false_names(model.n_items, answer.secret).to(asked.device)
            asked = torch.where(false[:, None], names[asked], asked)
        answering = model.early if self.codebook else model.later
        beginners = Personas.read(answering, model.short, self.codebook or "")
        lists = answer.lists.clone()
        lists[few] = top_k(beginners.scores(asked[few]), lists.shape[1])
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
