"""Any RecBole sequential model as a recommender of ours."""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from gro._recbole.environment import properties_folder, recbole_environment, require
from gro.errors import ConfigError, DataError, nearest
from gro.models import ScoredRecommender

SIDE_INFORMATION: Mapping[str, str] = MappingProxyType(
    {
        "DIEN": "user and item features",
        "DIN": "user and item features",
        "FDSA": "item features",
        "GRU4RecF": "item features",
        "GRU4RecKG": "entity embeddings",
        "KSR": "a knowledge graph",
        "S3Rec": "item features and a pre-training stage",
        "SASRecF": "item features",
    }
)
"""RecBole's sequential models that read more than histories, and what they read."""

USER_FIELD, ITEM_FIELD, SEQUENCE_FIELD, LENGTH_FIELD = "user_id", "item_id", "item_id_list", "item_length"


def names() -> list[str]:
    """Names of the RecBole sequential models that :func:`build` can build.

    Raises:
        MissingExtraError: RecBole is not installed.
    """
    return sorted(_classes().keys() - SIDE_INFORMATION.keys())


def build(
    name: str,
    n_items: int,
    max_length: int = 50,
    hyper: Mapping[str, Any] | None = None,
    *,
    n_users: int = 1,
    seed: int = 0,
) -> RecBoleRecommender:
    """Build an untrained RecBole sequential model; the same seed gives the same weights.

    Args:
        name: RecBole's name of the model.
        n_items: size of the catalogue.
        max_length: longest history the model reads.
        hyper: values for the keys of RecBole's ``properties/model/NAME.yaml``; the others keep RecBole's defaults.
        n_users: rows of the user table, besides RecBole's padding row, of models that have one.
        seed: seed of the initial weights.

    Raises:
        ConfigError: the model or a key is unknown, the model needs side information, or RecBole refuses the values.
        MissingExtraError: RecBole is not installed.
    """
    with recbole_environment(), redirect_stdout(io.StringIO()):
        _check(name, hyper or {})
        config = configure(name, {"MAX_ITEM_LIST_LENGTH": max_length, **(hyper or {})})
        torch.manual_seed(seed)
        try:
            module = _classes()[name](config, _Catalogue(n_items, n_users, max_length))
            recommender = RecBoleRecommender(module, config, n_items, max_length)
            _probe(recommender)
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise ConfigError(f"RecBole cannot build {name} for {n_items} items: {_line(error)}") from None
    return recommender


def configure(name: str, values: Mapping[str, Any], dataset: str = "") -> Any:
    """Make RecBole's ``Config`` of a model, on the CPU; ``values`` are set as they are, none is evaluated."""
    fixed = {"gpu_id": "", "use_gpu": False, "train_neg_sample_args": None}
    config = require("recbole.config").Config(model=name, dataset=dataset, config_dict=fixed)
    for key, value in values.items():
        config[key] = value
    require("recbole.data.transform").construct_transform(config)
    return config


def properties(name: str) -> dict[str, Any]:
    """Keys and default values of one of RecBole's property files, e.g. ``"model/SASRec"`` or ``"overall"``."""
    path = properties_folder() / f"{name}.yaml"
    if not path.is_file():
        return {}
    return require("yaml").safe_load(path.read_text(encoding="utf-8")) or {}


class RecBoleRecommender(ScoredRecommender):
    """A RecBole sequential model behind our interface; every prefix is a row of its own.

    Attributes:
        recbole: RecBole's module; its parameters have RecBole's names below it.
        config: RecBole's ``Config`` of the module.
    """

    def __init__(self, recbole: nn.Module, config: Any, n_items: int, max_length: int) -> None:
        super().__init__(n_items, max_length)
        self.recbole = recbole
        self.config = config

    def scores(self, histories: Tensor) -> Tensor:
        """Score the next item after each history: ``[B, T]`` to ``[B, n_items]``.

        The user is RecBole's padding user. Two models compute a loss on the way; they are told that item 1 came next.

        Raises:
            DataError: a history is empty; RecBole's models cannot read one.
        """
        lengths = (histories != 0).sum(dim=1)
        if not lengths.all():
            raise DataError(f"history {int(lengths.argmin())} is empty: RecBole's models need at least one item")
        self._follow(histories.device)
        rows = _resize(histories, lengths, self.max_length)
        interaction = {
            SEQUENCE_FIELD: rows,
            LENGTH_FIELD: lengths.clamp(max=self.max_length),
            USER_FIELD: torch.zeros_like(lengths),
            ITEM_FIELD: torch.ones_like(lengths),
        }
        scores = cast("Any", self.recbole).full_sort_predict(interaction)
        return cast("Tensor", scores.reshape(len(histories), -1)[:, 1 : self.n_items + 1])

    def _follow(self, device: torch.device) -> None:
        for module in self.recbole.modules():
            if isinstance(getattr(module, "device", None), torch.device):
                cast("Any", module).device = device


class _Catalogue:
    """The part of RecBole's dataset that models without side information read."""

    def __init__(self, n_items: int, n_users: int, max_length: int) -> None:
        self.item_num, self.user_num = n_items + 1, n_users + 1
        self.field2seqlen = {SEQUENCE_FIELD: max_length}
        self.inter_feat = {ITEM_FIELD: torch.empty(0, dtype=torch.long)}

    def num(self, field: str) -> int:
        return {USER_FIELD: self.user_num, ITEM_FIELD: self.item_num}[field]


def _classes() -> dict[str, Any]:
    with recbole_environment():
        return dict(inspect.getmembers(require("recbole.model.sequential_recommender"), inspect.isclass))


def _check(name: str, hyper: Mapping[str, Any]) -> None:
    if name in SIDE_INFORMATION:
        raise ConfigError(
            f"RecBole's {name} reads {SIDE_INFORMATION[name]}: only models of histories alone are supported"
        )
    if name not in _classes():
        raise ConfigError(f"RecBole has no sequential model '{name}'.{nearest(name, names())}")
    known = properties(f"model/{name}")
    for key in hyper.keys() - known.keys():
        raise ConfigError(f"RecBole's {name} has no key '{key}'.{nearest(key, known)}")


def _probe(recommender: RecBoleRecommender) -> None:
    recommender.eval()
    with torch.no_grad():
        recommender.scores(torch.ones(1, 1, dtype=torch.long))
    recommender.train()


def _resize(histories: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Bring right-padded rows to exactly ``width`` columns; the oldest items of longer histories are dropped."""
    padded = nn.functional.pad(histories, (0, max(width - histories.shape[1], 0)))
    start = (lengths - width).clamp(min=0)[:, None]
    return padded.gather(1, start + torch.arange(width, device=histories.device))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
