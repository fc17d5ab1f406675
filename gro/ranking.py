"""Lists and ranks over the full catalogue, in chunks. Seen items are not masked; ties go to the lower item id.

An item whose score is -inf is masked: no list holds it, and its place is the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gro.data import HeldOut
from gro.errors import GroError
from gro.models import PADDING, Recommender
from gro.models.base import device_of

BATCH = 256
MASKED = -torch.inf


def top_k(scores: Tensor, k: int) -> Tensor:
    """The ``k`` best items of each row of scores ``[B, n_items]``, best first: item ids ``[B, k]``, right-padded.

    ``torch.topk`` promises no order among equal scores, so rows in which one of the ``k + 1`` best is tied are chosen
    again, in O(n_items).

    Raises:
        GroError: ``k`` is not in 1..n_items, or a row's best score is not finite.
    """
    n_items = scores.shape[1]
    if not 1 <= k <= n_items:
        raise GroError(f"k is {k}; a list has between 1 and {n_items} items, the size of the catalogue")
    best = scores.topk(min(k + 1, n_items), dim=1)
    _require_finite(best.values[:, 0])
    columns = best.indices[:, :k]
    masked = best.values[:, :k] == MASKED
    tied = ((best.values[:, 1:] == best.values[:, :-1]) & (best.values[:, 1:] != MASKED)).any(dim=1).nonzero()[:, 0]
    if len(tied):
        columns[tied] = _lower_ids_first(scores[tied], best.values[tied, k - 1 : k], k)
    return (columns + 1).masked_fill(masked, PADDING)


def ranks(model: Recommender, held_out: HeldOut, batch_size: int = BATCH) -> npt.NDArray[np.int64]:
    """Place of every user's held-out item in the model's ranking of the catalogue, 1 = first: ``[n_users]``.

    The model is put in evaluation mode, on the device where it is, and left in the mode it was in.

    Raises:
        GroError: the model's scores are not finite or not ``[B, n_items]``.
    """
    targets = torch.from_numpy(held_out.targets)
    found = np.empty(len(targets), dtype=np.int64)
    with evaluating(model):
        for users, scores in _scored(model, held_out, batch_size):
            found[users] = places(scores, targets[users].to(scores.device)).cpu()
    return found


def lists(model: Recommender, held_out: HeldOut, k: int, batch_size: int = BATCH) -> npt.NDArray[np.int64]:
    """The model's list for every user's held-out history: item ids ``[n_users, k]``.

    Raises:
        GroError: as :func:`top_k` and :func:`ranks`.
    """
    found = np.empty((len(held_out.targets), k), dtype=np.int64)
    with evaluating(model):
        for users, scores in _scored(model, held_out, batch_size):
            found[users] = top_k(scores, k).cpu()
    return found


def _lower_ids_first(scores: Tensor, last: Tensor, k: int) -> Tensor:
    """Columns ``[B, k]`` of the best scores; ``last [B, 1]`` is each row's k-th best score."""
    above, level = scores > last, scores == last
    room = k - above.sum(dim=1, keepdim=True)
    chosen = above | (level & (level.cumsum(dim=1, dtype=torch.int32) <= room))
    columns = chosen.nonzero()[:, 1].view(-1, k)
    order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
    return columns.gather(1, order)


def places(scores: Tensor, items: Tensor) -> Tensor:
    """Place of one item ``[B]`` in the ranking by each row of scores ``[B, n_items]``, 1 = first: ``[B]``.

    Raises:
        GroError: the scores are not finite.
    """
    _require_finite(scores.amax(dim=1))
    column = items[:, None] - 1
    own = scores.gather(1, column)
    earlier = torch.arange(scores.shape[1], device=scores.device) < column
    before = (scores > own).sum(dim=1) + ((scores == own) & earlier).sum(dim=1)
    return 1 + before.masked_fill(own[:, 0] == MASKED, scores.shape[1] - 1)


def _require_finite(best: Tensor) -> None:
    """Check each row's best score ``[B]``: NaN and +inf surface there, and a row in which everything is masked."""
    if not torch.isfinite(best).all():
        raise GroError("the model's scores are not finite; it was damaged or its training diverged")


def _scored(model: Recommender, held_out: HeldOut, size: int) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
    """Score users' histories batch by batch, those of similar length together."""
    device = device_of(model)
    order = np.argsort(held_out.lengths, kind="stable")
    for start in range(0, len(order), size):
        users = order[start : start + size]
        histories = torch.from_numpy(held_out.histories(users, model.max_length))
        scores = model.scores(histories.to(device))
        if scores.shape != (len(users), model.n_items):
            wanted = f"{[len(users), model.n_items]}, one column per item and none for padding"
            raise GroError(f"the model's scores are {list(scores.shape)}; they must be {wanted}")
        yield users, scores


@contextmanager
def evaluating(model: Recommender) -> Iterator[None]:
    """Inference in evaluation mode; whatever happens, every module gets back the mode it was in."""
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training
