"""``gro own mark``: from a run to a marked one, with a signed statement that commits to the secrets of its marks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gro import artifacts
from gro.cli.output import percent, show
from gro.cli.own.settings import MarkCommand
from gro.cli.progress import watch
from gro.cli.settings import Output
from gro.errors import ArtifactError, DataError
from gro.ownership import marks
from gro.ownership.commitment import seal
from gro.ownership.identity import hexadecimal, read_private
from gro.ownership.settings import MarkSettings
from gro.ownership.statement import STATEMENT, signed
from gro.ownership.verdict import SUFFIX
from gro.runs import dataset_of, device_named

MESSAGE = 16
"""Bytes of the owner's public key that a mark in the parameters says."""


def mark(settings: Mapping[str, Any], output: Output) -> int:
    """Mark a run, commit to the secrets, sign a statement."""
    command = MarkCommand.make(settings)
    evidence = command.evidence or command.out.with_name(f"{command.out.name}.evidence")
    key, artifact = read_private(command.key), artifacts.load(command.run)
    _require_new(command.out, evidence)
    sequences = dataset_of(artifact, command.data_path)
    for parent in command.parents:
        artifacts.load(parent)
    artifact.model.to(device_named(command.device))
    message = key.public_key().public_bytes_raw()[:MESSAGE]
    with watch(output, "marking", [command.epochs] * len(command.kind)) as progress:
        made = marks.mark(artifact, sequences, command.kind, command.part(MarkSettings), message, progress)
    report = marks.save(artifact, made, sequences, command.out)
    evidence.mkdir(parents=True, exist_ok=True)
    commitments = {name: seal(evidence / f"{name}{SUFFIX}", secret) for name, secret in made.secrets.items()}
    statement = signed(command.out, key, command.owner, commitments, [*command.parents, command.run])
    statement.write(evidence / STATEMENT)
    report |= {
        "run": str(command.out),
        "kinds": sorted(made.secrets),
        "statement": str(evidence / STATEMENT),
        "digest": statement.digest,
        "public_key": hexadecimal(key.public_key()),
    }
    losses = [percent(report[name]) for name in ("utility_loss", "valid_utility_loss")]
    title = (
        f"{command.out}: marked by {', '.join(report['kinds'])}\n"
        f"loss of NDCG@10: {losses[0]} % on test items, {losses[1]} % on validation items\n"
        f"publish or deposit the statement or its digest {statement.digest} now; keep the secrets and the plain run"
    )
    rows = [("statement, public", report["statement"])]
    rows += [(f"secret of {name}, mode 0600", str(evidence / f"{name}{SUFFIX}")) for name in report["kinds"]]
    return show(output, report, title, ("", "file"), rows)


def _require_new(out: Path, evidence: Path) -> None:
    """Refuse, before a training, to overwrite a run or evidence."""
    if (out / artifacts.MANIFEST).exists():
        raise ArtifactError(f"{out}: holds a run already; choose another --out")
    artifacts.require_replaceable(out)
    if (evidence / STATEMENT).exists():
        raise DataError(f"{evidence / STATEMENT}: is there already, and evidence is never overwritten")
