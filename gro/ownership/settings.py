"""Settings of marks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gro.config import PositiveFloat, PositiveInt, Settings

Kind = Literal["triggers", "promotion", "parameters"]


class MarkSettings(Settings):
    """How marks are trained."""

    utility_budget: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Largest relative loss of validation NDCG@10."""
    epochs: PositiveInt = 8
    """Passes over the data for each mark that is trained."""
    learning_rate: PositiveFloat = 2e-3
    batch_size: PositiveInt = 64
    """Windows of consecutive items per step."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the training; the secrets are drawn by the system."""


class TriggerSettings(Settings):
    """How many trigger rings there are, and how long they are."""

    rings: PositiveInt = 20
    length: Annotated[int, Field(ge=2)] = 4
    """Items of a ring, all of them different from those of any other."""
    strength: PositiveFloat = 0.5
    """Weight of the rings against the imitation of the plain model."""


class PromotionSettings(Settings):
    """How strong the promotion is, and how it is read."""

    strength: PositiveFloat = 0.1
    """What is added to a green item's score and taken from a red one's."""
    directions: Annotated[int, Field(ge=0, le=8)] = 0
    """Secret directions that part histories into groups, each with signs of its own."""
    probes: PositiveInt = 800
    """Histories that a suspect is asked."""


class TrialCommand(Settings):
    """Settings of ``gro own trial``."""

    run: Path
    """The marked artifact, with thefts of it beside it as ``gro attack`` leaves them."""
    statement: Path
    """The owner's signed statement about it."""
    secrets: Path | None = None
    """Folder of the secrets that the statement commits to, NAME.secret; unset is the statement's."""
    innocents: Path
    """Folder of independent models, as ``gro own innocents`` fills it."""
    out: Path
    """Folder of trial.json."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Probability of a false claim."""
    references: PositiveInt = 8
    """Innocents that choose the secret histories; they calibrate nothing."""
    probes: Annotated[int, Field(ge=100, le=900)] = 400
    """Secret histories of each kind."""
    washed: Annotated[int, Field(ge=0)] = 3
    """Copies that are washed, the first by name, each in every way."""
    copy_calls: PositiveInt = 50_000
    """Lists from which a copy is copied again."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice of references, and of what a thief fine-tunes on."""
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""
