"""Runs a card cell by cell and keeps each cell's row as soon as it is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gro import api, artifacts, provenance
from gro.errors import DataError
from gro.experiments.card import Experiment, ExperimentCard, TargetCard, thieves
from gro.experiments.summary import summarise
from gro.theft import attack
from gro_surrogates.suites import SuiteThief

FIGURES = ("hr@10", "hr@20", "ndcg@10", "ndcg@20")
KEY = ("dataset", "model", "target", "seed", "thief", "calls", "k")


def run(
    experiment: Experiment,
    runs: Path,
    results: Path,
    *,
    plain: Path | None = None,
    command: str | None = None,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    **where: Any,
) -> Path:
    """Run every cell of a card that has not run yet and write ``NAME.json``, after each cell anew.

    Rows that the file holds of the same card and the same versions are kept; models that lie in ``runs`` are not made
    again.

    Args:
        experiment: the card.
        runs: folder of the artifacts.
        results: folder of the result file.
        plain: artifact of the plain target; unset trains one for every seed.
        command: what makes the results, for who reads them; unset is ``gro reproduce`` with the card's name.
        report: receives each new row.
        where: ``data_path`` and ``device`` of the verbs.

    Returns:
        Path of the result file.

    Raises:
        GroError: as :func:`gro.train`, :func:`gro.protect` and :func:`gro.attack`.
    """
    path = results / f"{experiment.name}.json"
    about = {
        "card": experiment.model_dump(mode="json"),
        "command": command or f"gro reproduce {experiment.name}",
        "versions": provenance.versions(),
    }
    rows = _kept(path, about)
    done = {tuple(row[key] for key in KEY) for row in rows}
    for row in _cells(experiment, runs / experiment.name, done, plain, where):
        rows.append({**row, **provenance.here_and_now()})
        _write(path, {**about, "summary": summarise(experiment, rows), "rows": rows})
        report(row)
    _write(path, {**about, "summary": summarise(experiment, rows), "rows": rows})
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        DataError: it is missing or is not the result of an experiment.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {key: content[key] for key in ("card", "command", "versions", "summary", "rows")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the result of an experiment: {error}") from None


def _kept(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    content = load(path)
    if any(content[key] != about[key] for key in ("card", "versions")):
        return []
    rows: list[dict[str, Any]] = content["rows"]
    return rows


def _cells(
    experiment: Experiment, runs: Path, done: set[tuple[Any, ...]], plain: Path | None, where: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the rows that are not done, a seed of every block and target before the next."""
    for turn in range(experiment.seeds):
        for block in experiment.blocks:
            for target in block.targets if turn < len(block.seeds) else ():
                seed = block.seeds[turn]
                for thief in thieves(block):
                    names = (block.dataset, block.model, target.name, seed, thief.name, block.calls, block.k)
                    if names not in done:
                        folder = runs / f"{block.dataset}-{block.model}"
                        figures = _cell(block, target, thief, seed, folder, plain, where)
                        yield {**dict(zip(KEY, names, strict=True)), **figures}


def _cell(
    block: ExperimentCard,
    target: TargetCard,
    thief: SuiteThief,
    seed: int,
    runs: Path,
    given: Path | None,
    where: dict[str, Any],
) -> dict[str, Any]:
    shared = {"dataset": block.dataset, "model": block.model, "k": block.k, **block.training, **where}
    plain = given or api.train(**shared, seed=seed, out=runs / f"plain-{seed}").path
    made, best, privacy = plain, api.undefended(plain)["ndcg@10"], None
    if target.protection is not None:
        made = runs / f"{target.name.replace(' ', '-')}-{seed}"
        protected = api.protect(**{**shared, **target.protection, "from": plain}, seed=seed, out=made)
        privacy = protected.report.get("privacy")
    exposing: dict[str, Any] = {"k": block.k} if target.protection is None and _k(plain) != block.k else {}
    theft = attack(
        run=made,
        thief=thief.card,
        calls=block.calls,
        seed=seed,
        **exposing,
        **where,
        **thief.overrides,
    ).report
    return {
        "knowledge": theft["knowledge"],
        "known": theft["known"],
        "calls_made": theft["calls"],
        "exposed": theft["k"],
        "utility": _figures(theft["target"]),
        "surrogate": _figures(theft["surrogate"]),
        "floor": _figures(theft["floor"]),
        "floor_is": theft["floor_is"],
        "privacy": privacy,
        "utility_loss": 1 - theft["target"]["ndcg@10"] / best if best else None,
        "agreement@10": theft["agreement@10"],
        "rbo@10": theft["rbo@10"],
        "shared_by_popularity": theft["shared_by_popularity"],
        "access_advantage": theft["access_advantage"],
    }


def _k(run: Path) -> object:
    return artifacts.load(run).manifest.settings["k"]


def _figures(report: dict[str, float]) -> dict[str, float]:
    return {key: report[key] for key in FIGURES}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
