"""``gro own innocents``, ``fingerprint`` and ``verify``: from independent models to a verdict."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from random import SystemRandom
from typing import Any, Final

from gro import artifacts
from gro.artifacts.manifest import ITEMS
from gro.cli.output import ABSENT, percent, show
from gro.cli.own.settings import FingerprintCommand, InnocentsCommand, SuspectCommand
from gro.cli.progress import watch
from gro.cli.settings import Output
from gro.config import TrainingSettings
from gro.errors import ConfigError, DataError
from gro.ownership import fingerprint as prints
from gro.ownership.calibration import OTHERS, TOGETHER
from gro.ownership.commitment import seal
from gro.ownership.identity import read_private, read_public
from gro.ownership.population import Innocent, population, raise_innocent, strata
from gro.ownership.statement import STATEMENT, signed, verified
from gro.ownership.suspect import Inconclusive, suspected
from gro.ownership.verdict import ASKED, LIKENESS, LOOKED_AT, SUFFIX, Verdict, committed, judge, references
from gro.runs import dataset_of, device_named
from gro.service.access.files import PRIVATE, read_trusted

LINES_EVERY: Final = 50
TEST_COLUMNS: Final = ("test", "beside", "suspect", "mean there", "highest", "effect", "p")


def innocents(settings: Mapping[str, Any], output: Output) -> int:
    """Train independent models, or as many of them as are not there yet."""
    command = InnocentsCommand.make(settings)
    owner = artifacts.load(command.run)
    sequences, device = dataset_of(owner, command.data_path), device_named(command.device)
    recipe = _recipe(owner.manifest.settings, command)
    for number in range(command.count):
        with watch(output, f"innocent {number + 1} of {command.count}", [recipe.epochs]) as progress:
            out = command.out / f"innocent-{number:04d}"
            raise_innocent(number, owner, sequences, recipe, command.seed, out, command.copy_calls, device, progress)
    found = strata(command.out)
    report = {"folder": str(command.out), "strata": found}
    rows = [(name, str(each["innocents"]), str(each["good"]), percent(each["quality"])) for name, each in found.items()]
    title = f"{command.out}: independent models; good ones are not much worse than the owner's"
    return show(output, report, title, ("stratum", "models", "good", "mean NDCG@10, % of the owner's"), rows)


def fingerprint(settings: Mapping[str, Any], output: Output) -> int:
    """Choose secret histories, commit to the lists after them, sign a statement."""
    command = FingerprintCommand.make(settings)
    key, owner = read_private(command.key), artifacts.load(command.run)
    if (command.out / STATEMENT).exists():
        raise DataError(f"{command.out / STATEMENT}: is there already, and evidence is never overwritten")
    found = population(command.innocents, owner.manifest.files[ITEMS])
    drawn = prints.in_turn(found, command.references, SystemRandom())
    sequences = dataset_of(owner, command.data_path)
    made = [prints.made(owner, sequences, drawn, kind=kind, probes=command.probes) for kind in prints.KINDS]
    command.out.mkdir(parents=True, exist_ok=True)
    secrets = {each.name: command.out / f"{each.name}{SUFFIX}" for each in made}
    commitments = {each.name: seal(secrets[each.name], each.secret()) for each in made}
    statement = signed(command.run, key, command.owner, commitments, command.parents)
    statement.write(command.out / STATEMENT)
    report = {
        "statement": str(command.out / STATEMENT),
        "digest": statement.digest,
        "secrets": {name: str(path) for name, path in secrets.items()},
        "probes": command.probes,
        "references": len(drawn),
        "calls": sum(each.calls for each in made),
    }
    title = (
        f"a verdict takes up to {report['calls']:,} calls\n"
        f"publish or deposit the statement or its digest {statement.digest} now; keep the secrets"
    )
    rows = [("statement, public", str(command.out / STATEMENT))]
    rows += [("secret, mode 0600", str(path)) for path in secrets.values()]
    return show(output, report, title, ("", "file"), rows)


def verify(settings: Mapping[str, Any], output: Output) -> int:
    """Ask a suspect and say whether it is shown to be a copy; 0 whatever the verdict, which the report says."""
    command = SuspectCommand.make(settings)
    public_key = None if command.public_key is None else read_public(command.public_key)
    statement = verified(command.statement, None, public_key)
    secrets = command.secrets or command.statement.parent
    likeness = committed(statement, secrets, LIKENESS) if command.innocents else []
    innocents = _innocents(command, statement.artifact.catalogue, references(likeness))
    try:
        suspect = suspected(
            command.suspect,
            statement.artifact.items,
            statement.artifact.catalogue,
            k=command.k,
            budget=command.calls,
            key=_api_key(command),
            patience=command.wait,
        )
        marks = committed(statement, secrets, ASKED if suspect.inside is None else LOOKED_AT)
        told = partial(_tell, output, len(innocents))
        verdict = judge(suspect, marks, likeness, innocents, alpha=command.alpha, told=told)
    except Inconclusive as why:
        verdict = Verdict("inconclusive", str(why), command.alpha, 0)
    report = {
        "suspect": command.suspect,
        "owner": statement.owner,
        "statement": statement.digest,
        "signed_at": statement.signed_at,
        **verdict.report(),
    }
    title = "\n".join(
        [
            f"{command.suspect}: {verdict.verdict}",
            verdict.reason,
            f"{verdict.calls:,} calls; a claim is false with a probability of at most {verdict.alpha:g}",
        ]
    )
    found = {**verdict.tests, **({TOGETHER: verdict.together} if verdict.together else {}), **verdict.likeness}
    return show(output, report, title, TEST_COLUMNS, [_row(name, each) for name, each in found.items()])


def _recipe(trained: Mapping[str, Any], command: InnocentsCommand) -> TrainingSettings:
    """The owner's training settings, but for what the command says."""
    own = {name: value for name, value in trained.items() if name in TrainingSettings.model_fields}
    given = {name: getattr(command, name) for name in ("epochs", "patience", "batch_size", "stride", "learning_rate")}
    return TrainingSettings.make({**own, **{name: value for name, value in given.items() if value is not None}})


def _api_key(command: SuspectCommand) -> str | None:
    if command.key_file is None:
        return None
    key = read_trusted(command.key_file, PRIVATE)[0].decode("ascii", "replace").strip()
    if not (key and key.isascii() and key.isprintable()):
        raise ConfigError(f"{command.key_file}: holds no API key")
    return key


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    strata = found["strata"].values()
    effect = ABSENT if found["effect"] is None else f"{found['effect']:.1f}"
    return (
        name,
        "innocents" if found["nearest"] != OTHERS else OTHERS,
        f"{found['statistic']:.3f}",
        f"{found['strata'][found['nearest']]['mean']:.3f}",
        f"{max(stratum['highest'] for stratum in strata):.3f}",
        effect,
        f"{found['p_value']:.3g}",
    )


def _innocents(command: SuspectCommand, catalogue: str, without: set[str]) -> list[Innocent]:
    return population(command.innocents, catalogue, without) if command.innocents else []


def _tell(output: Output, of: int, done: int) -> None:
    if not output.quiet and done % LINES_EVERY == 0:
        sys.stderr.write(f"{done} of {of} innocents asked\n")
        sys.stderr.flush()
