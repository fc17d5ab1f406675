"""One protected training step against one plain step: SASRec at the shape of ML-1M."""

from __future__ import annotations

import torch

from gro.bench.measure import Measured, Task, costs, paired, peak_memory
from gro.config import ProtectionSettings
from gro.models import build
from gro.optimizer.gro import GRO

N_ITEMS, LENGTH, BATCH = 3_416, 200, 64


def step_time() -> Measured:
    """Seconds per step."""
    return costs(*paired(protected(), plain(), repeats=5), "s")


def step_memory() -> Measured:
    """Bytes that a step uses at most, beyond what stays between steps."""
    return costs(peak_memory(protected), peak_memory(plain), "B")


def plain() -> Task:
    """A plain step: loss, gradient, clipping, AdamW."""
    settings = ProtectionSettings(max_length=LENGTH)
    model = build(settings, N_ITEMS).train()
    optimizer = torch.optim.AdamW(model.parameters())
    windows = _windows()

    def run() -> None:
        optimizer.zero_grad()
        model.loss(windows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()

    return run


def protected() -> Task:
    """A step of GRO: the plain step's work, the lists, the swap loss, and the student's own step."""
    settings = ProtectionSettings(max_length=LENGTH)
    target, student = build(settings, N_ITEMS).train(), build(settings, N_ITEMS, seed=1).train()
    gro = GRO(target, student, settings)
    windows = _windows()
    return lambda: gro.step(windows, settings.swap_weight)


def _windows() -> torch.Tensor:
    return torch.randint(1, N_ITEMS + 1, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0))
