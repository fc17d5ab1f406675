"""The gate: beginners get one of a few lists, and whoever has a history that no person has is led astray.

A history is judged by how witnesses take it, models that have learnt other people's, and how the personas do: at which
place each item stood after those before it, how likely and how popular it was, whether it is there twice
(:mod:`gro.defenses.witness`). Small recurrent networks have learnt from these figures to tell people, whom the
witnesses never saw, from thieves of twelve kinds (:mod:`gro.defenses.lesson`). After every item they take as many
people for thieves as can be afforded, and while histories are young twice as many. Of a history that is longer than
``max_length`` the latest items are judged.

Lists that can be told from the truth teach nothing for long: a thief leaves them out, takes his last item back and
tries another until he is told the truth (:mod:`gro_surrogates.backtracking`). So false beginners get lists that others
get too, but for other items; who is false from then on hears of a catalogue with its names exchanged; and who was told
the truth before is led there step by step, so that distances between lists hardly show where they left it
(:mod:`gro.defenses.astray`).

In the spirit of adaptive misinformation (Kariyappa & Qureshi, CVPR 2020), where the target's own confidence is the
judge and there is nothing to learn; :class:`gro.defenses.misinformation.Misinformation` is that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property, partial
from typing import Literal, Self

import torch
from torch import Tensor

from gro.config import PositiveInt, Settings
from gro.data import Sequences
from gro.defenses.astray import others
from gro.defenses.base import Answer, ListPart
from gro.defenses.lesson import Lesson, became, teachers
from gro.defenses.personas import Personas, fewest_personas, misled
from gro.defenses.witness import Network, Reading
from gro.errors import ConfigError
from gro.models import Recommender
from gro.models.base import lengths, most_recent
from gro.optimizer.staged import Staged, StagedSettings
from gro.ranking import top_k

logger = logging.getLogger(__name__)


class Gate(ListPart):
    """Serve beginners the lists of a few personas, and lead those astray whose histories no person has."""

    reads_secret = True
    spends = True

    kind: Literal["gate"] = "gate"
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
    thresholds: tuple[float, ...] = ()
    """Logits above which a history of one item, two, and so on is false; measured when the target is protected."""

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
            ConfigError: the model has no witnesses.
            DataError: there are too few users, or none has a history that is longer than those of beginners.
        """
        staged = _staged(model)
        found, spent = fewest_personas(staged, sequences, self.personas, utility_budget / 2)
        if found.codebook is None:
            logger.warning(
                "no number of personas is enough for beginners: the plain target answers who looks like people"
            )
        learnt = Lesson(staged, found, sequences, self.thefts).learnt(max(0.0, utility_budget - spent))
        return self.model_validate(self.model_dump() | {"codebook": found.written(), "again": found.again} | learnt)

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`."""
        return self.before(answer.model)(answer)

    def before(self, model: Recommender) -> Callable[[Answer], Tensor]:
        """See :meth:`gro.defenses.base.ListPart.before`."""
        return partial(self._lists, self._reading(_staged(model)))

    def since(self, model: Staged, histories: Tensor) -> Tensor:
        """Items before those since which each history is false ``[B]``; its length where it is not.

        Args:
            model: the target and its witnesses.
            histories: of at most ``max_length`` items ``[B, T]``.

        Raises:
            ConfigError: the gate has not learnt to judge histories of ``T`` items.
        """
        return self._since(self._reading(model), histories)

    def _lists(self, reading: Reading, answer: Answer) -> Tensor:
        model, personas, lists = reading.model, reading.personas, answer.lists.clone()
        read, k = most_recent(answer.histories, model.max_length), lists.shape[1]
        since, size = self._since(reading, read), lengths(read)
        if (false := since < size).any():
            instead = others(model.popularity, answer.secret)
            lists[false] = top_k(misled(model.later, personas, read[false], since[false], instead), k)
        if (begun := ~false & (size <= model.short)).any():
            lists[begun] = top_k(personas.scores(read[begun]), k)
        return lists

    def _since(self, reading: Reading, histories: Tensor) -> Tensor:
        if len(self.thresholds) < histories.shape[1]:
            raise ConfigError(
                f"the gate has learnt nothing of histories of {histories.shape[1]} items; protect a target with it"
            )
        read = reading(histories)
        thresholds = torch.tensor(self.thresholds, device=read.device)[: read.shape[1]]
        with torch.no_grad():
            false = self._network.to(read.device)(read) > thresholds
        return became(false).gather(1, lengths(histories)[:, None] - 1)[:, 0]

    def _reading(self, model: Staged) -> Reading:
        answering = model.early if self.codebook else model.later
        return Reading(model, Personas.read(answering, model.short, self.codebook or "", again=self.again))

    @cached_property
    def _network(self) -> Network:
        return Network.read(self.weights or "")


def _staged(model: Recommender) -> Staged:
    if not isinstance(model, Staged):
        raise ConfigError(f"the gate needs a target that is trained by 'staged', not {type(model).__name__}")
    return model
