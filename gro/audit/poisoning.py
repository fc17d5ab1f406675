"""Does an attack found on the copy work on the target? Profile pollution as in Yue et al., RecSys 2021."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gro.data import HeldOut
from gro.models import PADDING, Recommender
from gro.models.base import device_of, lengths
from gro.ranking import evaluating, places

USERS, ITEMS, CANDIDATES, TOP = 100, 5, 32, 10


def poisoning(target: Recommender, surrogate: Recommender, held_out: HeldOut, seed: int) -> dict[str, Any]:
    """Append items to people's histories until an item drawn for each of them comes up in the target's list.

    An attacker adds :data:`ITEMS` items one by one, each the best of :data:`CANDIDATES` drawn ones by the rank that the
    wanted item then has in the model that the attacker can see.

    Args:
        target: whose lists are to be bent.
        surrogate: the copy on which the attack is prepared.
        held_out: the people: their histories.
        seed: source of people, wanted items and candidates.

    Returns:
        Shares of people in whose ten best the wanted item is, in the target: "before", after "random" items, after
        those found on the "surrogate", after those found on the "target" itself; and "transfer", what part of that
        last gain over random items the copy gives (``None`` where the target itself gives none).
    """
    rng = np.random.default_rng(seed)
    users = rng.permutation(len(held_out.targets))[:USERS]
    room = target.max_length - ITEMS
    histories = torch.from_numpy(held_out.histories(users, max(1, room)))
    wanted = torch.from_numpy(rng.integers(1, target.n_items + 1, len(users)))
    drawn = torch.from_numpy(rng.integers(1, target.n_items + 1, (ITEMS, len(users), CANDIDATES)))
    polluted = {
        "before": histories,
        "random": _with(histories, drawn[:, :, 0].T),
        "surrogate": _pollute(surrogate, histories, wanted, drawn),
        "target": _pollute(target, histories, wanted, drawn),
    }
    share = {name: float((_rank(target, rows, wanted) <= TOP).float().mean()) for name, rows in polluted.items()}
    most = share["target"] - share["random"]
    transfer = (share["surrogate"] - share["random"]) / most if most > 0 else None
    return {"users": len(users), "items": ITEMS, **share, "transfer": transfer}


def _pollute(model: Recommender, histories: Tensor, wanted: Tensor, drawn: Tensor) -> Tensor:
    """Append to histories ``[U, T]`` the best of the ``drawn [ITEMS, U, C]`` items, one of each row at a time."""
    for candidates in drawn:
        size, count = candidates.shape
        tried = _with(histories.repeat_interleave(count, 0), candidates.reshape(-1, 1))
        ranks = _rank(model, tried, wanted.repeat_interleave(count)).view(size, count)
        best = candidates.gather(1, ranks.argmin(dim=1, keepdim=True))
        histories = _with(histories, best)
    return histories


def _with(histories: Tensor, items: Tensor) -> Tensor:
    """Append items ``[B, m]`` to right-padded histories ``[B, T]``: ``[B, T + m]``."""
    longer = F.pad(histories, (0, items.shape[1]), value=PADDING)
    return longer.scatter(1, lengths(histories)[:, None] + torch.arange(items.shape[1]), items)


def _rank(model: Recommender, histories: Tensor, wanted: Tensor) -> Tensor:
    """Rank of the wanted item ``[B]`` after each history ``[B, T]``."""
    device, found = device_of(model), []
    with evaluating(model):
        for rows, items in zip(histories.split(512), wanted.split(512), strict=True):
            found.append(places(model.scores(rows.to(device)).cpu(), items))
    return torch.cat(found)
