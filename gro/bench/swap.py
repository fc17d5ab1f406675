"""The swap loss against the literal swap matrix."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from gro.bench.measure import Measured, Task, faster, paired, peak_memory
from gro.optimizer.swap import swap_loss

LISTS, K = 100, 100


def literal(target: Tensor, student: Tensor, items: Tensor, gradient: Tensor) -> Tensor:
    """Eq. 7-9 of the paper as written: one-hot matrices ``A`` and ``A'`` ``[B, k, n]``."""
    n_items = target.shape[1]
    swap = torch.nn.functional.one_hot(items, n_items).to(target.dtype)
    by_matrix = gradient[..., None] * student[:, None, :]
    moved = torch.zeros_like(swap).scatter_(2, by_matrix.argmax(dim=2, keepdim=True), 1.0)
    moved = torch.where(gradient[..., None] == 0, swap, moved)
    return torch.relu(torch.einsum("bkn,bn->bk", swap - moved, target)).mean()


def small() -> Measured:
    """Time of value and gradient at 100 lists of 100 items, catalogue of 3,416."""
    return faster(*paired(_task(swap_loss, 3_416), _task(literal, 3_416), repeats=5))


def large() -> dict[str, Measured | float]:
    """The same with a catalogue of 100,000, and our peak memory in bytes."""
    timed = faster(*paired(_task(swap_loss, 100_000), _task(literal, 100_000), repeats=3))
    return {**timed, "peak_memory": peak_memory(partial(_task, swap_loss, 100_000))}  # type: ignore[dict-item]


def _task(loss: object, n_items: int) -> Task:
    torch.manual_seed(0)
    target = torch.randn(LISTS, n_items, requires_grad=True)
    student = torch.randn(LISTS, n_items)
    items = target.detach().topk(K, dim=1).indices
    gradient = torch.randn(LISTS, K)

    def run() -> None:
        target.grad = None
        loss(target, student, items, gradient).backward()  # type: ignore[operator]

    return run
