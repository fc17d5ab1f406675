"""Weights as bytes: safetensors, tied tensors once, never read into a model that they do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gro import models
from gro.config import ModelSettings
from gro.errors import ArtifactError, ConfigError
from gro.models import StateRecommender


def pack(models: Sequence[StateRecommender], settings: Sequence[ModelSettings]) -> bytes:
    """Return the weights of models, each with its settings, on any device; equal weights give equal bytes.

    Raises:
        ArtifactError: a model built from its settings has other tensors.
    """
    tensors = {
        f"{_prefix(number)}{name}": tensor.detach().cpu().contiguous()
        for number, model in enumerate(models)
        for name, tensor in _distinct(model).items()
    }
    _require_fit(tensors, settings, models[0].n_items)
    return safetensors.torch.save(tensors)


def unpack(content: bytes, settings: Sequence[ModelSettings], n_items: int) -> list[StateRecommender]:
    """Build the models that :func:`pack` was given, one of each settings, in evaluation mode, on the CPU.

    Raises:
        ArtifactError: the content is not safetensors, or holds other tensors than the models have.
    """
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise ArtifactError(f"not safetensors: {_one_line(error)}") from None
    _require_fit(tensors, settings, n_items)
    return [_filled(models.build(each, n_items), tensors, _prefix(number)) for number, each in enumerate(settings)]


def _filled(model: StateRecommender, tensors: Mapping[str, Tensor], prefix: str) -> StateRecommender:
    own = {name: tensors[f"{prefix}{name}"] for name in _distinct(model)}
    model.load_state_dict(own, strict=False)
    return model.eval()


def _prefix(number: int) -> str:
    return f"members.{number}." if number else ""


def _distinct(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the model once, under the first of its names: tied weights have several."""
    state = model.state_dict(keep_vars=True)
    first = {id(state[name]): name for name in reversed(list(state))}
    return {name: tensor for name, tensor in state.items() if first[id(tensor)] == name}


def _require_fit(tensors: Mapping[str, Tensor], settings: Sequence[ModelSettings], n_items: int) -> None:
    found = {name: _describe(tensor) for name, tensor in tensors.items()}
    kinds = {kind: _wanted(kind, n_items) for kind in set(settings)}
    wanted = {
        f"{_prefix(number)}{name}": tensor
        for number, kind in enumerate(settings)
        for name, tensor in kinds[kind].items()
    }
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            there, expected = found.get(name, "missing"), wanted.get(name, "nothing")
            raise ArtifactError(f"the settings do not describe the weights: {name}: {there} in place of {expected}")


def _wanted(settings: ModelSettings, n_items: int) -> dict[str, str]:
    try:
        with torch.device("meta"):
            return {name: _describe(tensor) for name, tensor in _distinct(models.build(settings, n_items)).items()}
    except (ConfigError, RuntimeError) as error:
        raise ArtifactError(f"the settings describe no model: {_one_line(error)}") from None


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
