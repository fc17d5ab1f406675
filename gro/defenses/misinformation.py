"""Adaptive misinformation (Kariyappa & Qureshi, CVPR 2020): whoever asks what no person would is misled."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gro.config import PositiveInt
from gro.data import HeldOut, Sequences
from gro.defenses.base import Answer, ListPart
from gro.defenses.noise import keyed_generator
from gro.errors import ConfigError, DataError
from gro.models import PADDING, Recommender, TrainableRecommender
from gro.models.base import device_of, lengths, most_recent, take
from gro.ranking import evaluating

BATCH = 64


class Misinformation(ListPart):
    """Serve implausible histories the list of a recommender in which every item goes by the name of another.

    Implausible is a history whose latest items the target expected less, on average, than those of all but
    ``false_alarms`` of real users. Where a history of one item is asked there is nothing to judge by, and the true list
    is served.
    """

    reads_states = True
    reads_secret = True

    kind: Literal["misinformation"] = "misinformation"
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of real users, with the histories that validation uses, who are misled."""
    judged: PositiveInt = 8
    """Latest items of a history that are judged, each by what came before it."""
    threshold: float | None = None
    """Least plausibility that is served the truth, in nats per item; measured when the target is protected."""

    def fitted(self, model: Recommender, sequences: Sequences, utility_budget: float = 1.0) -> Self:
        """See :meth:`gro.defenses.base.Part.fitted`.

        Raises:
            ConfigError: the model cannot score the prefixes of a history.
            DataError: no user has two items before the one that validation holds out.
        """
        known = _plausibilities(_prefixes(model), sequences.valid, self.judged)
        if not np.isfinite(known).any():
            raise DataError(f"{sequences.name}: misinformation has nothing to measure; a user needs 4 interactions")
        return self.model_copy(update={"threshold": float(np.quantile(known[np.isfinite(known)], self.false_alarms))})

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`."""
        if self.threshold is None:
            raise ConfigError("misinformation has no threshold; protect a target with it, which measures one")
        found = plausibility(_prefixes(answer.model), answer.histories, self.judged, answer.states)
        honest = found >= self.threshold
        names = false_names(answer.model.n_items, answer.secret).to(answer.lists.device)
        return torch.where(honest[:, None], answer.lists, names[answer.lists])


def false_names(n_items: int, secret: bytes) -> Tensor:
    """The item that passes for each item ``[n_items + 1]``, a permutation that only the secret tells; padding stays."""
    generator = keyed_generator(b"false names", secret)
    return torch.cat([torch.tensor([PADDING]), 1 + torch.randperm(n_items, generator=generator)])


def plausibility(model: TrainableRecommender, histories: Tensor, judged: int, states: Tensor | None = None) -> Tensor:
    """Mean log probability that a model gave to the last items of each history ``[B, T]``: ``[B]``, in nats.

    Args:
        model: what is asked for scores after each prefix.
        histories: right-padded; the last ``max_length`` items are read.
        judged: how many of the last items count; the first of a history has nothing before it and never does.
        states: of the model after each prefix of what it reads, where they are known.

    Returns:
        Infinite where a history has one item.
    """
    read = most_recent(histories, model.max_length)
    places = lengths(read)[:, None] + torch.arange(-min(judged, read.shape[1]), 0, device=read.device)
    counted, places = places > 0, places.clamp(min=0)
    ends = (places - 1).clamp(min=0)
    scores = model.prefix_scores(read, ends) if states is None else model.item_scores(take(states, ends))  # type: ignore[operator]
    given = scores.gather(2, (read.gather(1, places) - 1)[..., None])[..., 0]
    logs = (given - scores.logsumexp(dim=2)).masked_fill(~counted, 0.0).sum(dim=1)
    count = counted.sum(dim=1)
    return torch.where(count > 0, logs / count.clamp(min=1), torch.inf)


def _plausibilities(
    model: TrainableRecommender, held_out: HeldOut, judged: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = np.empty(len(held_out.targets))
    with evaluating(model):
        for start in range(0, len(found), BATCH):
            users = np.arange(start, min(start + BATCH, len(found)))
            histories = torch.from_numpy(held_out.histories(users, model.max_length)).to(device_of(model))
            found[users] = plausibility(model, histories, judged).cpu()
    return found


def _prefixes(model: Recommender) -> TrainableRecommender:
    if not isinstance(model, TrainableRecommender):
        raise ConfigError(
            f"misinformation needs scores after every prefix of a history; {type(model).__name__} has none"
        )
    return model
