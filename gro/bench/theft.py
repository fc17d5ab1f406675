"""A thief's calls per second through the service against a loop that runs one full-length forward per call."""

from __future__ import annotations

import torch
from torch import Tensor

from gro.bench.measure import Measured, paired
from gro.bench.steps import LENGTH, N_ITEMS
from gro.config import ModelSettings
from gro.models import StateRecommender, build
from gro.serving import RankingService
from gro_surrogates.queries import ask
from gro_surrogates.strategies import Autoregressive

TOGETHER, K = 512, 100


def calls_per_second() -> Measured:
    """Autoregressive histories of 200 items on SASRec at the shape of ML-1M.

    Ours grow 512 together through the service; the loop pads one history to 200 items and runs all of it for each call.
    """
    model = build(ModelSettings(max_length=LENGTH), N_ITEMS).eval()
    ours_calls, theirs_calls = TOGETHER * LENGTH, 100

    def steal(target: object, calls: int, length: int, together: int) -> None:
        generator = torch.Generator().manual_seed(0)
        strategy = Autoregressive()
        strategy.together = together
        ask(target, strategy, N_ITEMS, calls, length, generator=generator)  # type: ignore[arg-type]

    ours, theirs = paired(
        lambda: steal(RankingService(model, K), ours_calls, LENGTH, TOGETHER),
        lambda: steal(lambda histories: _padded_forward(model, histories), theirs_calls, 10, 1),
        repeats=3,
    )
    rates = ours_calls / ours, theirs_calls / theirs
    return {"ratio": rates[0] / rates[1], "ours": rates[0], "theirs": rates[1], "unit": "calls/s"}


@torch.inference_mode()
def _padded_forward(model: StateRecommender, histories: Tensor) -> Tensor:
    """What RecBole's models do: pad to the full length, run every position, read one."""
    padded = torch.nn.functional.pad(histories, (0, LENGTH - histories.shape[1]))
    return model.scores(padded).topk(K).indices + 1
