"""Settings of marks."""

from __future__ import annotations

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
    """How many trigger chains there are, and how long they are."""

    chains: PositiveInt = 20
    length: Annotated[int, Field(ge=2)] = 4
    """Items of a chain, all of them different from those of any other."""
    strength: PositiveFloat = 0.5
    """Weight of the chains against the imitation of the plain model."""


class PromotionSettings(Settings):
    """How strong the promotion is, and how it is read."""

    strength: PositiveFloat = 0.1
    """What is added to a green item's score and taken from a red one's."""
    directions: Annotated[int, Field(ge=0, le=8)] = 0
    """Secret directions that part histories into groups, each with signs of its own."""
    probes: PositiveInt = 800
    """Histories that a suspect is asked."""
