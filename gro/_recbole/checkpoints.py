"""RecBole's saved models; they are pickles, and a pickle can run code when it is opened."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gro._recbole.environment import recbole_environment
from gro.errors import ArtifactError


def load_checkpoint(path: str | Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """Read the weights, on the CPU and under RecBole's names, of a ``.pth`` file.

    A file of plain tensors (``torch.save(model.state_dict(), path)``) is read safely. RecBole's own checkpoints hold
    arbitrary objects and are opened only with ``trust_pickle=True``.

    Args:
        path: the file.
        trust_pickle: open the file even though that can run any code in it; only for files of your own.

    Raises:
        ArtifactError: the file is missing, damaged, holds no weights, or is a pickle that is not trusted.
        MissingExtraError: a trusted pickle needs RecBole and it is not installed.
    """
    if not Path(path).is_file():
        raise ArtifactError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise ArtifactError(f"{path}: damaged, or not a file of torch.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        content = _unpickle(path, trust_pickle)
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        raise ArtifactError(f"{path}: cannot be read as a checkpoint: {_first_line(error)}") from None
    return _weights(content, path)


def _unpickle(path: str | Path, trusted: bool) -> Any:
    if not trusted:
        raise ArtifactError(
            f"{path}: a pickle, which can run code when it is opened; trust_pickle=True opens it if it is your own, "
            "or save torch.save(model.state_dict(), path) where it was trained and load that"
        )
    with recbole_environment():
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:  # noqa: BLE001
            raise ArtifactError(f"{path}: cannot be unpickled: {_first_line(error)}") from None


def _weights(content: Any, path: str | Path) -> dict[str, Tensor]:
    table = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(table, Mapping) or not table or not all(isinstance(weight, Tensor) for weight in table.values()):
        raise ArtifactError(f"{path}: holds no weights; right would be a state_dict or a RecBole checkpoint")
    return {str(name): weight for name, weight in table.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
