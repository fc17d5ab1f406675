"""``gro frontier``: utility against the worst thief's copy, for any set of defences on one plain target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gro import api, artifacts
from gro.config import DataSettings, FrontierCommand, ProtectionSettings, TrainingSettings
from gro.defenses import cards as defences
from gro.errors import ConfigError
from gro.experiments.card import Experiment, ExperimentCard, TargetCard
from gro.experiments.run import load, run
from gro.runs import Run
from gro_surrogates.suites import read_suite

PLAIN = "plain"


def frontier(told: Callable[[Mapping[str, Any]], None] = lambda row: None, **settings: Any) -> Run:
    """Put every defence on a plain target and play a suite against each; what is there is not made again.

    Args:
        told: receives each new row.
        settings: those of :class:`gro.config.FrontierCommand`.

    Returns:
        A folder with ``frontier.json``, which is the report, in the format of :func:`gro.experiments.run.run`.

    Raises:
        GroError: as :func:`gro.protect` and :func:`gro.attack`; or the run has a defence already. Cards that are wrong,
            or that cannot apply, are refused before anything is trained.
    """
    command = FrontierCommand.make(settings)
    experiment = _described(command)
    out = command.out or command.run.with_name(f"{command.run.name}.frontier")
    words = " ".join(f"--defence {defence}" for defence in command.defence)
    results = run(
        experiment,
        out / "runs",
        out,
        plain=command.run,
        command=f"gro frontier {command.run} {words} --suite {command.suite}",
        report=told,
        device=command.device,
        **({"data_path": command.data_path} if command.data_path else {}),
    )
    return Run(out, load(results))


def _described(command: FrontierCommand) -> Experiment:
    api.undefended(command.run)
    manifest = artifacts.load(command.run).manifest
    suite = read_suite(command.suite)
    settings = {**DataSettings.model_fields, **TrainingSettings.model_fields}
    made = {name: value for name, value in manifest.settings.items() if name in settings and value is not None}
    seed = int(str(made.pop("seed")))
    k = command.k or int(str(made["k"]))
    names = [Path(defence).stem for defence in command.defence]
    if len({PLAIN, *names}) <= len(names):
        raise ConfigError(
            f"two defences are called alike, or one '{PLAIN}': {', '.join(names)}; rename the file of one"
        )
    if k > manifest.n_items:
        raise ConfigError(f"k is {k}; the catalogue of {manifest.dataset.name} has {manifest.n_items} items")
    trained = {name: value for name, value in made.items() if name in TrainingSettings.model_fields}
    for defence in command.defence:
        defences.read(defence).exposes(ProtectionSettings.make({**trained, "k": k}), manifest.n_items)
    targets = [TargetCard(name=n, protection={"defence": d}) for n, d in zip(names, command.defence, strict=True)]
    about = {key: made.pop(key) for key in ("dataset", "model")}
    block = ExperimentCard.make(
        {
            **about,
            "seeds": (seed,),
            "calls": command.calls or suite.calls,
            "k": k,
            "suites": (command.suite,),
            "targets": (TargetCard(name=PLAIN), *targets),
            "training": {name: value for name, value in made.items() if name != "k"},
        },
        str(command.run),
    )
    return Experiment(name="frontier", blocks=(block,))
