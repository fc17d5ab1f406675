"""The verbs of the library, which are also the commands of ``gro``.

Settings are keyword arguments; each verb names the class of :mod:`gro.config` that lists and validates them. Every verb
returns a :class:`Run`, whose report is what ``--json`` prints. All metrics are fractions.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gro import artifacts
from gro.artifacts import Artifact
from gro.config import (
    AttackCommand,
    DataSettings,
    EvaluateCommand,
    ModelSettings,
    ProtectCommand,
    ProtectionSettings,
    RedteamCommand,
    Settings,
    SettingsT,
    TrainCommand,
    TrainingSettings,
)
from gro.data import HeldOut, Sequences, dataset_card, load
from gro.defenses import cards as defences
from gro.defenses.cards import Defence
from gro.defenses.served import defence_of, digest, exposed_by, served
from gro.defenses.shadows import shadow_targets
from gro.defenses.training import PaperTraining, Training
from gro.errors import ArtifactError, ConfigError
from gro.evaluation import theft_report, utility_report
from gro.metrics import CUTOFFS, IntArray, ndcg, utility
from gro.models import Popularity, Recommender, StateRecommender, build
from gro.optimizer.plain import fit
from gro.ranking import ranks
from gro.serving import RankingService
from gro.training import Progress, Quiet
from gro_surrogates.cards import thief_settings
from gro_surrogates.fusion import RankFusion
from gro_surrogates.inversion import Shadows
from gro_surrogates.knowledge import held_histories
from gro_surrogates.thief import Thief, clone_folder

logger = logging.getLogger(__name__)

MACHINE = {"out", "device", "data_path", "run", "from_"}
"""Settings that say where, not what: they do not tell one run from another."""
PLACES = "places"


@dataclass(frozen=True)
class Run:
    """What a verb made: a folder and a report.

    Of a theft also the place of each test user's next item in the ranking of the target, the copy and the floor.
    """

    path: Path
    report: dict[str, Any]
    places: dict[str, list[int]] = field(default_factory=dict)

    @property
    def model(self) -> StateRecommender:
        """The recommender in the folder."""
        return artifacts.load(self.path).model


def complete(command: type[SettingsT], settings: Mapping[str, Any]) -> SettingsT:
    """Validate a command's settings; where they say nothing, the plain target or the dataset's card does.

    Raises:
        GroError: a setting is unknown or out of range, or the plain target cannot be read.
    """
    card = dataset_card(str(settings.get("dataset")))
    suggested: dict[str, Any] = dict(card.suggested) if card else {}
    if plain := settings.get("from") or settings.get("from_"):
        suggested |= artifacts.load(Path(plain)).manifest.model.model_dump()
    known = {name: value for name, value in suggested.items() if name in command.model_fields}
    return command.make({**known, **settings})


def train(progress: Progress | None = None, **settings: Any) -> Run:
    """Train an undefended recommender; see :class:`gro.config.TrainCommand`.

    A run that was interrupted goes on where it stopped; one that is finished is returned as it is.

    Raises:
        GroError: a setting, the dataset or what lies at ``out`` is not as it must be.
    """
    command = complete(TrainCommand, settings)
    return _finished(command.out, command) or _train(command, load(command), progress or Quiet())


def protect(progress: Progress | None = None, **settings: Any) -> Run:
    """Put a defence on a recommender, GRO unless another is named; see :class:`gro.config.ProtectCommand`.

    Starts from the plain target ``from_``, or trains one as ``OUT.plain``. Resumes like :func:`train`. The report's
    "target" is measured as it will be served, its "utility_loss_at" says what the defence costs at every cutoff.

    Raises:
        GroError: as :func:`train`; or the plain target is of another dataset or architecture, or the defence's card is
            wrong or cannot apply.
    """
    command = complete(ProtectCommand, settings)
    defence = defences.read(command.defence)
    _require_meant(settings, defence)
    described = {**_identity(command), "defence_card": defence.table()}
    if finished := _finished_as(command.out, described):
        return finished
    sequences = load(command)
    _require_possible_k(command, sequences)
    k = defence.exposes(command, sequences.n_items)
    plain = _plain_target(command, sequences, progress or Quiet())
    defence = defence.keyed(sequences, command.seed)
    trained = Training(
        plain=plain,
        sequences=sequences,
        settings=command.part(ProtectionSettings),
        secret=defence.key,
        folder=command.out,
        progress=progress or Quiet(),
    )(defence.training)
    defence = defence.fitted(trained.target, sequences)
    target = defence.before(trained.target, command.k, command.seed)
    before, after = (ranks(model, sequences.test) for model in (plain, target))
    losses = {str(cutoff): _lost(before, after, cutoff) for cutoff in (*CUTOFFS, 50, 100) if cutoff <= k}
    report = {
        "defence": defence.name,
        "exposed": k,
        "target": utility(after),
        "plain": utility(before),
        "utility_loss": _lost(before, after, 10),
        "utility_loss_at": losses,
        **trained.report,
    }
    return _save(command, trained.members, sequences, report, described, defence.table())


def evaluate(**settings: Any) -> Run:
    """Measure a run's utility on held-out items, and the floor's; see :class:`gro.config.EvaluateCommand`.

    Raises:
        GroError: the artifact or its dataset is missing or not the one it was made from.
    """
    command = EvaluateCommand.make(settings)
    artifact = artifacts.load(command.run)
    sequences = _dataset(artifact, command.data_path)
    k = _lists_of(artifact)
    target = served(artifact, k, command.seed, _device(command.device))
    report = {
        "dataset": sequences.name,
        "users": sequences.n_users,
        "model": artifact.manifest.model.model,
        "k": exposed_by(target, k),
        "seed": command.seed,
        "target": utility_report(target, sequences.test, command.seed),
        "floor": utility_report(Popularity(sequences.train), sequences.test, command.seed),
    }
    return Run(command.run, report)


def attack(progress: Progress | None = None, **settings: Any) -> Run:
    """Rob a run; see :class:`gro.config.AttackCommand`. Other settings override those of the thief's card.

    The thief sees the target through a :class:`gro.serving.RankingService` alone. A theft that was interrupted goes on
    where it stopped, from the answers it had recorded.

    Raises:
        GroError: as :func:`evaluate`; or the thief's card or settings are wrong, or the budget is too small.
    """
    own = {key: value for key, value in settings.items() if key in AttackCommand.model_fields}
    command = AttackCommand.make(own)
    artifact = artifacts.load(command.run)
    overrides = {key: value for key, value in settings.items() if key not in own}
    card = thief_settings(command.thief, {"max_length": artifact.model.max_length, **overrides})
    out = command.out or _theft_folder(command, overrides)
    behind = digest(artifact) or ""
    described = {**_identity(command), **card.model_dump(mode="json"), "target": artifact.manifest.files}
    described |= {"behind": behind} if behind else {}
    if finished := _finished_as(out, described):
        return _theft(out, finished.report)
    for number in range(1, len(card.clones)):
        artifacts.require_replaceable(clone_folder(out, number))
    sequences = _dataset(artifact, command.data_path)
    device = _device(command.device)
    k = command.k or _lists_of(artifact)
    target, asked = (served(artifact, k, command.seed, device) for _ in range(2))  # asking draws the noise of calls
    service = RankingService(asked, exposed_by(asked, k))
    length = card.sequence_length or card.max_length
    thief = Thief(
        settings=card,
        device=device,
        folder=out,
        progress=progress or Quiet(),
        victim=f"{artifact.manifest.files} k {service.k}{behind}",
        held=held_histories(sequences.train, card.known, length, command.seed) if card.known else None,
        recordings=_thefts(command.run) / "answers",
        shadows=_shadows(artifact, device),
    )
    theft = thief(service, sequences.n_items, command.calls, command.seed)
    if theft.faults.any:
        logger.warning("%s: of %s answers: %s", command.run, f"{theft.calls:,}", theft.faults)
    interactions = np.bincount(sequences.train.items, minlength=sequences.n_items + 1)[1:]
    floors = _floors(thief, sequences, command.seed)
    report = {
        "dataset": sequences.name,
        "users": sequences.n_users,
        "model": artifact.manifest.model.model,
        "thief": Path(command.thief).stem,
        "knowledge": card.knowledge,
        "known": card.known,
        "k": service.k,
        "calls": theft.calls,
        "faults": asdict(theft.faults),
        "held_out_agreement@10": [log.best["held_out_agreement@10"] for log in theft.logs],
        "seed": command.seed,
        **theft_report(target, theft.surrogate, floors, sequences.test, interactions),
    }
    for number, clone in reversed(list(enumerate(theft.clones))):
        architecture = card.clones[number] if card.clones else card.model
        artifacts.save(
            clone_folder(out, number),
            model=clone,
            settings=card.model_copy(update={"model": architecture, "max_length": clone.max_length}),
            item_tokens=artifact.item_tokens,
            dataset=artifact.manifest.dataset.model_dump(),
            seed=command.seed,
            command=described,
            metrics=report,
        )
    return _theft(out, report)


def stolen_copy(theft: Path) -> StateRecommender | RankFusion:
    """The copy that :func:`attack` left in a folder: a model, or the clones of an ensemble fused by rank.

    Raises:
        ArtifactError: a clone is missing or damaged.
    """
    first = artifacts.load(theft)
    number = len(first.manifest.settings.get("clones") or ())  # type: ignore[arg-type]
    others = [artifacts.load(clone_folder(theft, place)).model for place in range(1, number)]
    return RankFusion([first.model, *others]) if others else first.model


def undefended(run: Path) -> dict[str, float]:
    """Utility of a plain target on test users, as :func:`train` found it.

    Raises:
        ArtifactError: the run is missing, damaged or not a plain target.
    """
    manifest = artifacts.load(run).manifest
    if manifest.defence is not None:
        raise ArtifactError(f"{run}: has a defence already; give the plain target that it was made from")
    return dict(manifest.metrics["target"])  # type: ignore[arg-type]


def robbed(command: AttackCommand | RedteamCommand) -> tuple[Recommender, HeldOut]:
    """The target that a command is about, as it is served, and the held-out items to measure it on.

    Raises:
        GroError: as :func:`evaluate`.
    """
    artifact = artifacts.load(command.run)
    k = command.k or _lists_of(artifact)
    return served(artifact, k, command.seed, _device(command.device)), _dataset(artifact, command.data_path).test


def _theft(out: Path, metrics: Mapping[str, Any]) -> Run:
    return Run(out, {key: value for key, value in metrics.items() if key != PLACES}, dict(metrics[PLACES]))


def _shadows(artifact: Artifact, device: torch.device) -> Shadows | None:
    """How a thief who knows the target's defence rehearses it; ``None`` for a plain target."""
    defence = defence_of(artifact)
    if defence is None:
        return None
    settings = artifact.manifest.settings
    known = ProtectionSettings.make({k: v for k, v in settings.items() if k in ProtectionSettings.model_fields})
    n_items = artifact.model.n_items
    return lambda histories, seed: shadow_targets(histories, n_items, defence, known, seed, device)


def _floors(thief: Thief, sequences: Sequences, seed: int) -> dict[str, Recommender]:
    """What the thief could have had without a call: we grant it popularity, and what its real histories teach."""
    own = thief.without_calls(sequences.n_items, seed)
    return {"popularity": Popularity(sequences.train), **({"own data": own} if own is not None else {})}


def _train(command: TrainCommand, sequences: Sequences, progress: Progress) -> Run:
    model = _new(command, sequences)
    log = fit(model, sequences, command.part(TrainingSettings), folder=command.out, progress=progress)
    report = {"target": utility(ranks(model, sequences.test)), "epoch": log.best_epoch, "valid": log.best}
    return _save(command, [model], sequences, report, {})


def _plain_target(command: ProtectCommand, sequences: Sequences, progress: Progress) -> StateRecommender:
    if command.from_ is None:
        out = command.out.with_name(f"{command.out.name}.plain")
        fields = {name: getattr(command, name) for name in TrainCommand.model_fields}
        plain = TrainCommand.make({**fields, "out": out})
        run = _finished(out, plain) or _train(plain, sequences, progress)
        return run.model.to(_device(command.device))
    artifact = artifacts.load(command.from_)
    if artifact.manifest.dataset.digest != sequences.digest:
        raise ArtifactError(f"{command.from_}: made from other interactions than {sequences.name} as it is read now")
    if artifact.manifest.model != command.part(ModelSettings):
        raise ConfigError(f"{command.from_}: has another architecture or size; give the settings that it was made with")
    return artifact.model.to(_device(command.device))


def _new(command: TrainCommand, sequences: Sequences) -> StateRecommender:
    _require_possible_k(command, sequences)
    return build(command, sequences.n_items, seed=command.seed).to(_device(command.device))


def _require_possible_k(command: TrainCommand | ProtectCommand, sequences: Sequences) -> None:
    if command.k > sequences.n_items:
        raise ConfigError(f"k is {command.k}; the catalogue of {sequences.name} has {sequences.n_items} items")


def _require_meant(settings: Mapping[str, Any], defence: Defence) -> None:
    """Refuse switches of GRO that a defence which does not train by it would ignore."""
    switches = ProtectionSettings.model_fields.keys() - TrainingSettings.model_fields.keys()
    if not isinstance(defence.training, PaperTraining) and (given := sorted(switches & settings.keys())):
        raise ConfigError(f"{given[0]} is a switch of GRO, by which the defence '{defence.name}' does not train")


def _lost(before: IntArray, after: IntArray, k: int) -> float | None:
    """Relative loss of NDCG@k, of places of the same held-out items."""
    was, now = (float(ndcg(places, k).mean()) for places in (before, after))
    return 1 - now / was if was else None


def _save(
    command: TrainCommand | ProtectCommand,
    models: Sequence[StateRecommender],
    sequences: Sequences,
    report: dict[str, Any],
    described: Mapping[str, Any],
    defence: Mapping[str, Any] | None = None,
) -> Run:
    about = {"dataset": sequences.name, "users": sequences.n_users, "model": command.model}
    report = {**about, "k": command.k, "seed": command.seed, **report}
    artifacts.save(
        command.out,
        model=models[0],
        others=models[1:],
        defence=defence,
        settings=command,
        item_tokens=sequences.item_tokens,
        dataset={"name": sequences.name, "digest": sequences.digest},
        seed=command.seed,
        command={**command.model_dump(mode="json"), **described},
        metrics=report,
    )
    return Run(command.out, report)


def _identity(command: Settings) -> dict[str, Any]:
    return {name: value for name, value in command.model_dump(mode="json").items() if name not in MACHINE}


def _finished(out: Path, command: Settings) -> Run | None:
    return _finished_as(out, _identity(command))


def _finished_as(out: Path, described: dict[str, Any]) -> Run | None:
    """The run that is already at ``out``, if it is the one that is described; another one is never overwritten."""
    if not (out / artifacts.MANIFEST).exists():
        artifacts.require_replaceable(out)
        return None
    manifest = artifacts.load(out).manifest
    for name, value in described.items():
        if manifest.settings.get(name) != value:
            found = manifest.settings.get(name)
            raise ArtifactError(f"{out}: holds a run with {name} = {found!r}, not {value!r}; choose another --out")
    return Run(out, dict(manifest.metrics))


def _dataset(artifact: Artifact, data_path: Path | None) -> Sequences:
    """The interactions that a run was made from, read again."""
    made_with = {k: v for k, v in artifact.manifest.settings.items() if k in DataSettings.model_fields}
    if data_path is not None:
        made_with["data_path"] = str(data_path)
    sequences = load(DataSettings.make(made_with, f"{artifact.folder}"))
    if sequences.digest != artifact.manifest.dataset.digest:
        raise ArtifactError(f"{artifact.folder}: made from other interactions than {sequences.name} as it is read now")
    return sequences


def _lists_of(artifact: Artifact) -> int:
    return int(str(artifact.manifest.settings.get("k", min(100, artifact.model.n_items))))


def _theft_folder(command: AttackCommand, overrides: Mapping[str, Any]) -> Path:
    name = f"{Path(command.thief).stem}-{command.calls}-{command.seed}"
    unusual = {**overrides, **({"k": command.k} if command.k else {})}
    if unusual:
        name += "-" + hashlib.sha256(repr(sorted(unusual.items())).encode()).hexdigest()[:8]
    return _thefts(command.run) / name


def _thefts(run: Path) -> Path:
    return run.with_name(f"{run.name}.thefts")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise ConfigError(f"device is '{name}'; use 'auto', 'cpu' or a CUDA device of this machine") from None
