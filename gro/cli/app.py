"""The commands and their flags; nothing heavier is imported before a command runs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

from cyclopts import App, CycloptsError

from gro.audit.drill.settings import DrillCommand
from gro.cli.flags import function
from gro.cli.guard.settings import (
    AccountsCommand,
    BenchCommand,
    CalibrateCommand,
    CheckCommand,
    CreateKeyCommand,
    HoldCommand,
    InitCommand,
    ListKeysCommand,
    ReleaseCommand,
    RevokeKeyCommand,
    RotateKeyCommand,
    VerifyCommand,
)
from gro.cli.own.settings import (
    CompareCommand,
    FingerprintCommand,
    InnocentsCommand,
    KeygenCommand,
    MarkCommand,
    ReportCommand,
    SuspectCommand,
)
from gro.cli.settings import ConfigFile, DataPath, DemoCommand, Output, RecBoleFile, merge
from gro.config import (
    AttackCommand,
    EvaluateCommand,
    FrontierCommand,
    ProtectCommand,
    RateLimitCommand,
    RedteamCommand,
    ReproduceCommand,
    ServeCommand,
    Settings,
    TrainCommand,
)
from gro.errors import ConfigError, MissingExtraError
from gro.ownership.settings import TrialCommand
from gro.service.analysis.settings import AnalyseCommand
from gro_surrogates.settings import ThiefSettings


@dataclass(frozen=True)
class Command:
    """A command: the verb that runs it, its help and its settings."""

    verb: str
    """``module:function``, called with the explicit settings and the :class:`Output`."""
    doc: str
    settings: tuple[type[Settings], ...] = ()
    files: tuple[type[Settings], ...] = ()
    positional: str | None = None

    @property
    def flags(self) -> tuple[type[Settings], ...]:
        """Every class whose fields are flags of the command."""
        return (*self.settings, *self.files, Output)


COMMANDS = {
    "demo": Command(
        "gro.cli.demo:demo",
        "Protect SASRec on ml-100k, rob it, print what it cost and saved.",
        (DemoCommand,),
        (ConfigFile,),
    ),
    "datasets": Command(
        "gro.cli.datasets:datasets", "List dataset cards and what is on this machine.", (DataPath,), (ConfigFile,)
    ),
    "train": Command("gro.cli.verbs:train", "Train an undefended target.", (TrainCommand,), (ConfigFile, RecBoleFile)),
    "protect": Command(
        "gro.cli.verbs:protect",
        "Put a defence on a target: its lists teach a thief less.",
        (ProtectCommand,),
        (ConfigFile, RecBoleFile),
    ),
    "evaluate": Command(
        "gro.cli.verbs:evaluate", "Measure a run's utility on held-out items.", (EvaluateCommand,), (ConfigFile,), "run"
    ),
    "attack": Command(
        "gro.cli.verbs:attack",
        "Rob a run with a budget of calls.",
        (AttackCommand, ThiefSettings),
        (ConfigFile,),
        "run",
    ),
    "redteam": Command(
        "gro.cli.redteam:redteam",
        "Play a suite of thieves against a run; exit with 1 where the worst is above --max-advantage.",
        (RedteamCommand,),
        (ConfigFile,),
        "run",
    ),
    "rate-limit": Command(
        "gro.cli.ratelimit:ratelimit",
        "Say what thieves learn under a policy's limits, in how many days and at what cost.",
        (RateLimitCommand,),
        (ConfigFile,),
        "run",
    ),
    "serve": Command(
        "gro.cli.serve:serve",
        "Serve a run over HTTP, behind its defence and a guard.",
        (ServeCommand,),
        (ConfigFile,),
        "run",
    ),
    "frontier": Command(
        "gro.cli.machine:frontier",
        "Put defences on a plain target, play a suite against each, draw utility against the worst copy.",
        (FrontierCommand,),
        (ConfigFile,),
        "run",
    ),
    "reproduce": Command(
        "gro.cli.machine:reproduce",
        "Run an experiment's card, cell by cell, and draw its plot.",
        (ReproduceCommand,),
        (ConfigFile,),
        "card",
    ),
    "guard init": Command(
        "gro.cli.guard.setup:init",
        "Write the settings of a guard, its secret and an empty key file into a folder.",
        (InitCommand,),
        positional="folder",
    ),
    "guard check": Command(
        "gro.cli.guard.setup:check",
        "Say what a guard's settings do; exit with 1 where nobody could get in.",
        (CheckCommand,),
        positional="guard",
    ),
    "guard calibrate": Command(
        "gro.cli.guard.records:calibrate",
        "Learn from a clean query log what people do, at a stated rate of false alarms.",
        (CalibrateCommand,),
        (ConfigFile,),
        "log",
    ),
    "guard verify": Command(
        "gro.cli.guard.records:verify",
        "Check that no entry of an audit log was changed, taken out or cut off.",
        (VerifyCommand,),
        positional="log",
    ),
    "guard accounts": Command(
        "gro.cli.guard.operate:accounts",
        "List the accounts of a running guard that an alarm or a rule holds, or show one.",
        (AccountsCommand,),
        positional="account",
    ),
    "guard hold": Command(
        "gro.cli.guard.operate:hold",
        "Put an account of a running guard into a state.",
        (HoldCommand,),
        positional="account",
    ),
    "guard release": Command(
        "gro.cli.guard.operate:release",
        "Return an account of a running guard to the normal state.",
        (ReleaseCommand,),
        positional="account",
    ),
    "guard keys create": Command(
        "gro.cli.guard.keys:create", "Make a key and print it, this once.", (CreateKeyCommand,), positional="keys"
    ),
    "guard keys list": Command("gro.cli.guard.keys:listed", "List keys.", (ListKeysCommand,), positional="keys"),
    "guard keys rotate": Command(
        "gro.cli.guard.keys:rotate",
        "Make a key in the place of another, which goes on for a while.",
        (RotateKeyCommand,),
        positional="keys",
    ),
    "guard keys revoke": Command(
        "gro.cli.guard.keys:revoke", "End a key at once.", (RevokeKeyCommand,), positional="keys"
    ),
    "own keygen": Command(
        "gro.cli.own.keys:keygen",
        "Make the key pair by which an owner signs statements.",
        (KeygenCommand,),
        positional="key",
    ),
    "own innocents": Command(
        "gro.cli.own.evidence:innocents",
        "Train independent models, on which the secrets of marks are tried and likeness is measured.",
        (InnocentsCommand,),
        (ConfigFile,),
        "run",
    ),
    "own fingerprint": Command(
        "gro.cli.own.evidence:fingerprint",
        "Commit to a run's lists on secret histories that copies share, and sign a statement.",
        (FingerprintCommand,),
        (ConfigFile,),
        "run",
    ),
    "own mark": Command(
        "gro.cli.own.mark:mark",
        "Put marks into a run that pass into copies of it, commit to their secrets, and sign a statement.",
        (MarkCommand,),
        (ConfigFile,),
        "run",
    ),
    "own trial": Command(
        "gro.cli.own.trial:trial",
        "Count how often a marked run's tests claim its thefts, washed ones and independent models.",
        (TrialCommand,),
        (ConfigFile,),
        "run",
    ),
    "own verify": Command(
        "gro.cli.own.evidence:verify",
        "Say whether a suspect is shown to be a copy: an artifact, a theft or a URL.",
        (SuspectCommand,),
        (ConfigFile,),
        "suspect",
    ),
    "own compare": Command(
        "gro.cli.own.compare:compare",
        "Say whether two artifacts are the same, and how alike they are next to independent models.",
        (CompareCommand,),
        (ConfigFile,),
        "runs",
    ),
    "own report": Command(
        "gro.cli.own.report:report",
        "Write a verdict as a report for whoever decides, once it and what it rests on were checked.",
        (ReportCommand,),
        positional="verdict",
    ),
    "bench": Command("gro.cli.machine:bench", "Measure speed and memory against the plain way of doing each thing."),
    "logs analyse": Command(
        "gro.cli.logs:analyse",
        "Draw what a query log tells: who asked for what, and which accounts stand out.",
        (AnalyseCommand,),
        (ConfigFile,),
        "log",
    ),
    "guard drill": Command(
        "gro.cli.drill:drill",
        "Hold a fire drill: a suite of thieves and real users, over HTTP, against the run behind a guard.",
        (DrillCommand,),
        (ConfigFile,),
        "run",
    ),
    "guard bench": Command(
        "gro.cli.guard.bench:bench",
        "Measure the guard's cost under load against slowapi's, its memory, and a soak (Linux).",
        (BenchCommand,),
        (ConfigFile,),
    ),
    "doctor": Command("gro.cli.machine:doctor", "Check whether this machine can do what the library promises."),
}

GROUPS = {
    "guard": "Guard a ranking service: keys, calibration, operators' orders, audit log.",
    "guard keys": "Make, list, rotate and revoke the API keys of a key file.",
    "own": "Prove that a stolen copy is yours: keys, fingerprints, marks, verdicts.",
    "logs": "Read query logs: what was asked, what was shown, who stands out.",
}
"""What the commands of several words are about, by the words before the last; each after the one it belongs to."""

EXTRAS = {
    **dict.fromkeys(
        ("starlette", "fastapi", "uvicorn", "jwt", "limits", "redis", "prometheus_client", "opentelemetry"), "service"
    ),
    **dict.fromkeys(("cryptography", "rfc3161_client"), "ownership"),
}
"""The extra that brings a package."""


def run(argv: Sequence[str]) -> int:
    """Run the command that ``argv`` names and return its exit code.

    Raises:
        GroError: the command line is wrong, or the command met bad input.
    """
    try:
        command, bound, _ = build().parse_args(argv, exit_on_error=False, print_error=False, help_on_error=False)
    except CycloptsError as error:
        raise ConfigError(str(error)) from None
    return command(**bound.arguments) or 0


def build() -> App:
    """Return the application."""
    app = App(
        name="gro",
        help="Protect recommenders from model extraction: train them, rob them, measure what it costs and saves.",
        version=_version,
    )
    apps = {"": app}
    for name, doc in GROUPS.items():
        within, _, last = name.rpartition(" ")
        apps[name] = App(name=last, help=doc, sort_key=len(COMMANDS))
        apps[within].command(apps[name])
    for place, (name, command) in enumerate(COMMANDS.items()):
        call = function(partial(_invoke, command), command.doc, command.flags, command.positional)
        within, _, last = name.rpartition(" ")
        apps[within].command(call, name=last, sort_key=place)
    return app


def _invoke(command: Command, given: dict[str, Any]) -> int:
    output = Output(**_take(given, Output))
    files = {name: value for cls in command.files for name, value in _take(given, cls).items()}
    settings = merge(given, files, command.settings, command.positional)
    module, _, verb = command.verb.partition(":")
    with _logging(logging.WARNING if output.quiet else logging.INFO):
        code: int = getattr(_module(module), verb)(settings, output)
    return code


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRAS:
            raise
        raise MissingExtraError(
            f"this command needs {missing.name}: pip install 'gro[{EXTRAS[missing.name]}]'"
        ) from None


def _take(given: dict[str, Any], cls: type[Settings]) -> dict[str, Any]:
    return {name: given.pop(name) for name in cls.model_fields if name in given}


@contextmanager
def _logging(level: int) -> Iterator[None]:
    """Show what the library logs as lines on stderr; what it says of a dataset once, however often that is read."""
    logger, handler = logging.getLogger("gro"), logging.StreamHandler(sys.stderr)
    said: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        repeated = record.name.startswith("gro.data") and message in said
        said.add(message)
        return not repeated

    handler.addFilter(new)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _version() -> str:
    return metadata.version("gro")
