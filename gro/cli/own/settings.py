"""Settings of ``gro own``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gro.config import DeviceSettings, PositiveFloat, PositiveInt, Settings
from gro.ownership.settings import Kind, MarkSettings
from gro.service.analysis.settings import Paths


class KeygenCommand(Settings):
    """Settings of ``gro own keygen``."""

    key: Path
    """File for the private key; the public one is written beside it, as KEY.pub."""


class CompareCommand(DeviceSettings):
    """Settings of ``gro own compare``."""

    runs: Paths
    """The two artifacts."""
    innocents: Path | None = None
    """Folder of independent models, such as ``gro own innocents`` makes of the first run, to compare with."""
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""


class InnocentsCommand(DeviceSettings):
    """Settings of ``gro own innocents``; what is unset is as the owner's model was trained."""

    run: Path
    """Artifact of the owner's model."""
    out: Path
    """Folder of the innocents; those that are there are kept."""
    count: PositiveInt = 120
    """Models to have in the end, every second one of which differs by the seed alone."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the population."""
    copy_calls: PositiveInt = 50_000
    """Lists by which those are stolen that are copies of independent models."""
    epochs: PositiveInt | None = None
    """Most passes over the data."""
    patience: Annotated[int | None, Field(ge=0)] = None
    """Stop after this many epochs without a better validation NDCG@10; 0 runs all epochs."""
    batch_size: PositiveInt | None = None
    """Windows of consecutive items per step."""
    stride: PositiveInt | None = None
    """Items by which the windows of a long history are shifted."""
    learning_rate: PositiveFloat | None = None
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""


class FingerprintCommand(Settings):
    """Settings of ``gro own fingerprint``."""

    run: Path
    """Artifact of the owner's model."""
    key: Path
    """The owner's private key, as ``gro own keygen`` makes it."""
    owner: Annotated[str, Field(min_length=1, max_length=200)]
    """Who owns it, as it is to stand in the statement."""
    innocents: Path
    """Folder of independent models, as ``gro own innocents`` fills it; a few choose the secret histories."""
    out: Path
    """Folder for statement.json, which is public, and fingerprint.KIND.secret, which are not."""
    parents: Paths = ()
    """Artifacts that RUN was made from, oldest first."""
    probes: Annotated[int, Field(ge=100, le=900)] = 400
    """Secret histories of each kind; a verdict sends each once and every twentieth again."""
    references: PositiveInt = 8
    """Independent models that choose the histories; they calibrate no verdict."""
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""


class MarkCommand(MarkSettings, DeviceSettings):
    """Settings of ``gro own mark``."""

    run: Path
    """Artifact of the owner's model."""
    parents: Paths = ()
    """Artifacts that RUN was made from, oldest first, such as the plain one of a protected run."""
    kind: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("triggers", "promotion")
    """Marks to put into it; several at once share the budget."""
    key: Path
    """The owner's private key, as ``gro own keygen`` makes it."""
    owner: Annotated[str, Field(min_length=1, max_length=200)]
    """Who owns it, as it is to stand in the statement."""
    out: Path
    """Folder of the marked artifact."""
    evidence: Path | None = None
    """Folder for statement.json, which is public, and the secrets, which are not; unset is OUT.evidence."""
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""


class SuspectCommand(Settings):
    """Settings of ``gro own verify``."""

    suspect: str
    """Folder of an artifact or of a theft, or the URL that histories are posted to, as ``gro serve`` answers it."""
    statement: Path
    """The owner's signed statement."""
    innocents: Path | None = None
    """Folder of independent models, as ``gro own innocents`` fills it: the same secrets must not claim them, and
    likeness is told beside theirs."""
    secrets: Path | None = None
    """Folder of the secrets that the statement commits to, NAME.secret; unset is the statement's."""
    public_key: Path | None = None
    """The owner's public key as it is known from elsewhere; unset believes the one in the statement."""
    calls: PositiveInt = 2_000
    """Most histories that are sent to the suspect."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Probability of calling an innocent suspect a copy."""
    k: Annotated[int, Field(ge=1, le=10)] = 10
    """Items of each list that are read; fewer where the suspect shows fewer."""
    key_file: Path | None = None
    """File of mode 0600 that holds the API key of a suspect's URL."""
    wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Seconds to wait in all where the URL limits how often it answers and says for how long."""


class ReportCommand(Settings):
    """Settings of ``gro own report``."""

    verdict: Path
    """What ``gro own verify --json`` printed, in a file."""
    statement: Path
    """The owner's signed statement, on which the verdict rests."""
    out: Path
    """File of the report, HTML."""
    public_key: Path | None = None
    """The owner's public key as it is known from elsewhere; unset, the report says that it was not checked."""
    token: Path | None = None
    """RFC 3161 answer of a time-stamping authority about the statement."""
    authority: Path | None = None
    """Certificates of that authority, in PEM, got from it and not from the owner."""
