"""``gro own report``: a verdict, told to somebody who decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gro.cli.output import show
from gro.cli.own.settings import ReportCommand
from gro.cli.settings import Output
from gro.errors import ConfigError
from gro.ownership import evidence
from gro.ownership.identity import read_public
from gro.ownership.report import write
from gro.ownership.statement import Statement, verified
from gro.ownership.timestamp import Proof, proven_time


def report(settings: Mapping[str, Any], output: Output) -> int:
    """Check a verdict and what it rests on, and write the report."""
    command = ReportCommand.make(settings)
    public_key = None if command.public_key is None else read_public(command.public_key)
    statement = verified(command.statement, None, public_key)
    proof = _proof(command, statement)
    found = evidence.read(command.verdict, statement)
    write(command.out, found, proof, known=public_key is not None)
    checked = {
        "report": str(command.out),
        "verdict": found.verdict.verdict,
        "owner_key_checked": public_key is not None,
        "proven_time": None if proof is None else proof.time.isoformat(),
    }
    rows = [
        ("signature of the statement", "good"),
        ("the owner's key", "as given" if public_key else "not checked: give --public-key"),
        ("proven date", "none: give --token and --authority" if proof is None else proof.time.isoformat()),
        ("p-values", "counted again"),
    ]
    return show(output, checked, f"{found.verdict.verdict}: read {command.out}", ("checked", ""), rows)


def _proof(command: ReportCommand, statement: Statement) -> Proof | None:
    if command.token is None and command.authority is None:
        return None
    if command.token is None or command.authority is None:
        raise ConfigError("a time-stamp is checked with both --token and --authority")
    return proven_time(command.token, command.authority, statement.content)
