"""How a thief learns: a surrogate trained to reproduce the recorded lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from gro.losses import listwise_loss, ranking_loss, sample_negatives
from gro.metrics import agreement
from gro.models import TrainableRecommender
from gro.models.base import device_of, lengths
from gro.ranking import top_k
from gro_surrogates.queries import Answers

HELD_OUT_LISTS = 2000

DistillationLoss = Callable[[Tensor, Tensor], Tensor]
"""Loss of a surrogate's scores ``[N, n_items]`` against the recorded lists of item ids ``[N, k]``."""


def ranking(scores: Tensor, lists: Tensor) -> Tensor:
    """The paper's ranking loss with negatives drawn outside the list; see :func:`gro.losses.ranking_loss`."""
    negatives = sample_negatives(lists, scores.shape[1])
    return ranking_loss(scores.gather(1, lists - 1), scores.gather(1, negatives - 1))


def listwise(scores: Tensor, lists: Tensor) -> Tensor:
    """Plackett-Luce likelihood of the list; see :func:`gro.losses.listwise_loss`."""
    return listwise_loss(scores, lists - 1)


LOSSES: dict[str, DistillationLoss] = {"ranking": ranking, "listwise": listwise}


def learn_epoch(
    surrogate: TrainableRecommender,
    optimizer: torch.optim.Optimizer,
    answers: Answers,
    loss: DistillationLoss,
    *,
    batch_size: int,
    positions: int,
    clip: float,
) -> Iterator[float]:
    """Train on every history once, at up to ``positions`` of its prefixes; yields the fraction done."""
    device = device_of(surrogate)
    order = torch.randperm(answers.n_sequences)
    for start in range(0, len(order), batch_size):
        batch = answers.rows(order[start : start + batch_size])
        ends = draw_ends(batch.histories, positions if surrogate.one_pass else 1)
        scores = surrogate.prefix_scores(batch.histories.to(device), ends.to(device)).flatten(0, 1)
        lists = batch.lists.gather(1, ends[..., None].expand(-1, -1, batch.lists.shape[2])).flatten(0, 1)
        optimizer.zero_grad()
        loss(scores, lists.long().to(device)).backward()
        clip_grad_norm_(surrogate.parameters(), clip)
        optimizer.step()
        yield min(1.0, (start + batch_size) / len(order))


def draw_ends(histories: Tensor, count: int) -> Tensor:
    """Draw ``count`` different prefixes of each history, all of them where it is no longer: ``[B, m]`` last indices.

    Histories shorter than ``count`` repeat some of their prefixes.
    """
    length = lengths(histories)[:, None]
    noise = torch.rand(histories.shape).masked_fill(torch.arange(histories.shape[1]) >= length, 2.0)
    return noise.argsort(dim=1)[:, :count] % length


@torch.inference_mode()
def held_out_agreement(surrogate: TrainableRecommender, answers: Answers, k: int = 10) -> float:
    """Mean Agr@k of the surrogate's lists and recorded ones: how a thief without real data picks its checkpoint."""
    device = device_of(surrogate)
    k = min(k, answers.lists.shape[2])
    per_history = -(-HELD_OUT_LISTS // answers.n_sequences)
    steps = max(1, answers.histories.shape[1] // per_history)
    at = torch.arange(steps - 1, answers.histories.shape[1], steps)
    real = (answers.histories[:, at] != 0).flatten()
    ends = at.expand(answers.n_sequences, -1).to(device)
    parts = zip(answers.histories.split(64), ends.split(64), strict=True)
    ours = [top_k(surrogate.prefix_scores(h.to(device), e).flatten(0, 1), k).cpu() for h, e in parts]
    theirs = answers.lists[:, at, :k].flatten(0, 1)
    return float(agreement(torch.cat(ours)[real].numpy(), theirs[real].numpy(), k).mean())
