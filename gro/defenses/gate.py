"""The gate: beginners get one of a few lists, and whoever has a history that no person has gets one of them too.

A history is judged by how a witness takes it, a model that has learnt other people's, and how the model of beginners
does: at which place each item stood after those before it, how likely and how popular it was, whether it is there twice
(:mod:`gro.defenses.witness`). A small recurrent network has learnt from these figures to tell people, whom the witness
never saw, from every kind of data-free thief (:mod:`gro.defenses.lesson`). What a history ever looked like it stays,
however it goes on, as long as it is read whole: of one that is longer than ``max_length`` the latest items are judged.

One that is in doubt is answered as a beginner with its latest items would be (:mod:`gro.defenses.personas`): a person
loses little by it, and a thief learns nothing that a short history would not have told. One that is false is answered
as a beginner with other items than were asked: one of the same lists, whenever the same is asked. Who has collected the
lists of beginners can tell such an answer from the truth, and try another item: the gate judges histories, it does not
remember who asked them (:mod:`gro_surrogates.backtracking` is that thief).

In the spirit of adaptive misinformation (Kariyappa & Qureshi, CVPR 2020), where the target's own confidence is the
judge and there is nothing to learn; :class:`gro.defenses.misinformation.Misinformation` is that.
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)


class Gate(ListPart):
    """Serve beginners the lists of a few personas, and histories that hardly a person or no person has those too."""

    reads_secret = True
    spends = True

    kind: Literal["gate"] = "gate"
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Largest share of the longest histories that a person may have, of people whom the witness does not know, that is
    taken for false; less where half of the utility budget says so."""
    thefts: PositiveInt = 192
    """Histories of each kind of thief that it learns from."""
    personas: PositiveInt = 8
    """Lists that there are for beginners; more where these serve them too badly."""
    codebook: str | None = None
    """What the personas are like; learnt when the target is protected. Empty where beginners would lose too much by any
    number of them, and the plain target answers."""
    weights: str | None = None
    """Of the network; learnt when the target is protected."""
    again: bool = True
    """Whether personas tell people again what is in their history; not where hardly anybody takes an item twice, which
    is measured when the target is protected."""
    doubt: float | None = None
    """Logit above which a history is in doubt; measured when the target is protected."""
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
        if found.codebook is None:
            logger.warning("no number of personas is enough for beginners: the plain target answers them, unprotected")
        left = max(0.0, utility_budget - spent)
        learnt = Lesson(staged, found, sequences, self.thefts).learnt(self.false_alarms, left)
        return self.model_validate(self.model_dump() | {"codebook": found.written(), "again": found.again} | learnt)

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`."""
        model, asked = _staged(answer.model), answer.histories
        doubted, false = self.judged(model, asked)
        few = (lengths(asked) <= model.short) | doubted
        if not few.any():
            return answer.lists
        named = asked
        if false.any():
            named = torch.where(
                false[:, None], false_names(model.n_items, answer.secret).to(asked.device)[asked], asked
            )
        answering = model.early if self.codebook else model.later
        personas = Personas.read(answering, model.short, self.codebook or "", again=self.again)
        lists = answer.lists.clone()
        lists[few] = top_k(personas.scores(named[few], asked[few]), lists.shape[1])
        return lists

    def judged(self, model: Staged, histories: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the histories ``[B, T]`` are in doubt ``[B]``, and which of those are false ``[B]``.

        Raises:
            ConfigError: the gate has learnt nothing.
        """
        if self.doubt is None or self.threshold is None:
            raise ConfigError("the gate has learnt nothing; protect a target with it")
        found = torch.full((len(histories),), -torch.inf, device=histories.device)
        judged = lengths(histories) > model.short
        if judged.any():
            read = features(model, histories[judged])
            found[judged] = suspicion(self._network.to(read.device), read, model.short)
        false = found > self.threshold
        return false | (found > self.doubt), false

    @cached_property
    def _network(self) -> Network:
        return Network.read(self.weights or "")


def _staged(model: Recommender) -> Staged:
    if not isinstance(model, Staged):
        raise ConfigError(f"the gate needs a target that is trained by 'staged', not {type(model).__name__}")
    return model
