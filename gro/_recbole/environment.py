"""Containment: what RecBole 1.2.1 needs is supplied while it runs, and what it changes in the process is undone."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import random
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import scipy.sparse
import torch

from gro.errors import MissingExtraError

INSTALL = ("pip install gro[recbole]", "pip install --no-deps recbole==1.2.1")
"""RecBole is installed in two lines: it asks for a ray that has no wheels from Python 3.12 on and is not used here."""

PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "recbole": "recbole",
        "yaml": "pyyaml",
        "tqdm": "tqdm",
        "colorlog": "colorlog",
        "colorama": "colorama",
        "sklearn": "scikit-learn",
        "tensorboard": "tensorboard",
        "texttable": "texttable",
    }
)
"""Modules that RecBole imports without :mod:`recbole.quick_start`, and the packages they come in."""

_NUMPY_NAMES = {
    "float_": np.float64,
    "complex_": np.complex128,
    "unicode_": np.str_,
    "bool": np.bool_,
    "int": np.int_,
    "float": np.float64,
    "complex": np.complex128,
    "object": np.object_,
    "str": np.str_,
    "long": np.int_,
    "unicode": np.str_,
}
_LOCK = threading.RLock()


def missing_packages() -> list[str]:
    """Names of the packages that RecBole needs and that are not installed."""
    return [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]


def require(module: str) -> ModuleType:
    """Import a module of RecBole or of the packages it stands on.

    Raises:
        MissingExtraError: one of them is not installed; the error says which and how to install it.
    """
    if missing := missing_packages():
        raise MissingExtraError(f"RecBole needs {', '.join(missing)}: install with '{' && '.join(INSTALL)}'")
    return importlib.import_module(module)


def properties_folder() -> Path:
    """Folder of the YAML files that hold RecBole's keys and their default values."""
    require("recbole")
    import recbole  # noqa: PLC0415

    return Path(recbole.__path__[0], "properties")


@contextmanager
def recbole_environment() -> Iterator[None]:
    """Run RecBole inside; whatever it touches in the process is as before afterwards, also after an exception.

    Supplied where missing: the NumPy names RecBole uses and SciPy's ``dok_matrix._update``. Restored: ``sys.argv``
    (RecBole sees no arguments of the host), ``sys.stdout``, ``sys.stderr``, the environment variables, the NumPy names
    that RecBole's ``Config`` rebinds, the resolvers it adds to ``yaml.FullLoader``, the random states of ``random``,
    NumPy and torch, cuDNN's flags, autograd's anomaly detection (which importing RecBole's SINE switches on, and which
    slows every backward pass), the root logger's level, filters and handlers, and the warning filters.

    One thread at a time; may be nested.

    Raises:
        MissingExtraError: RecBole or a package it needs is not installed.
    """
    with _LOCK, ExitStack() as stack:
        for part in (_system, _variables, _numpy, _scipy, _yaml, _random_states, _torch_flags, _root_logger, _warnings):
            stack.enter_context(part())
        yield


@contextmanager
def kept(owner: Any, *names: str) -> Iterator[None]:
    """Restore the named attributes of ``owner`` afterwards; those it did not have are removed."""
    before = {name: vars(owner)[name] for name in names if name in vars(owner)}
    try:
        yield
    finally:
        for name in names:
            if name in before:
                setattr(owner, name, before[name])
            elif name in vars(owner):
                delattr(owner, name)


@contextmanager
def _system() -> Iterator[None]:
    with kept(sys, "argv", "stdout", "stderr"):
        sys.argv = sys.argv[:1] or ["gro"]
        yield


@contextmanager
def _variables() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _numpy() -> Iterator[None]:
    with kept(np, *_NUMPY_NAMES):
        for name in _NUMPY_NAMES.keys() - vars(np).keys():
            setattr(np, name, _NUMPY_NAMES[name])
        yield


@contextmanager
def _scipy() -> Iterator[None]:
    matrix: Any = scipy.sparse.dok_matrix
    with kept(matrix, "_update"):
        if not hasattr(matrix, "_update"):
            matrix._update = lambda self, data: self._dict.update(data)  # noqa: SLF001
        yield


@contextmanager
def _yaml() -> Iterator[None]:
    loader = require("yaml").FullLoader
    with kept(loader, "yaml_implicit_resolvers"):
        loader.yaml_implicit_resolvers = {key: list(found) for key, found in loader.yaml_implicit_resolvers.items()}
        yield


@contextmanager
def _random_states() -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda: Any = torch.cuda
    gpus = cuda.get_rng_state_all() if cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        cuda.set_rng_state_all(gpus)


@contextmanager
def _torch_flags() -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    benchmark, deterministic = cudnn.benchmark, cudnn.deterministic
    anomaly, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic
        torch.set_anomaly_enabled(anomaly, check_nan)


@contextmanager
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    with kept(root, "handlers", "filters"):
        before = root.handlers
        root.handlers, root.filters = [*before], [*root.filters]
        try:
            yield
        finally:
            root.setLevel(level)
            for handler in set(root.handlers).difference(before):
                handler.close()


@contextmanager
def _warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
