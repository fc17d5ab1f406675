"""Lists and ranks over the full catalogue, in chunks. Seen items are not masked; ties go to the lower item id."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gro.data import HeldOut
from gro.errors import GroError
from gro.models import Recommender

BATCH = 256


def top_k(scores: Tensor, k: int) -> Tensor:
    """The ``k`` best items of each row of scores ``[B, n_items]``, best first: item ids ``[B, k]``.

    Raises:
        GroError: ``k`` is not in 1..n_items.
    """
    n_items = scores.shape[1]
    if not 1 <= k <= n_items:
        raise GroError(f"k is {k}; a list has between 1 and {n_items} items, the size of the catalogue")
    columns = scores.topk(k, dim=1).indices.sort(dim=1).values
    order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order.indices)
    crowded = ((scores >= order.values[:, -1:]).sum(dim=1) > k).nonzero()[:, 0]
    if len(crowded):
        columns[crowded] = scores[crowded].sort(dim=1, descending=True, stable=True).indices[:, :k]
    return columns + 1


def ranks(model: Recommender, held_out: HeldOut, batch_size: int = BATCH) -> npt.NDArray[np.int64]:
    """Place of every user's held-out item in the model's ranking of the catalogue, 1 = first: ``[n_users]``.

    Raises:
        GroError: the model's scores are not finite.
    """
    targets = torch.from_numpy(held_out.targets)
    found = np.empty(len(targets), dtype=np.int64)
    for users, scores in _scored(model, held_out, batch_size):
        found[users] = _places(scores, targets[users].to(scores.device)).cpu()
    return found


def lists(model: Recommender, held_out: HeldOut, k: int, batch_size: int = BATCH) -> npt.NDArray[np.int64]:
    """The model's list for every user's held-out history: item ids ``[n_users, k]``; raises as :func:`top_k`."""
    found = np.empty((len(held_out.targets), k), dtype=np.int64)
    for users, scores in _scored(model, held_out, batch_size):
        found[users] = top_k(scores, k).cpu()
    return found


def _places(scores: Tensor, targets: Tensor) -> Tensor:
    column = targets[:, None] - 1
    own = scores.gather(1, column)
    if not torch.isfinite(scores.amax(dim=1) + own[:, 0]).all():
        raise GroError("the model's scores are not finite; it was damaged or its training diverged")
    earlier = torch.arange(scores.shape[1], device=scores.device) < column
    return 1 + (scores > own).sum(dim=1) + ((scores == own) & earlier).sum(dim=1)


@torch.inference_mode()
def _scored(model: Recommender, held_out: HeldOut, size: int) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    """Score users' histories batch by batch, those of similar length together."""
    device = torch.device("cpu")
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        device = next(model.parameters()).device
        model.eval()
    order = np.argsort(held_out.lengths, kind="stable")
    for start in range(0, len(order), size):
        users = order[start : start + size]
        histories = torch.from_numpy(held_out.histories(users, model.max_length))
        yield users, model.scores(histories.to(device))
    if isinstance(model, nn.Module):
        model.train(training)
