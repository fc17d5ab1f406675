"""Adaptive misinformation (Kariyappa & Qureshi, CVPR 2020): whoever asks what no person would is misled."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gro.data import HeldOut, Sequences
from gro.defenses.base import Answer, ListPart
from gro.errors import ConfigError
from gro.models import PADDING, Recommender, TrainableRecommender
from gro.models.base import device_of, lengths, most_recent
from gro.ranking import evaluating

BATCH = 64


class Misinformation(ListPart):
    """Serve implausible histories the list of a recommender in which every item goes by the name of another.

    Implausible is a history whose items the target expected less, on average, than those of all but ``false_alarms`` of
    real users. Where a history of one item is asked there is nothing to judge by, and the true list is served.
    """

    kind: Literal["misinformation"] = "misinformation"
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of real users, with the histories that validation uses, who are misled."""
    threshold: float | None = None
    """Least plausibility that is served the truth, in nats per item; measured when the target is protected."""

    def fitted(self, model: Recommender, sequences: Sequences) -> Self:
        """See :meth:`gro.defenses.base.Part.fitted`; a history's plausibility is that of its last ``max_length`` items.

        Raises:
            ConfigError: the model cannot score the prefixes of a history.
        """
        _prefixes(model)
        known = _plausibilities(model, sequences.valid)
        return self.model_copy(update={"threshold": float(np.quantile(known[np.isfinite(known)], self.false_alarms))})

    def lists(self, answer: Answer) -> Tensor:
        """See :meth:`gro.defenses.base.ListPart.lists`."""
        if self.threshold is None:
            raise ConfigError("misinformation has no threshold; protect a target with it, which measures one")
        honest = plausibility(_prefixes(answer.model), answer.histories) >= self.threshold
        names = false_names(answer.model.n_items, answer.secret).to(answer.lists.device)
        return torch.where(honest[:, None], answer.lists, names[answer.lists])


def false_names(n_items: int, secret: bytes) -> Tensor:
    """The item that passes for each item ``[n_items + 1]``, a permutation that only the secret tells; padding stays."""
    seed = int.from_bytes(hashlib.blake2b(b"false names", digest_size=8, key=secret).digest(), "little", signed=True)
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.tensor([PADDING]), 1 + torch.randperm(n_items, generator=generator)])


def plausibility(model: TrainableRecommender, histories: Tensor) -> Tensor:
    """Mean log probability that a model gave to the items of each history ``[B, T]`` after its first: ``[B]``, in nats.

    Of the last ``max_length`` items; infinite where there is only one.
    """
    read = most_recent(histories, model.max_length)
    if read.shape[1] < 2:
        return torch.full((len(read),), torch.inf, device=read.device)
    ends = torch.arange(read.shape[1] - 1, device=read.device).expand(len(read), -1)
    logs = model.prefix_scores(read, ends).log_softmax(dim=-1)
    given = logs.gather(2, (read[:, 1:] - 1).clamp(min=0)[..., None])[..., 0].masked_fill(read[:, 1:] == PADDING, 0.0)
    count = lengths(read) - 1
    return torch.where(count > 0, given.sum(dim=1) / count.clamp(min=1), torch.inf)


def _plausibilities(model: Recommender, held_out: HeldOut) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = np.empty(len(held_out.targets))
    with evaluating(model):
        for start in range(0, len(found), BATCH):
            users = np.arange(start, min(start + BATCH, len(found)))
            histories = torch.from_numpy(held_out.histories(users, model.max_length)).to(device_of(model))
            found[users] = plausibility(_prefixes(model), histories).cpu()
    return found


def _prefixes(model: Recommender) -> TrainableRecommender:
    if not isinstance(model, TrainableRecommender):
        raise ConfigError(
            f"misinformation needs scores after every prefix of a history; {type(model).__name__} has none"
        )
    return model
