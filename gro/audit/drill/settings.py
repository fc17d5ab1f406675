"""Settings of the drill; apart from what plays it, which is heavier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gro.config import DeviceSettings, PositiveInt

Share = Annotated[float, Field(gt=0, lt=1)]


class DrillCommand(DeviceSettings):
    """Settings of ``gro guard drill``."""

    run: Path
    """Artifact of the target that is served."""
    suite: str = "standard"
    """Card of the suite of thieves, by name or as a file; of thieves that ask alike, the first is played."""
    calls: PositiveInt = 2_000
    """Calls after which a thief has got away, all of its accounts together."""
    accounts: Annotated[int, Field(ge=2)] = 10
    """Accounts of those who collude; every thief is also played alone."""
    together: PositiveInt = 1
    """Most histories that a thief grows at a time. One after the other is how people call: it is hardest to tell."""
    seeds: PositiveInt = 5
    """Times that each thief is played, with seeds that follow each other."""
    false_alarms: Share = 0.01
    """Share of real users who may ever be flagged; what the monitor is calibrated for."""
    confidence: Share = 0.9
    """Confidence in that share."""
    playbook: str = "default"
    """What is done to accounts that stand out: a shipped playbook by name, or the path of one."""
    users: PositiveInt | None = None
    """Most held-out users who are replayed, drawn at random; unset replays all."""
    k: PositiveInt | None = None
    """Exposed list length; unset takes the one that the target was made for."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split of the users, of the order of their calls, and of the first play of each thief."""
    data_path: Path | None = None
    """Where the dataset is now; unset looks where it was."""
    out: Path | None = None
    """Folder of the calibration and the report; unset is RUN.drill/SUITE."""
