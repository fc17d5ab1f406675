"""Artifacts: a recommender in a folder, written whole or not at all, read only when intact.

An artifact holds ``model.safetensors`` (weights), ``items.json`` (token of every item id, position 0 is the padding)
and ``manifest.json`` (what the model is, where it comes from, and the SHA-256 of the other files and of itself).
Nothing in it is ever unpickled.
"""

from __future__ import annotations

from gro.artifacts.manifest import MANIFEST, DatasetIdentity, Manifest
from gro.artifacts.store import Artifact, load, require_replaceable, save

__all__ = ["MANIFEST", "Artifact", "DatasetIdentity", "Manifest", "load", "require_replaceable", "save"]
