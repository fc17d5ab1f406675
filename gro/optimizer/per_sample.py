"""Per-sample gradients of a recommender by the hooks of Opacus (Yousefpour et al., 2021), and the check of them."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gro.errors import ConfigError, GroError, MissingExtraError
from gro.models import PADDING, CausalRecommender, StateRecommender

TOLERANCE = 1e-3
"""Largest relative error of the norm of a parameter's per-sample gradient."""
ROUNDING = 1e-5
"""What the norm may be wrong by besides, as a share of the whole gradient's norm: some gradients are 0 but for this."""


def hookable(model: StateRecommender) -> CausalRecommender:
    """Return the model if Opacus has per-sample gradients of all its layers.

    Raises:
        ConfigError: it has not, or the model does not read from left to right.
        MissingExtraError: Opacus is not installed.
    """
    known = opacus("grad_sample").GradSampleModule.GRAD_SAMPLERS
    strange = next((type(m).__name__ for m in model.modules() if _has_weights(m) and type(m) not in known), None)
    if isinstance(model, CausalRecommender) and strange is None:
        return model
    causal = isinstance(model, CausalRecommender)
    reason = f"Opacus cannot hook its {strange}" if causal else "it does not read from left to right"
    raise ConfigError(f"{type(model).__name__} cannot be trained with differential privacy: {reason}; use SASRec")


@contextmanager
def hooked(model: CausalRecommender) -> Iterator[None]:
    """Let a backward pass in training mode leave gradients ``[B, *shape]`` in every parameter's ``grad_sample``.

    The rows of a batch must be the first dimension of what every layer reads. Afterwards the model is as before, with
    no gradient left.
    """
    hooks = opacus("grad_sample").GradSampleHooks(model, loss_reduction="sum")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing")  # item ids have no gradient
            yield
    finally:
        hooks.cleanup()
        model.zero_grad()
        for left in (*model.modules(), *model.parameters()):
            for name in ("activations", "max_batch_len", "summed_grad"):
                vars(left).pop(name, None)


def row_losses(model: CausalRecommender, windows: Tensor) -> Tensor:
    """Mean next-item cross entropy of each window ``[B, T]``, 0 where nothing is to predict: ``[B]``.

    It is :meth:`CausalRecommender.loss` of each row, made by layers alone, which can be hooked.
    """
    targets = windows[:, 1:]
    with _shared_indices_per_row(model, len(windows)):
        scores = model.head(model.states(windows[:, :-1]))[..., 1 : model.n_items + 1]
    losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten() - 1, ignore_index=PADDING - 1, reduction="none")
    return losses.view_as(targets).sum(1) / (targets != PADDING).sum(1).clamp(min=1)


@contextmanager
def _shared_indices_per_row(model: nn.Module, rows: int) -> Iterator[None]:
    """Let embeddings look up what all rows share, such as positions ``[T]``, once per row: ``[rows, T]``."""

    def expand(_: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        return inputs[0].expand(rows, -1) if inputs[0].dim() == 1 else None

    handles = [m.register_forward_pre_hook(expand) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_per_sample_norms(model: CausalRecommender, windows: Tensor) -> None:
    """Compare the norms of hooked gradients with those of the model's own loss by ordinary autograd, row by row.

    Args:
        model: left in the mode it was in; dropout is off meanwhile.
        windows: consecutive items ``[B, T]``, right-padded, at least two in each.

    Raises:
        GroError: a parameter's norm differs in a row, so that no privacy can be promised.
    """
    mode = model.training
    for module in model.modules():
        module.training = _has_weights(module)  # hooks work in training mode only; what drops out has no weights
    try:
        ours, theirs = _hooked_norms(model, windows), _norms_row_by_row(model, windows)
    finally:
        model.train(mode)
    allowed = TOLERANCE * theirs + ROUNDING * theirs.norm(dim=0)
    if ours is None or not bool(((ours - theirs).abs() <= allowed).all()):  # nan is in no order
        name = type(model).__name__
        raise GroError(f"{name}: Opacus' per-sample gradients are not those of autograd; no privacy can be promised")


def _hooked_norms(model: CausalRecommender, windows: Tensor) -> Tensor | None:
    """Norms ``[P, B]`` of P parameters' gradients; ``None`` where one has not as many gradients as there are rows."""
    with hooked(model):
        row_losses(model, windows).sum().backward()
        samples: list[Tensor | None] = [getattr(p, "grad_sample", None) for p in model.parameters()]
        norms = [s.flatten(1).norm(dim=1) for s in samples if s is not None and len(s) == len(windows)]
        return torch.stack(norms) if len(norms) == len(samples) else None


def _norms_row_by_row(model: CausalRecommender, windows: Tensor) -> Tensor:
    parameters = list(model.parameters())
    rows = [torch.autograd.grad(model.loss(row[None]), parameters) for row in windows]
    return torch.stack([torch.stack([gradient.norm() for gradient in row]) for row in rows], dim=1)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def opacus(module: str) -> ModuleType:
    """Import a module of Opacus, without the handler that it gives to the logs of the whole process.

    Raises:
        MissingExtraError: Opacus is not installed.
    """
    handlers = logging.root.handlers[:]
    try:
        return importlib.import_module(f"opacus.{module}")
    except ModuleNotFoundError:
        raise MissingExtraError("differential privacy needs Opacus: pip install gro[dp]") from None
    finally:
        logging.root.handlers[:] = handlers
