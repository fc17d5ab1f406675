"""RecBole's names of the weights of the four architectures, and ours: the same tensors under other names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from gro.errors import ArtifactError, ConfigError, nearest

_TABLE, _HEAD = "item_embedding.weight", "head.weight"
_LAYER = re.compile(r"(?:^trm_encoder\.layer\.|^blocks\.|_l)(\d+)")
_BLOCK = {
    "multi_head_attention.query": "query",
    "multi_head_attention.key": "key",
    "multi_head_attention.value": "value",
    "multi_head_attention.dense": "out",
    "multi_head_attention.LayerNorm": "attention_norm",
    "feed_forward.dense_1": "inner",
    "feed_forward.dense_2": "outer",
    "feed_forward.LayerNorm": "output_norm",
}
_MODULES = {
    "SASRec": {"LayerNorm": "norm"},
    "BERT4Rec": {"LayerNorm": "norm", "output_ffn": "output", "output_ln": "output_norm"},
    "GRU4Rec": {"dense": "dense"},
    "NARM": {},
}
_SINGLE = {
    "SASRec": ("position_embedding.weight",),
    "BERT4Rec": ("position_embedding.weight", "output_bias"),
    "GRU4Rec": (),
    "NARM": ("a_1.weight", "a_2.weight", "v_t.weight", "b.weight"),
}
_GRU = {"GRU4Rec": "gru_layers", "NARM": "gru"}


def from_recbole(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Rename RecBole's ``state_dict`` of a model for ours of the same architecture and sizes.

    Args:
        state: RecBole's tensors by RecBole's names.
        name: SASRec, GRU4Rec, NARM or BERT4Rec. RecBole's BERT4Rec drops the oldest item of every history: to get its
            very scores build ours with ``drop_oldest``.

    Raises:
        ArtifactError: names are unknown or missing, or item vectors and hidden state differ in size.
        ConfigError: the architecture is another one.
    """
    renamed = _rename(state, _pairs(name, state), f"RecBole's {name}")
    _check_sizes(renamed, name)
    return renamed | {_HEAD: renamed[_TABLE]}


def to_recbole(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Rename our ``state_dict`` for RecBole's model of the same architecture: the inverse of :func:`from_recbole`.

    Raises:
        ArtifactError: names are unknown or missing.
        ConfigError: the architecture is another one.
    """
    pairs = {ours: theirs for theirs, ours in _pairs(name, state).items()}
    return _rename({key: weight for key, weight in state.items() if key != _HEAD}, pairs, name)


def _pairs(name: str, keys: Iterable[str]) -> dict[str, str]:
    """Map RecBole's parameter names to ours, for as many layers as ``keys`` show."""
    if name not in _MODULES:
        raise ConfigError(f"weights of '{name}' cannot be converted.{nearest(name, _MODULES)}")
    found = [int(layer[1]) for key in keys if (layer := _LAYER.search(key))]
    layers = range(max(found, default=0) + 1)
    modules = dict(_MODULES[name])
    pairs = {key: key for key in (_TABLE, *_SINGLE[name])}
    if name in _GRU:
        cells = [f"weight_{side}_l{layer}" for layer in layers for side in ("ih", "hh")]
        pairs |= {f"{_GRU[name]}.{cell}": f"gru.{cell}" for cell in cells}
    else:
        modules |= {
            f"trm_encoder.layer.{i}.{theirs}": f"blocks.{i}.{ours}" for i in layers for theirs, ours in _BLOCK.items()
        }
    return pairs | {
        f"{theirs}.{part}": f"{ours}.{part}" for theirs, ours in modules.items() for part in ("weight", "bias")
    }


def _rename(state: Mapping[str, Tensor], names: Mapping[str, str], owner: str) -> dict[str, Tensor]:
    unknown, missing = sorted(state.keys() - names.keys()), sorted(names.keys() - state.keys())
    if unknown or missing:
        problems = [f"{kind} {', '.join(keys)}" for kind, keys in (("unknown", unknown), ("missing", missing)) if keys]
        raise ArtifactError(f"not the weights of {owner}: {'; '.join(problems)}")
    return {names[key]: weight for key, weight in state.items()}


def _check_sizes(state: Mapping[str, Tensor], name: str) -> None:
    if name not in _GRU:
        return
    item, hidden = state[_TABLE].shape[1], state["gru.weight_hh_l0"].shape[1]
    if item != hidden:
        raise ArtifactError(
            f"RecBole's {name} has item vectors of {item} and a hidden state of {hidden}; ours has one size: "
            "right would be embedding_size = hidden_size"
        )
