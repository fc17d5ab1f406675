"""The pytest plugin: one fixture, and nothing heavy is imported until a test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest


@pytest.fixture(scope="session")
def assert_not_stealable() -> Callable[..., dict[str, Any]]:
    """Return :func:`gro.testing.assert_not_stealable`: fails the test where a thief gets too much out of a run."""
    asserting: Callable[..., dict[str, Any]] = import_module("gro.testing").assert_not_stealable
    return asserting
