"""Utility kept against access gained: targets of several strengths of protection, robbed by several thieves."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from gro import api, cards
from gro.config import PositiveInt, Settings, read_toml

PACKAGES = ("gro", "torch", "numpy")


class TargetCard(Settings):
    """One kind of target; plain unless it has protection settings."""

    name: str
    protection: dict[str, Any] | None = None
    """Settings of ``gro protect``; the target starts from the plain one of the same seed."""


class ExperimentCard(Settings):
    """One file of ``experiments/``."""

    dataset: str
    model: str
    seeds: list[int]
    calls: PositiveInt
    k: PositiveInt
    """Exposed k, the same for every target."""
    thieves: list[str]
    targets: list[TargetCard]
    training: dict[str, Any] = Field(default_factory=dict)
    """Settings of ``gro train`` for the plain targets."""


def read(card: str) -> tuple[str, ExperimentCard]:
    """Read a shipped card by name or any card by the path of its file: its name and content.

    Raises:
        ConfigError: there is no such card or it is malformed.
    """
    table, path = (read_toml(Path(card)), Path(card)) if card.endswith(".toml") else cards.read("experiments", card)
    return path.stem, ExperimentCard.make(table, str(path))


def run(
    card: str, runs: Path, results: Path, *, report: Callable[[dict[str, Any]], None] = lambda row: None, **where: Any
) -> Path:
    """Run every cell of a card that has not run yet and write ``NAME.json``, after each cell anew.

    Args:
        card: name or file of the card.
        runs: folder of the artifacts; what is there is not made again.
        results: folder of the result file.
        report: receives each row.
        where: ``data_path``, ``device`` and ``progress`` of the verbs.

    Returns:
        Path of the result file.
    """
    name, content = read(card)
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json"
    about = {
        "card": content.model_dump(mode="json"),
        "command": f"gro reproduce {card}",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
    }
    rows = []
    for row in _cells(content, runs / name, where):
        rows.append(row)
        path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        report(row)
    return path


def _cells(card: ExperimentCard, runs: Path, where: dict[str, Any]) -> Iterator[dict[str, Any]]:
    shared = {"dataset": card.dataset, "model": card.model, "k": card.k, **card.training, **where}
    machine = where
    for seed in card.seeds:
        plain = api.train(**shared, seed=seed, out=runs / f"plain-{seed}")
        for target in card.targets:
            made = plain
            if target.protection is not None:
                out = runs / f"{target.name}-{seed}"
                made = api.protect(**{**shared, **target.protection, "from": plain.path}, seed=seed, out=out)
            for thief in card.thieves:
                theft = api.attack(run=made.path, thief=thief, calls=card.calls, seed=seed, **machine).report
                yield {
                    "target": target.name,
                    "seed": seed,
                    "thief": thief,
                    "target_ndcg@10": theft["target"]["ndcg@10"],
                    "target_hr@10": theft["target"]["hr@10"],
                    "utility_loss": 1 - theft["target"]["ndcg@10"] / plain.report["target"]["ndcg@10"],
                    "surrogate_ndcg@10": theft["surrogate"]["ndcg@10"],
                    "surrogate_hr@10": theft["surrogate"]["hr@10"],
                    "floor_ndcg@10": theft["floor"]["ndcg@10"],
                    "agreement@10": theft["agreement@10"],
                    "access_advantage": theft["access_advantage"],
                    "calls": theft["calls"],
                    "k": theft["k"],
                }
