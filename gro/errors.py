"""Errors a user can mend: one line that says what is wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GroError(Exception):
    """Base of every error that the command line reports as one line with exit code 2."""


class ConfigError(GroError):
    """A setting is unknown, ill-typed, out of range or contradicts another."""


class DataError(GroError):
    """A dataset is missing, malformed or empty after filtering."""


class ArtifactError(GroError):
    """A saved model or training state is missing, damaged or foreign."""


class MissingExtraError(GroError):
    """An optional package is needed and not installed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name closest to ``name``, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean '{by_lower[close[0]]}'?" if close else ""
