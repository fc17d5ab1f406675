"""RecBole's YAML configuration files as settings of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gro._recbole.environment import properties_folder, require
from gro._recbole.models import properties
from gro.errors import ConfigError, nearest

_DATA = {
    "dataset": "dataset",
    "data_path": "data_path",
    "USER_ID_FIELD": "user_id_field",
    "ITEM_ID_FIELD": "item_id_field",
    "TIME_FIELD": "time_field",
    "field_separator": "field_separator",
    "user_inter_num_interval": "user_inter_num_interval",
    "item_inter_num_interval": "item_inter_num_interval",
    "val_interval": "val_interval",
    "rm_dup_inter": "rm_dup_inter",
}
_RECBOLE_KEEPS_ALL = {
    "user_inter_num_interval": "[0,inf)",
    "item_inter_num_interval": "[0,inf)",
    "rm_dup_inter": "keep",
}
_TRAINING = {
    "model": "model",
    "MAX_ITEM_LIST_LENGTH": "max_length",
    "epochs": "epochs",
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "seed": "seed",
}
_TRANSFORMER = {
    "hidden_size": "hidden_size",
    "n_layers": "n_layers",
    "n_heads": "n_heads",
    "inner_size": "inner_size",
    "hidden_dropout_prob": "dropout",
    "attn_dropout_prob": "attention_dropout",
}
_RECURRENT = {"hidden_size": "hidden_size", "embedding_size": "hidden_size"}
_ARCHITECTURE = {
    "SASRec": _TRANSFORMER,
    "BERT4Rec": {**_TRANSFORMER, "mask_ratio": "mask_ratio"},
    "GRU4Rec": {**_RECURRENT, "num_layers": "n_layers", "dropout_prob": "dropout"},
    "NARM": {**_RECURRENT, "n_layers": "n_layers"},
}
_OURS_ONLY: Mapping[str, tuple[object, ...]] = {
    "alias_of_item_id": (None,),
    "alias_of_user_id": (None,),
    "benchmark_filename": (None,),
    "filter_inter_by_user_or_item": (None, True),
    "repeatable": (None, True),
    "threshold": (None,),
}
"""Keys that change the rows or how they are ranked, and the values that stand for what is done here."""
_MODEL_ONLY: Mapping[str, tuple[object, ...]] = {"loss_type": (None, "CE"), "hidden_act": (None, "gelu")}
_SPLIT: Mapping[str, tuple[object, ...]] = {
    "split": ({"LS": "valid_and_test"},),
    "order": ("TO",),
    "group_by": ("user",),
    "mode": ("full", {"valid": "full", "test": "full"}, {"valid": "full"}, {"test": "full"}),
}
_ALSO_KNOWN = ("dataset", "model", "device", "eval_type", "config_file", "config_files")
_GENERAL = ("overall", "dataset/sample", "dataset/ml-100k")
_FLOAT = re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")


class RecBoleSettings(NamedTuple):
    """What a RecBole configuration file says, by our names."""

    data: dict[str, Any]
    """Values for :class:`gro.config.DataSettings`."""
    training: dict[str, Any]
    """Values for :class:`gro.config.TrainingSettings`; only the keys that the file gives."""
    hyper: dict[str, Any]
    """The model's own keys under RecBole's names, for :func:`gro._recbole.build`."""


def read_config(path: str | Path) -> RecBoleSettings:
    """Read a RecBole configuration file; nothing in it is evaluated.

    Keys that the file leaves out keep our defaults, but filters that it leaves out are RecBole's: no row is dropped.
    ``train_batch_size`` counts rows, one per prefix, and becomes as many windows as hold that many prefixes;
    ``stopping_step`` becomes a patience of one more epoch, since RecBole stops after it is exceeded. RecBole reads
    ml-100k from its own folder whatever ``data_path`` says, and so does this.

    Raises:
        ConfigError: the file is missing or no YAML (with the line), a key is unknown to RecBole, or it asks for rows, a
            split or a model that the library does not have.
        MissingExtraError: RecBole is not installed.
    """
    values = _load(Path(path))
    try:
        _check_keys(values)
        _check_values(values)
        return RecBoleSettings(_data(values), _training(values), _hyper(values))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _load(path: Path) -> dict[str, Any]:
    yaml = require("yaml")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader(yaml))
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a UTF-8 file: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, error.problem or error.context
        raise ConfigError(f"{path}:{mark.line + 1}: not YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: right would be lines such as 'model: SASRec'")
    return {str(key): value for key, value in values.items()}


def _loader(yaml: Any) -> Any:
    """Make a safe loader that reads ``1e-3`` as a number, as RecBole's loader does."""
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
    return loader


def _check_keys(values: Mapping[str, Any]) -> None:
    general = {*_ALSO_KNOWN, *_DATA, *(key for name in _GENERAL for key in properties(name))}
    own = properties(f"model/{values.get('model', 'SASRec')}").keys()
    for key in values.keys() - general - own:
        if key not in _keys_of_other_models():
            raise ConfigError(f"RecBole has no key '{key}'.{nearest(key, general | own)}")


def _keys_of_other_models() -> set[str]:
    files = properties_folder().glob("model/*.yaml")
    return {key for file in files for key in properties(f"model/{file.stem}")}


def _check_values(values: Mapping[str, Any]) -> None:
    evaluation = values.get("eval_args") or {}
    if not isinstance(evaluation, dict):
        raise ConfigError(f"'eval_args' is {evaluation!r}: right would be a table such as {{order: TO}}")
    known = _SPLIT.keys()
    for key in evaluation.keys() - known:
        raise ConfigError(f"'eval_args' has no key '{key}'.{nearest(str(key), known)}")
    _require_supported(evaluation, _SPLIT, "eval_args.")
    _require_supported(values, _OURS_ONLY, "")
    if values.get("model") in _ARCHITECTURE:
        _require_supported(values, _MODEL_ONLY, "")


def _require_supported(values: Mapping[str, Any], supported: Mapping[str, tuple[object, ...]], prefix: str) -> None:
    for key, allowed in supported.items():
        if key in values and values[key] not in allowed:
            raise ConfigError(f"'{prefix}{key}' is {values[key]!r}: only {allowed[-1]!r} is supported")


def _data(values: Mapping[str, Any]) -> dict[str, Any]:
    given = {ours: values[key] for key, ours in _DATA.items() if values.get(key) is not None}
    if given.get("dataset") == "ml-100k":
        given.pop("data_path", None)
    if given.get("rm_dup_inter") is False:
        del given["rm_dup_inter"]
    return _RECBOLE_KEEPS_ALL | given


def _training(values: Mapping[str, Any]) -> dict[str, Any]:
    training = {ours: values[key] for key, ours in _TRAINING.items() if values.get(key) is not None}
    for key, ours in _ARCHITECTURE.get(str(values.get("model", "SASRec")), {}).items():
        if values.get(key) is not None:
            _set(training, ours, values[key], key)
    if isinstance(probabilities := values.get("dropout_probs"), list) and values.get("model") == "NARM":
        for probability in probabilities:
            _set(training, "dropout", probability, "dropout_probs")
    if (rows := _count(values, "train_batch_size")) is not None:
        training["batch_size"] = -(-rows // (_count(values, "MAX_ITEM_LIST_LENGTH") or 50))
    if (steps := _count(values, "stopping_step")) is not None:
        training["patience"] = steps + 1
    return training


def _set(training: dict[str, Any], ours: str, value: Any, key: str) -> None:
    if training.setdefault(ours, value) != value:
        raise ConfigError(
            f"'{key}' is {value!r} beside {training[ours]!r}: here both are one '{ours}'; make them equal"
        )


def _count(values: Mapping[str, Any], key: str) -> int | None:
    value = values.get(key)
    if value is not None and (not isinstance(value, int) or value < 0):
        raise ConfigError(f"'{key}' is {value!r}: right would be a whole number")
    return value


def _hyper(values: Mapping[str, Any]) -> dict[str, Any]:
    own = properties(f"model/{values['model']}") if "model" in values else {}
    return {key: value for key, value in values.items() if key in own}
