"""Calibrations as files: arrays without pickle, sealed with what they rest on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gro.config import PositiveInt, Settings
from gro.errors import ConfigError, DataError
from gro.service.monitor.accounts import FEATURES
from gro.service.monitor.background import Background
from gro.service.monitor.calibration import POINTS, Calibration
from gro.service.monitor.detector import Detector

FORMAT: Final = "gro-calibration-1"
ARRAYS: Final = {
    "items": np.dtype(np.int64),
    "vectors": np.dtype(np.float32),
    "references": np.dtype(np.int64),
    "calls": np.dtype(np.float64),
    "means": np.dtype(np.float64),
    "covariances": np.dtype(np.float64),
}


class About(Settings):
    """What a calibration rests on; the metadata of its file."""

    features: tuple[str, ...]
    threshold: float = Field(gt=0, allow_inf_nan=False)
    false_alarms: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    accounts: PositiveInt
    ignored: tuple[str, ...]


def write(path: Path, calibration: Calibration) -> None:
    """Write a calibration, whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    background, detector = calibration.background, calibration.detector
    arrays = {
        "items": background.items,
        "vectors": background.vectors,
        "references": background.references,
        "calls": detector.calls,
        "means": detector.means,
        "covariances": detector.covariances,
    }
    about = About(
        features=tuple(FEATURES),
        threshold=detector.threshold,
        false_alarms=calibration.false_alarms,
        confidence=calibration.confidence,
        accounts=calibration.accounts,
        ignored=detector.ignored,
    )
    content = save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        metadata={"format": FORMAT, "about": about.model_dump_json()},
    )
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from None


def read(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        DataError: it is missing, damaged, foreign or of another version.
    """
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a calibration of the guard: {error}") from None
    if metadata.get("format") != FORMAT:
        raise DataError(f"{path}: its format is {metadata.get('format')!r}; this gro reads {FORMAT!r}")
    try:
        about = About.make(json.loads(metadata["about"]), str(path))
    except (KeyError, ValueError, TypeError, ConfigError) as error:
        raise DataError(f"{path}: damaged: {error}") from None
    if {name: array.dtype for name, array in arrays.items()} != ARRAYS or about.features != tuple(FEATURES):
        raise DataError(f"{path}: made by another version of gro; make it anew with 'gro guard calibrate'")
    _check(path, arrays)
    return Calibration(
        Background(arrays["items"], arrays["vectors"], arrays["references"]),
        Detector(arrays["calls"], arrays["means"], arrays["covariances"], about.threshold, about.ignored),
        about.false_alarms,
        about.confidence,
        about.accounts,
    )


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    n, points, n_features = len(arrays["items"]), len(arrays["calls"]), len(FEATURES)
    fits = (
        arrays["vectors"].ndim == 2
        and len(arrays["vectors"]) == n
        and points >= 2
        and set(arrays["calls"].tolist()) <= set(POINTS)
        and arrays["means"].shape == (points, n_features)
        and arrays["covariances"].shape == (points, n_features, n_features)
        and bool(((arrays["references"] >= 0) & (arrays["references"] < n)).all())
        and all(bool(np.isfinite(array).all()) for array in arrays.values())
        and all(bool((np.diff(arrays[name]) > 0).all()) for name in ("items", "calls"))
    )
    if not fits:
        raise DataError(f"{path}: damaged: its parts do not fit together")
