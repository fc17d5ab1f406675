"""The Blind Walk: how far a history is from where a recommender's first item changes.

It was meant to tell members' histories from public ones (:mod:`gro.ownership.inference`), and does not: over 756
histories of 378 people, with eight steps and some 3,600 calls, the contrast was 0.1 standard deviations in the owner's
own model, 0.6 in one trained on the same histories, and -0.4 to 0.5 in three copies. So no test spends calls on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gro.models.base import lengths
from gro.ownership.suspect import Ask


def blind_walk(ask: Ask, histories: Tensor, n_items: int, *, steps: int, seed: int = 0) -> Tensor:
    """Distance of each history to where the first item of its list changes, in random edits: ``[B]``.

    After the Blind Walk of Maini, Yaghini & Papernot (ICLR 2021): every step puts a random item in a random place, on
    top of the steps before. Takes up to ``B * (steps + 1)`` calls; histories that have moved are asked no more.

    Args:
        ask: answers with lists.
        histories: ``[B, T]``, right-padded.
        n_items: size of the catalogue.
        steps: most edits; a history that outlasts them is at ``steps + 1``.
        seed: source of the edits.
    """
    generator = torch.Generator().manual_seed(seed)
    first, walked = ask(histories)[:, 0], histories.clone()
    sizes, distance = lengths(histories), torch.full((len(histories),), steps + 1)
    for step in range(1, steps + 1):
        places = (torch.rand(len(histories), generator=generator) * sizes).long()
        items = torch.randint(1, n_items + 1, (len(histories),), generator=generator)
        walked[torch.arange(len(histories)), places] = items
        if not len(still := (distance > steps).nonzero()[:, 0]):
            break
        distance[still[ask(walked[still])[:, 0] != first[still]]] = step
    return distance
