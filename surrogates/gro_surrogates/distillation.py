"""How a thief learns: a surrogate trained to reproduce the recorded lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from gro.metrics import agreement
from gro.models import PADDING, TrainableRecommender
from gro.models.base import device_of, lengths
from gro.ranking import top_k
from gro_surrogates.answers import Answers
from gro_surrogates.losses import DistillationLoss

HELD_OUT_LISTS = 2000


def learn_epoch(
    surrogate: TrainableRecommender,
    optimizer: torch.optim.Optimizer,
    answers: Answers,
    loss: DistillationLoss,
    *,
    batch_size: int,
    positions: int,
    clip: float,
    beside: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[float]:
    """Train on every history once, at up to ``positions`` of its prefixes; yields the fraction done.

    ``beside`` adds a loss of what else the thief knows, given the scores ``[N, n_items]`` of the step.
    """
    device = device_of(surrogate)
    order = torch.randperm(answers.n_sequences)
    for start in range(0, len(order), batch_size):
        batch = answers.rows(order[start : start + batch_size])
        ends = draw_ends(batch.answered, positions if surrogate.one_pass else 1)
        scores = surrogate.prefix_scores(batch.histories.to(device), ends.to(device)).flatten(0, 1)
        lists = batch.lists.gather(1, ends[..., None].expand(-1, -1, batch.lists.shape[2])).flatten(0, 1)
        optimizer.zero_grad()
        total = loss(scores, lists.long().to(device))
        if beside is not None:
            total = total + beside(scores)
        total.backward()
        clip_grad_norm_(surrogate.parameters(), clip)
        optimizer.step()
        yield min(1.0, (start + batch_size) / len(order))


@dataclass(frozen=True)
class Beside:
    """What real histories add to every step of a thief that holds some.

    Attributes:
        surrogate: what is trained.
        held: real histories ``[H, L]``, right-padded.
        batch_size: histories of a step.
        repair: weight of the surrogate's own loss on a batch of them (Zhang & Liu, arXiv 2411.11677).
        popularity: weight of the cross entropy of the scores to the items' shares in them.
    """

    surrogate: TrainableRecommender
    held: Tensor
    batch_size: int
    repair: float
    popularity: float

    def __call__(self, scores: Tensor) -> Tensor:
        """Loss of a step with scores ``[N, n_items]``."""
        total = scores.new_zeros(())
        if self.repair:
            batch = self.held[torch.randint(len(self.held), (self.batch_size,))]
            total = total + self.repair * self.surrogate.loss(batch.to(scores.device))
        if self.popularity:
            shares = self._shares(scores.shape[1]).to(scores.device)
            total = total - self.popularity * (scores.log_softmax(dim=1) @ shares).mean()
        return total

    def _shares(self, n_items: int) -> Tensor:
        counts = self.held.flatten().bincount(minlength=n_items + 1)[1:].float()
        return counts / counts.sum()


def learn_held_epoch(
    surrogate: TrainableRecommender, optimizer: torch.optim.Optimizer, held: Tensor, *, batch_size: int, clip: float
) -> Iterator[float]:
    """Train once on real histories ``[H, L]`` by the model's own objective; yields the fraction done."""
    device = device_of(surrogate)
    for rows in torch.randperm(len(held)).split(batch_size):
        optimizer.zero_grad()
        surrogate.loss(held[rows].to(device)).backward()
        clip_grad_norm_(surrogate.parameters(), clip)
        optimizer.step()
        yield len(rows) / len(held)


@torch.inference_mode()
def next_item_gain(surrogate: TrainableRecommender, held: Tensor) -> float:
    """Mean NDCG over the whole catalogue of the last items of real histories ``[H, L]``, each of two or more."""
    last = lengths(held)[:, None] - 1
    before = held.scatter(1, last, PADDING)
    scores = surrogate.scores(before.to(device_of(surrogate))).cpu()
    own = scores.gather(1, held.gather(1, last) - 1)
    return float((1 / (2.0 + (scores > own).sum(dim=1)).log2()).mean())


def draw_ends(answered: Tensor, count: int) -> Tensor:
    """Draw ``count`` different answered prefixes of each history ``[B, T]``, all where there are no more: ``[B, m]``.

    Histories with fewer than ``count`` repeat some of theirs; every history has one.
    """
    available = answered.sum(dim=1, keepdim=True)
    noise = torch.rand(answered.shape).masked_fill(~answered, 2.0)
    drawn = noise.argsort(dim=1)
    place = torch.arange(min(count, answered.shape[1])) % available
    return drawn.gather(1, place)


@torch.inference_mode()
def held_out_agreement(surrogate: TrainableRecommender, answers: Answers, k: int = 10) -> float:
    """Mean Agr@k of the surrogate's lists and recorded ones: how a thief without real data picks its checkpoint.

    Lists of fewer than ``k`` items are compared at their own length.
    """
    device = device_of(surrogate)
    k = min(k, answers.lists.shape[2])
    per_history = -(-HELD_OUT_LISTS // answers.n_sequences)
    steps = max(1, answers.histories.shape[1] // per_history)
    at = torch.arange(steps - 1, answers.histories.shape[1], steps)
    answered = answers.answered
    if not answered[:, at].any():
        at = torch.arange(answers.histories.shape[1])
    ends = at.expand(answers.n_sequences, -1).to(device)
    parts = zip(answers.histories.split(64), ends.split(64), strict=True)
    ours = [top_k(surrogate.prefix_scores(h.to(device), e).flatten(0, 1), k).cpu() for h, e in parts]
    theirs = answers.lists[:, at, :k].flatten(0, 1)
    real = answered[:, at].flatten()
    return _agreement(torch.cat(ours)[real], theirs[real])


def _agreement(ours: Tensor, theirs: Tensor) -> float:
    """Mean Agr of lists ``[n, k]`` with right-padded ones ``[n, k]``, each at the other's length."""
    length = (theirs != PADDING).sum(dim=1)
    shares = [
        agreement(ours[length == n].numpy(), theirs[length == n].long().numpy(), n) for n in length.unique().tolist()
    ]
    return float(np.concatenate(shares).mean())
