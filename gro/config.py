"""Settings: frozen, validated models that come from TOML files, flags or keyword arguments alike.

Each command has one settings class, put together from the parts below, so that a key has the same name in a file,
on the command line and in Python.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeGuard, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gro.errors import ConfigError, nearest

Architecture = Literal["SASRec", "GRU4Rec", "NARM", "BERT4Rec"]
StudentLoss = Literal["ranking", "listwise", "set"]
Probability = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
SmallInt = Annotated[int, Field(gt=0, le=64)]
"""Of what is built one by one, since a file can claim any number."""
PositiveFloat = Annotated[float, Field(gt=0)]
SettingsT = TypeVar("SettingsT", bound="Settings")
_WORD = re.compile(r"'([^']+)'")


class Settings(BaseModel):
    """Frozen and strict about names; :meth:`make` turns every problem into one line."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    @classmethod
    def make(cls, values: Mapping[str, Any], source: str = "settings") -> Self:
        """Validate ``values``; raise :class:`ConfigError` naming every bad key and ``source``."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems = "; ".join(_explain(cls, problem) for problem in error.errors())
            raise ConfigError(f"{source}: {problems}") from None

    def part(self, cls: type[SettingsT]) -> SettingsT:
        """Return the settings that belong to ``cls``, one of the classes this one is made of."""
        return cls(**{name: getattr(self, name) for name in cls.model_fields})


def _explain(cls: type[BaseModel], problem: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'.{nearest(key, cls.model_fields)}"
    if problem["type"] == "missing":
        return f"'{key}' is required"
    if not key:
        return str(problem["msg"]).removeprefix("Value error, ")
    hint = nearest(str(problem["input"]), _WORD.findall(problem["msg"])) if problem["type"] == "literal_error" else ""
    return f"'{key}' is {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}{hint and '.' + hint}"


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of settings; dashes in keys become underscores.

    Raises:
        ConfigError: the file is missing, is not UTF-8 or is not TOML.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    return {key.replace("-", "_"): value for key, value in table.items()}


def read_tables(cls: type[SettingsT], path: Path) -> SettingsT:
    """Read a TOML file whose tables are the parts of ``cls``; an error names the table that it is in.

    Raises:
        ConfigError: as :func:`read_toml` and :meth:`Settings.make`; or a part is not a table.
    """
    table = read_toml(path)
    for name, field in cls.model_fields.items():
        part = next((kind for kind in (field.annotation, *get_args(field.annotation)) if _is_part(kind)), None)
        if part is None or name not in table:
            continue
        if not isinstance(table[name], dict):
            raise ConfigError(f"{path}: '{name}' is {table[name]!r}; it must be a table, [{name}]")
        table[name] = part.make(table[name], f"{path}: [{name}]")
    return cls.make(table, str(path))


def _is_part(kind: Any) -> TypeGuard[type[Settings]]:
    return isinstance(kind, type) and issubclass(kind, Settings)


class DataSettings(Settings):
    """Which interactions to read and how to filter them; the names of the filters are RecBole's."""

    dataset: str
    """Dataset name (a card, a RecBole dataset or a folder NAME/NAME.inter under the data path)."""
    data_path: Path | None = None
    """Folder that holds NAME/NAME.inter; otherwise GRO_DATA_PATH, then RecBole's bundled and downloadable sets."""
    user_id_field: str = "user_id"
    item_id_field: str = "item_id"
    time_field: str = "timestamp"
    field_separator: str = "\t"
    user_inter_num_interval: str | None = None
    """Keep users whose number of interactions lies in this interval, e.g. "[5,inf)"."""
    item_inter_num_interval: str | None = None
    """Keep items whose number of interactions lies in this interval, e.g. "[5,inf)"."""
    val_interval: dict[str, str] = {}
    """Keep interactions whose field lies in an interval, e.g. {rating = "[3,inf)"} or {timestamp = "[0,9e8]"}."""
    rm_dup_inter: Literal["first", "last", "keep"] | None = None
    """Repeated (user, item) pairs: keep the first, the last or all. Unset: repeats at another time are kept, identical
    rows are an error."""
    time_order: Literal["recbole", "exact"] = "recbole"
    """How times are compared: exactly, or as RecBole does, rounded to 32-bit floats (a minute or two for Unix seconds;
    what rounds alike keeps the file's order)."""


class ModelSettings(Settings):
    """Architecture and its size."""

    model: Architecture = "SASRec"
    max_length: PositiveInt = 50
    """Longest history the model reads; older items are dropped."""
    hidden_size: PositiveInt = 64
    n_layers: SmallInt = 2
    n_heads: PositiveInt = 2
    """Attention heads of SASRec and BERT4Rec."""
    inner_size: PositiveInt = 256
    """Width of the feed-forward layers of SASRec and BERT4Rec."""
    dropout: Probability = 0.4
    attention_dropout: Probability = 0.0
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of items that BERT4Rec's Cloze training masks."""
    drop_oldest: bool = False
    """Let BERT4Rec drop the oldest item even where the mask has room, as RecBole's does."""


class TrainingSettings(ModelSettings):
    """How a recommender is trained."""

    epochs: PositiveInt = 60
    """Most passes over the data."""
    patience: Annotated[int, Field(ge=0)] = 10
    """Stop after this many epochs without a better validation NDCG@10; 0 runs all epochs."""
    batch_size: PositiveInt = 64
    """Windows of consecutive items per step."""
    stride: PositiveInt | None = None
    """Items by which the windows of a long history are shifted: less than max_length gives every predicted item more
    items before it and takes longer; unset is max_length."""
    item_dropout: Probability = 0.2
    """Share of the interactions left out of each pass, drawn anew: histories with gaps make a model robust to them."""
    learning_rate: PositiveFloat = 2e-3
    schedule: Literal["constant", "linear"] = "constant"
    """What becomes of the learning rate: linear rises to it over the first 2 % of the run and falls to 0 at the end of
    the last epoch."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: PositiveFloat = 5.0
    """Largest gradient norm."""
    seed: Annotated[int, Field(ge=0)] = 0
    k: PositiveInt = 100
    """Exposed k: the length of the lists that the service returns."""


class ProtectionSettings(TrainingSettings):
    """How a target is protected by GRO; the defaults are the paper's method."""

    student: Architecture | None = None
    """Architecture of the student that stands for the thief; unset takes the target's own."""
    students: tuple[str, ...] = ()
    """Several students instead, each an ARCHITECTURE or ARCHITECTURE:LOSS with a loss of ranking (the paper's, where
    none is given), listwise or set; the swap loss is the mean over them."""
    warm_up_epochs: Annotated[int, Field(ge=0)] = 5
    """Passes in which the student learns from the plain target's lists before GRO begins."""
    protect_epochs: PositiveInt = 20
    """Passes of GRO over the data."""
    swap_weight: Annotated[float, Field(ge=0)] = 1.0
    """Lambda: weight of the swap loss against the target's own loss."""
    swap_margin: Annotated[float, Field(ge=0)] = 0.0
    """Wanted lead of a swapped-in item over the one it replaces, where swap_to is extremes."""
    swap_to: Literal["extremes", "permutation"] = "extremes"
    """Where the swap loss pushes a list: extremes, the paper's, to the student's highest and lowest item, again and
    again; permutation, to the order of the same items that hurts most."""
    frozen: Annotated[int, Field(ge=0)] = 10
    """Ranks from the top that keep their items, where swap_to is permutation."""
    objective: Literal["before", "after"] = "before"
    """What a swap is to raise: the student's loss on its list as it is before it learns (the paper's), or its loss on
    the true lists after it has learnt."""
    queries: Literal["real", "thief", "both"] = "real"
    """Histories whose lists the student learns and the swap loss attacks: real ones (the paper's), those that thieves
    grow against the target as each pass finds it, or as many of both."""
    order_margin: Annotated[float, Field(ge=0)] = 0.5
    """m1 of the student's ranking loss."""
    negative_margin: Annotated[float, Field(ge=0)] = 0.5
    """m2 of the student's ranking loss."""
    positions: PositiveInt = 16
    """Prefixes per window whose lists are attacked in a step."""
    utility_budget: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Largest relative loss of NDCG@10: GRO measures it on validation items, and 1 lets it spend whatever the weight
    takes, as the paper does; the gate measures it on people whom its witness does not know."""
    from_scratch: bool = False
    """Start from an untrained target instead of the plain one."""

    @field_validator("students")
    @classmethod
    def _require_known(cls, students: tuple[str, ...]) -> tuple[str, ...]:
        for name in students:
            architecture, colon, loss = name.partition(":")
            _require_choice(name, "architecture", architecture, get_args(Architecture))
            _require_choice(name, "loss", loss if colon else "ranking", get_args(StudentLoss))
        return students

    @model_validator(mode="after")
    def _require_one_choice(self) -> Self:
        if self.student and self.students:
            raise ValueError("'student' names one student and 'students' names all; give one of the two")
        return self

    @property
    def taught(self) -> list[tuple[Architecture, StudentLoss]]:
        """Architecture and loss of every student."""
        pairs = (name.partition(":")[::2] for name in self.students or (self.student or self.model,))
        return [cast("tuple[Architecture, StudentLoss]", (name, loss or "ranking")) for name, loss in pairs]


def _require_choice(student: str, what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"the {what} of {student!r} is not one of {', '.join(known)}.{nearest(given, known)}")


GRO_SWITCHES = ProtectionSettings.model_fields.keys() - TrainingSettings.model_fields.keys() - {"utility_budget"}
"""Settings that only GRO has."""


class DeviceSettings(Settings):
    """Where to compute."""

    device: str = "auto"
    """A torch device such as "cpu" or "cuda:1"; "auto" takes CUDA where there is one."""


class TrainCommand(DataSettings, TrainingSettings, DeviceSettings):
    """Settings of ``gro train``."""

    out: Path
    """Folder of the artifact; until it is done, of the state to resume from."""


class ProtectCommand(DataSettings, ProtectionSettings, DeviceSettings):
    """Settings of ``gro protect``."""

    out: Path
    """Folder of the artifact; until it is done, of the state to resume from."""
    from_: Annotated[Path | None, Field(alias="from")] = None
    """Artifact of the plain target; unset trains one as OUT.plain first."""
    defence: str = "gated"
    """Card of the defence, by name or as a file; unset is gro where one of the settings that only GRO has is given."""


class EvaluateCommand(DeviceSettings):
    """Settings of ``gro evaluate``."""

    run: Path
    """Artifact to evaluate."""
    against: Path | None = None
    """Plain target to compare with: what people lose, by kind of history."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the intervals' resampling."""
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""


class AttackCommand(DeviceSettings):
    """Settings of ``gro attack``; whatever else is given overrides the thief's card."""

    run: Path
    """Artifact of the target."""
    thief: str = "autoregressive"
    """Card of the thief, by name or as a file."""
    calls: PositiveInt = 50_000
    """Budget: histories sent, one list each."""
    k: PositiveInt | None = None
    """Exposed list length; unset takes the one that the target was made for."""
    seed: Annotated[int, Field(ge=0)] = 0
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""
    out: Path | None = None
    """Folder of the theft; unset is RUN.thefts/CARD-CALLS-SEED, with a hash of what overrides the card."""


class RedteamCommand(DeviceSettings):
    """Settings of ``gro redteam``."""

    run: Path
    """Artifact of the target."""
    suite: str = "standard"
    """Card of the suite of thieves, by name or as a file."""
    knowledge: Literal["data-free", "data-limited", "adaptive"] | None = None
    """Play only thieves that know this or less; unset plays all."""
    max_advantage: Annotated[float, Field(gt=0)] | None = None
    """Exit with 1 where the worst thief's access advantage is above this."""
    calls: PositiveInt | None = None
    """Budget of each thief; unset takes the suite's."""
    k: PositiveInt | None = None
    """Exposed list length; unset takes the one that the target was made for."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the first run of each thief."""
    seeds: PositiveInt = 1
    """Runs of each thief, with seeds that follow each other."""
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""
    out: Path | None = None
    """Folder of the report; unset is RUN.redteam/SUITE."""


class RateLimitCommand(DeviceSettings):
    """Settings of ``gro rate-limit``."""

    run: Path
    """Artifact of the target."""
    policy: str
    """Policy, by the name of a shipped one or as a file."""
    thief: Annotated[tuple[str, ...], Field(min_length=1)] = ("short-restarts", "autoregressive", "few-shot-10")
    """Cards of the thieves, by name or as files."""
    calls: PositiveInt = 50_000
    """Largest budget that is played, whatever the policy lets through."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every theft."""
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""
    out: Path | None = None
    """Folder of the report; unset is RUN.ratelimit/POLICY."""


class FrontierCommand(DeviceSettings):
    """Settings of ``gro frontier``."""

    run: Path
    """Artifact of a plain target."""
    defence: Annotated[tuple[str, ...], Field(min_length=1)]
    """Cards of defences, by name or as files."""
    suite: str = "standard"
    """Card of the suite of thieves, by name or as a file."""
    calls: PositiveInt | None = None
    """Budget of each thief; unset takes the suite's."""
    k: PositiveInt | None = None
    """List length before the defence; unset takes the one that the target was made for."""
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""
    out: Path | None = None
    """Folder of the results, and of what is made for them; unset is RUN.frontier."""


class ServeCommand(DeviceSettings):
    """Settings of ``gro serve``."""

    run: Path
    """Artifact to serve, behind its defence."""
    guard: Path | None = None
    """Settings of the guard, a TOML file such as ``gro guard init`` writes; nothing is served without."""
    host: str = "127.0.0.1"
    """Address to listen on; another than a loopback address lets other machines in."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """0 takes a free one."""
    tls_certificate: Path | None = None
    """Certificate chain in PEM, to serve HTTPS."""
    tls_key: Path | None = None
    """Key of the certificate, in PEM and not encrypted."""


class ReproduceCommand(DeviceSettings):
    """Settings of ``gro reproduce``."""

    card: str
    """Card of the experiment, by name or as a file."""
    data_path: Path | None = None
    """Folder that holds NAME/NAME.inter."""
    runs: Path = Path("runs")
    """Folder of the artifacts; what is there is not made again."""
    results: Path = Path("experiments/results")
    """Folder of the results and the plot."""
    plot_only: bool = False
    """Draw the plot of results that are there."""
    beside: tuple[str, ...] = ()
    """Cards whose results are drawn in the same frontier, where dataset, model, calls and exposed k are the same."""
