"""Shadow inversion: a thief who knows the defence learns from targets of its own what a defended list was before.

The thief trains an undefended and a defended shadow target on histories that it has, asks both about the same
histories, and learns the map from the defended to the clean list. It then reads the victim's lists through that map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gro.losses import listwise_loss
from gro.models import PADDING, Recommender
from gro.models.base import device_of, lengths
from gro.ranking import evaluating, top_k
from gro_surrogates.answers import Answers

Shadows = Callable[[Tensor, int], tuple[Recommender, Recommender]]
"""From histories ``[H, L]`` and a seed to two targets, an undefended one and one defended as the victim is."""

PAIRS, TOGETHER, EPOCHS = 20_000, 256, 8


class ListToList(nn.Module):
    """Scores of the catalogue from a list: what each place of it is worth, and how far each item is listed too high.

    Untrained, it returns the list in its own order. It is kept this small on purpose: a map that also read which items
    stand together would carry over what the shadows prefer, not what the defence does.
    """

    def __init__(self, n_items: int, k: int) -> None:
        super().__init__()
        self.worth = nn.Parameter(torch.linspace(6.0, 3.0, k))
        self.items = nn.Parameter(torch.zeros(n_items))

    def forward(self, lists: Tensor) -> Tensor:
        """Lists ``[B, k]``, right-padded, to scores ``[B, n_items]``."""
        scores = F.pad(self.items.expand(len(lists), -1), (1, 0))
        worth = self.worth[: lists.shape[1]].expand(lists.shape)
        return scores.scatter_add(1, lists, worth)[:, 1:]


def learn_inversion(shadows: Shadows, histories: Tensor, n_items: int, k: int, seed: int) -> ListToList:
    """Train shadows on histories ``[H, L]`` and learn to turn the defended one's lists of ``k`` into the other's."""
    clean, defended = shadows(histories, seed)
    generator = torch.Generator().manual_seed(seed)
    asked = _prefixes(histories, generator)
    wanted, given = (_lists(model, asked, k) for model in (clean, defended))
    inversion = ListToList(n_items, k)
    optimizer = torch.optim.Adam(inversion.parameters(), lr=1e-2)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(asked), generator=generator).split(TOGETHER):
            optimizer.zero_grad()
            listwise_loss(inversion(given[rows]), wanted[rows] - 1).backward()
            optimizer.step()
    return inversion.eval()


@torch.inference_mode()
def cleaned(answers: Answers, inversion: ListToList) -> Answers:
    """Answers whose lists are read through an inversion; no list gets longer."""
    lists = answers.lists.clone()
    k = lists.shape[2]
    received = lists[answers.answered]
    best = torch.cat([top_k(inversion(part.long()), k) for part in received.split(TOGETHER)])
    lists[answers.answered] = best.masked_fill(received == PADDING, PADDING).to(lists.dtype)
    return replace(answers, lists=lists)


def _prefixes(histories: Tensor, generator: torch.Generator) -> Tensor:
    """Draw :data:`PAIRS` prefixes of histories ``[H, L]``, right-padded."""
    rows = histories[torch.randint(len(histories), (PAIRS,), generator=generator)]
    size = (torch.rand(PAIRS, generator=generator) * lengths(rows)).long() + 1
    return rows.masked_fill(torch.arange(rows.shape[1]) >= size[:, None], PADDING)


def _lists(model: Recommender, histories: Tensor, k: int) -> Tensor:
    device = device_of(model)
    with evaluating(model):
        return torch.cat([top_k(model.scores(part.to(device)), k).cpu() for part in histories.split(TOGETHER)])
