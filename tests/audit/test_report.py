"""What is written of a red team: a table to read, one file that needs no other, and pictures where there can be."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gro.audit import report
from gro.errors import DataError

HOSTILE = '<script src="//evil">alert(1)</script> & "co"'


def row(thief: str, advantage: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "thief": thief,
        "knowledge": "data-free",
        "known": 0.1,
        "calls": 50_000,
        "surrogate": {"hr@10": 0.2, "ndcg@10": 0.1234},
        "floor": {"is": "popularity", "hr@10": 0.1, "ndcg@10": 0.05},
        "agreement@10": 0.5,
        "rbo@10": 0.25,
        "shared_by_popularity": {"head": 0.9, "middle": 0.5, "tail": None},
        "access_advantage": advantage,
        "interval": None if advantage is None else [advantage - 0.1, advantage + 0.1],
        "faults": {"failed": 0, "short": 0, "repeated": 0, "outside": 0, "error": ""},
        **changes,
    }


def found(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    rows = rows or (row("first", 0.75), row("second loss=set", 0.5, knowledge="adaptive"))
    worst = {
        key: rows[0][key] for key in ("thief", "knowledge", "calls", "access_advantage", "interval", "agreement@10")
    }
    poisoning = {
        "users": 100,
        "items": 5,
        "before": 0.0,
        "random": 0.01,
        "surrogate": 0.2,
        "target": 0.4,
        "transfer": 0.5,
    }
    curve = [{"thief": rows[0]["thief"], "calls": n, "surrogate": {"ndcg@10": n / 1e6}} for n in (1000, 50_000)]
    return {
        "run": "runs/target",
        "suite": "standard",
        "knowledge": "any",
        "dataset": "tiny",
        "users": 1234,
        "model": "SASRec",
        "k": 100,
        "seed": 0,
        "seeds": 2,
        "n_thieves": len(rows),
        "target": {"hr@10": 0.3, "ndcg@10": 0.2},
        "worst": {**worst, "interval_of_the_worst_case": worst["interval"], "poisoning": poisoning},
        "max_advantage": 0.5,
        "passed": False,
        "thieves": list(rows),
        "curve": curve,
        **changes,
    }


class Reader(HTMLParser):
    """Collects tags, what they refer to, and the table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.columns: list[str] = []
        self.rows: list[list[str]] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "srcset"}]
        if tag == "td" and len(self.rows[-1]) == len(self.columns):
            raise AssertionError("a row is longer than the header")
        if tag in {"th", "td"}:
            (self.columns if tag == "th" else self.rows[-1]).append("")
            self._inside = tag
        if tag == "tr" and self.columns:
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            (self.columns if self._inside == "th" else self.rows[-1])[-1] += data


def written(folder: Path, what: dict[str, Any]) -> dict[str, str]:
    report.write(folder, what)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def table(markdown: str) -> list[dict[str, str]]:
    """Rows of the table by column."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, cells, strict=True)) for cells in rows]


def test_markdown_has_a_row_for_every_thief(tmp_path: Path) -> None:
    text = written(tmp_path, found())["report.md"]
    first, second = table(text)
    assert first == {
        "thief": "first",
        "knows": "data-free",
        "holds %": "10.0",
        "calls": "50,000",
        "NDCG@10 % of the copy": "12.3",
        "floor %": "5.0 (popularity)",
        "Agr@10 %": "50.0",
        "RBO@10 %": "25.0",
        "access advantage %": "75.0",
        "95 % interval": "[65.0, 85.0]",
    }
    assert (second["thief"], second["knows"], second["access advantage %"]) == ("second loss=set", "adaptive", "50.0")
    assert "**Worst case: first** (data-free, 50,000 calls)" in text
    assert "The bar is 50.0 %: **missed**." in text
    assert "tiny, 1,234 users, SASRec, exposed k 100" in text


def test_html_and_json_say_the_same(tmp_path: Path) -> None:
    files = written(tmp_path, found())
    reader = Reader(files["report.html"])
    assert [dict(zip(reader.columns, row, strict=True)) for row in reader.rows] == table(files["report.md"])
    assert json.loads(files["report.json"]) == found()


@pytest.mark.parametrize(("passed", "bar", "said"), [(True, 0.9, "passed"), (False, 0.9, "missed"), (None, None, None)])
def test_the_bar_is_told_where_there_is_one(tmp_path: Path, passed: bool | None, bar: float | None, said: str) -> None:
    files = written(tmp_path, found(passed=passed, max_advantage=bar))
    for name in ("report.md", "report.html"):
        assert ("The bar is 90.0 %" in files[name]) == (bar is not None)
        assert {word for word in ("passed", "missed") if f"{word}**" in files[name] or f">{word}<" in files[name]} == (
            {said} - {None}
        )


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    text = written(tmp_path, found(row("first", None)))["report.md"]
    assert (table(text)[0]["access advantage %"], table(text)[0]["95 % interval"]) == ("-", "")
    assert "None" not in text
    assert "nan" not in text


def test_faults_are_told_of_those_who_met_any(tmp_path: Path) -> None:
    faults = {"failed": 3, "short": 0, "repeated": 1, "outside": 0, "error": "TimeoutError: <late>"}
    files = written(tmp_path, found(row("first", 0.7), row("other", 0.1, faults=faults)))
    line = "Wrong in the answers to other: 3 failed, 0 short, 1 with repeats, 0 outside the catalogue"
    assert files["report.md"].count("Wrong in the answers") == files["report.html"].count("Wrong in the answers") == 1
    assert f"{line} (first error: TimeoutError: <late>)." in files["report.md"]
    assert f"{line} (first error: TimeoutError: &lt;late&gt;)." in files["report.html"]


def test_a_hostile_name_is_text(tmp_path: Path) -> None:
    faults = {"failed": 1, "short": 0, "repeated": 0, "outside": 0, "error": HOSTILE}
    text = written(tmp_path, found(row(HOSTILE, 0.7, faults=faults), run=HOSTILE, dataset=HOSTILE))["report.html"]
    reader = Reader(text)
    assert "script" not in reader.tags
    assert [cells[0] for cells in reader.rows] == [HOSTILE]
    assert text.count("&lt;script") >= 5
    assert "<script" not in text


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = written(tmp_path, found())["report.html"]
    reader = Reader(text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(reader.tags)
    assert {reference[:5] for reference in reader.references if not reference.startswith("#")} == {"data:"}
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import", text)
    assert reader.tags.count("svg") == 3


def test_pictures_are_drawn_and_the_same_when_drawn_again(tmp_path: Path) -> None:
    first, again = (written(tmp_path / name, found()) for name in ("a", "b"))
    assert first.keys() == {"report.json", "report.md", "report.html", "advantage.svg", "popularity.svg", "curve.svg"}
    assert first == again
    assert first["advantage.svg"] != written(tmp_path / "c", found(row("first", 0.7)))["advantage.svg"]
    for name in ("advantage", "popularity", "curve"):
        assert first[f"{name}.svg"].startswith("<?xml")
        assert f"![{name}]({name}.svg)" in first["report.md"]
    without = written(tmp_path / "d", found(curve=[]))
    assert first.keys() - without.keys() == {"curve.svg"}


def test_without_matplotlib_there_is_everything_but_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*(name for name in sys.modules if name.partition(".")[0] == "matplotlib"), "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    files = written(tmp_path, found())
    assert files.keys() == {"report.json", "report.md", "report.html"}
    assert "<svg" not in files["report.html"]
    assert "![" not in files["report.md"]
    assert table(files["report.md"]) == table(written(tmp_path, found())["report.md"])


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="the report cannot be written") as error:
        report.write(tmp_path / "file" / "below", found())
    assert "\n" not in str(error.value)
