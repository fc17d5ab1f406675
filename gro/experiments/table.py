"""Results as Markdown: the worst case of every target, every thief, and what a paper reports beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gro.experiments.run import FIGURES, load
from gro.reports import cell


def write(results: Path) -> Path:
    """Write ``NAME.json`` as ``NAME.md`` beside it.

    Raises:
        DataError: the file is missing or is not the result of an experiment.
    """
    content = load(results)
    path = results.with_suffix(".md")
    path.write_text("\n".join(lines(content)) + "\n", encoding="utf-8")
    return path


def lines(content: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the page."""
    rows, versions = content["rows"], content["versions"]
    dates, machines = (", ".join(sorted({row[key] for row in rows})) for key in ("date", "machine"))
    yield f"# {content['card']['name']}"
    yield ""
    yield f"`{content['command']}` on {machines}; {dates}; {', '.join(f'{k} {v}' for k, v in versions.items())}."
    yield "All figures in percent, on test users; [low, high] is a 95 % t-interval over seeds."
    for block in content["card"]["blocks"]:
        entries = [e for e in content["summary"] if (e["dataset"], e["model"]) == (block["dataset"], block["model"])]
        if entries:
            yield from _block(block, entries)


def _block(block: Mapping[str, Any], entries: list[Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield f"## {block['dataset']}, {block['model']}: {block['calls']:,} calls, lists of {block['k']} before the defence"
    if block["note"]:
        yield ""
        yield block["note"]
    yield ""
    private = any(entry["privacy"] for entry in entries)
    columns = (
        "target",
        *(("epsilon (delta)",) if private else ()),
        "seeds",
        "exposes",
        "HR@10",
        "NDCG@10",
        "utility loss",
        "worst thief",
        "its advantage",
        "worst of each seed",
    )
    yield _line(*columns)
    yield "|---" * len(columns) + "|"
    for entry in entries:
        worst, utility = entry["thieves"][0], entry["utility"]
        figures = (utility["hr@10"], utility["ndcg@10"], entry["utility_loss"])
        advantage = {"mean": worst["access_advantage"], "interval": worst["interval"]}
        cells = (*map(_figure, figures), worst["thief"], _figure(advantage), _figure(entry["worst_of_each_seed"]))
        spent = (_spent(entry["privacy"]),) if private else ()
        yield _line(entry["target"], *spent, len(entry["seeds"]), entry["exposed"], *cells)
    if block["published"]:
        yield from _beside_the_paper(block["published"], entries)
    if len(entries[0]["thieves"]) > 1:
        yield from _every_thief(entries)


def _every_thief(entries: list[Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield _line("thief", "knows", *(f"{entry['target']}: advantage, Agr@10" for entry in entries))
    yield "|---" * (2 + len(entries)) + "|"
    for thief in entries[0]["thieves"]:
        found = [{each["thief"]: each for each in entry["thieves"]}.get(thief["thief"]) for entry in entries]
        figures = (_advantage(each, len(entry["seeds"])) for each, entry in zip(found, entries, strict=True))
        yield _line(thief["thief"], thief["knowledge"], *figures)


def _beside_the_paper(published: Mapping[str, Any], entries: list[Mapping[str, Any]]) -> Iterator[str]:
    """Our figures, and in brackets those of the paper."""
    yield ""
    yield _line("target", "model", *(f"{name.upper()}, paper's in brackets" for name in FIGURES))
    yield "|---" * (2 + len(FIGURES)) + "|"
    for entry in entries:
        if paper := published.get(entry["target"]):
            for who, ours in (("target", entry["utility"]), ("surrogate", entry["thieves"][0]["surrogate"])):
                cells = (f"{_figure(ours[f])} ({value})" for f, value in zip(FIGURES, paper[who], strict=True))
                yield _line(entry["target"], who, *cells)


def _line(*cells: object) -> str:
    return f"| {' | '.join(cell(str(each)) for each in cells)} |"


def _advantage(thief: Mapping[str, Any] | None, seeds: int) -> str:
    """Access advantage and Agr@10, and of how many seeds where that is not all of them."""
    if thief is None:
        return "-"
    advantage = _figure({"mean": thief["access_advantage"], "interval": thief["interval"]})
    fewer = f" ({thief['seeds']} of {seeds} seeds)" if thief["seeds"] < seeds else ""
    return f"{advantage}, {_percent(thief['agreement@10'])}{fewer}"


def _spent(privacy: Mapping[str, float] | None) -> str:
    return f"{privacy['epsilon']:.2f} ({privacy['delta']:.1e})" if privacy else "-"


def _figure(value: Mapping[str, Any]) -> str:
    bounds = value["interval"]
    return _percent(value["mean"]) + (f" [{_percent(bounds[0])}, {_percent(bounds[1])}]" if bounds else "")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
