"""``gro own keygen``: the key pair by which an owner signs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gro.cli.output import show
from gro.cli.own.settings import KeygenCommand
from gro.cli.settings import Output
from gro.ownership.identity import generate, read_public


def keygen(settings: Mapping[str, Any], output: Output) -> int:
    """Make an Ed25519 key pair."""
    command = KeygenCommand.make(settings)
    public = generate(command.key)
    report = {"private_key": str(command.key), "public_key_file": str(public), "public_key": read_public(public)}
    title = (
        f"public key {report['public_key']}: publish it, with its date, where it can be looked up later\n"
        f"{command.key} signs in your name and is not encrypted: keep it offline, with a copy"
    )
    rows = [("private key, mode 0600", str(command.key)), ("public key", str(public))]
    return show(output, report, title, ("", "file"), rows)
