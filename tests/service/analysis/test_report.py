"""The report as it is read, what it refuses, and the command."""

from __future__ import annotations

import gzip
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from gro.errors import ConfigError, DataError, GroError, MissingExtraError
from gro.service.analysis import survey as surveying
from gro.service.analysis.analyse import analyse
from gro.service.analysis.report import MADE_BY

Calls = list[Any]
Logged = Callable[[Iterable[Any]], Path]
Gro = Any
THIEF = "<b>thief</b> & $x$"
VOID = {"meta", "br", "hr", "img", "input", "link"}
PICTURES = 6
STRANGE = [
    "a\nb\tc\x00\x1b[31m",
    "\u202egnp.exe",
    "$\\frac{1}{2}$ $",
    "推薦者" * 300,
    "</svg></figure><script>alert(1)</script>-->",
    "\ud83d\ude00{{ 7 * 7 }}{% raw %}",
]


class Page(HTMLParser):
    """Reads a page and fails where a tag is not closed by its own."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.labels: list[str] = []
        self.references: list[str] = []
        self.words: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(self.text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open += [] if tag in VOID else [tag]
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "srcset"}]
        if tag == "figure":
            self.labels.append(dict(attrs)["aria-label"] or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.words[self._open[-1]] = self.words.get(self._open[-1], "") + data


def call(account: str = "a", time: float = 1e9, history: Iterable[int] = (1, 2), listed: Iterable[int] = (3, 4)) -> Any:
    class Made:
        pass

    made = Made()
    made.__dict__.update(
        account=account, time=time, history=np.array([*history], np.int64), listed=np.array([*listed], np.int64)
    )
    return made


def refused(kind: type[GroError], out: Path, **settings: Any) -> str:
    with pytest.raises(kind) as error:
        analyse(out=out, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_thief_is_named_and_people_are_not(report: Any) -> None:
    page = Page(report.folder / "report.html")
    assert page.words["bdi"] == THIEF
    assert "1 account of the 31 that could be judged is flagged" in page.words["strong"]
    assert "share of next items that stood in the list answered just before" in page.words["li"]
    for text in (page.text, (report.folder / "report.json").read_text()):
        assert "user-" not in text
    assert "<b>" not in page.text
    assert "&lt;b&gt;thief&lt;/b&gt; &amp; $x$" in page.text


def test_the_page_holds_every_picture_and_needs_nothing_from_elsewhere(report: Any) -> None:
    page = Page(report.folder / "report.html")
    pictures = re.findall(r"<svg.*?</svg>", page.text, re.DOTALL)
    assert len(pictures) == page.tags.count("svg") == len(page.labels) == PICTURES
    assert all(len(ET.fromstring(picture)) for picture in pictures)
    assert all(label.endswith(".") and len(label) > 60 for label in page.labels)
    assert page.text.count("What would look wrong:") == PICTURES
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(page.tags)
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import", page.text)


def test_a_report_is_the_same_when_made_again_and_json_says_what_it_returned(
    report: Any, log: Path, calibrated: Path
) -> None:
    first = {path.name: path.read_bytes() for path in report.folder.iterdir()}
    assert first.keys() == {"report.html", "report.json"}
    assert analyse(log=log, calibration=calibrated, out=report.folder) == report.numbers
    assert first == {path.name: path.read_bytes() for path in report.folder.iterdir()}
    assert json.loads(first["report.json"]) == json.loads(json.dumps({"made_by": MADE_BY, **report.numbers}))


def test_without_a_calibration_the_report_says_that_nobody_is_flagged(log: Path, tmp_path: Path) -> None:
    analyse(log=log, out=tmp_path / "report")
    page = Page(tmp_path / "report" / "report.html")
    assert "No account is flagged, because no calibration was given." in page.words["strong"]
    assert page.words["bdi"].startswith(THIEF)
    assert page.tags.count("svg") == PICTURES


def test_nobody_who_is_honest_is_flagged_and_the_report_says_so(
    logged: Logged, world: Any, calibrated: Path, tmp_path: Path
) -> None:
    found = analyse(log=logged(world(13).people(20)), calibration=calibrated, out=tmp_path / "report")
    page = Page(tmp_path / "report" / "report.html")
    assert found["listed"] == []
    assert "No account is flagged." in page.words["strong"]
    assert "user-" not in page.text


def test_a_calibration_of_another_catalogue_is_told(
    logged: Logged, calls: Calls, calibrated: Path, tmp_path: Path
) -> None:
    moved = [call(each.account, each.time, each.history + 10_000, each.listed + 10_000) for each in calls]
    analyse(log=logged(moved), calibration=calibrated, out=tmp_path / "report")
    assert "The calibration does not fit this log:" in Page(tmp_path / "report" / "report.html").words["strong"]


@pytest.mark.parametrize(
    "made",
    [
        [call()],
        [call(history=(), listed=())],
        [call(listed=()), call(history=())],
        [call(f"once-{number}", 1e9 + number) for number in range(30)],
        [call(time=1e9) for _ in range(30)],
        [call(time=time) for time in (-1e300, 0.0, 1e300)],
        [call(time=1.7e12 + number) for number in range(10)],
        [call(history=[2**63 - 1], listed=[2**63 - 1 - n for n in range(200)]) for _ in range(9)],
        [call(name, 1e9 + n, range(1, n + 2)) for name in STRANGE for n in range(10)],
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_logs_that_say_little_and_names_that_say_too_much_make_a_report(
    logged: Logged, calibrated: Path, tmp_path: Path, made: Calls, known: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = analyse(log=logged(made), out=tmp_path / "report", calibration=calibrated if known else None)
    page = Page(tmp_path / "report" / "report.html")
    assert found["about"]["calls"] == len(made)
    assert page.tags.count("svg") + page.text.count('class="nothing">Nothing to draw') == PICTURES
    assert {"script", "b"} & set(page.tags) == set()


def test_files_follow_each_other_and_may_be_compressed(
    report: Any, log: Path, calibrated: Path, tmp_path: Path
) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    first, second = tmp_path / "first.gz", tmp_path / "second"
    first.write_bytes(gzip.compress(b"".join(lines[:700])))
    second.write_bytes(b"".join(lines[700:]))
    found = analyse(log=(first, second), calibration=calibrated, out=tmp_path / "report")
    assert found["about"].pop("files") == [str(first), str(second)]
    assert found == {**report.numbers, "about": {k: v for k, v in report.numbers["about"].items() if k != "files"}}


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n")
    assert "holds no calls" in refused(DataError, tmp_path / "report", log=tmp_path / "log")
    assert not (tmp_path / "report").exists()


def test_times_that_are_none_are_refused(logged: Logged, tmp_path: Path) -> None:
    said = refused(DataError, tmp_path / "report", log=logged([call(time=-1e308), call(time=1.7e308)]))
    assert "not Unix seconds" in said


def test_what_can_be_read_only_once_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "must be a file" in refused(DataError, tmp_path / "report", log=tmp_path / "pipe")


def test_a_log_that_is_cut_while_it_is_read_is_refused(
    logged: Logged, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logged(calls)

    def cut(read: int) -> None:
        log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-3]))

    monkeypatch.setattr(surveying, "EVERY", len(calls))
    with pytest.raises(DataError, match="changed while it was read"):
        analyse(cut, log=log, out=tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("thesis.tex", "years of work"),
        ("report.json", "{}"),
        ("report.json", '{"made_by": "gro redteam"}'),
        ("report.json", "[]"),
        ("report.html", "<html></html>"),
    ],
)
def test_a_folder_that_holds_something_else_is_left_alone(log: Path, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text(content)
    assert "not replaced" in refused(ConfigError, tmp_path / "mine", log=log)
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == [content]


def test_a_file_is_no_folder(log: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file" in refused(ConfigError, tmp_path / "file", log=log)


def test_without_matplotlib_the_extra_is_named_before_the_log_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [*(name for name in sys.modules if name.partition(".")[0] == "matplotlib"), "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    said = refused(MissingExtraError, tmp_path / "report", log=tmp_path / "nothing")
    assert "pip install 'gro[plot]'" in said


def test_the_command_prints_who_stands_out(gro: Gro, log: Path, calibrated: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    answer = gro("logs", "analyse", log, "--calibration", calibrated, "--out", out)
    assert answer.code == 0
    assert f"read {out / 'report.html'}" in answer.out
    assert "1 of 31 judged accounts flagged" in answer.out
    assert THIEF in answer.out
    assert "user-" not in answer.out
    told = gro("logs", "analyse", log, "--calibration", calibrated, "--out", out, "--json").json
    assert [row["account"] for row in told["listed"]] == [THIEF]
    assert told["report"] == str(out / "report.html")


def test_wrong_input_is_one_line(gro: Gro, log: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    (tmp_path / "broken").write_text('{"time": 1}\n')
    for said, arguments in {
        "LOG must be given": (),
        "no such file": (tmp_path / "none",),
        "broken:1": (tmp_path / "broken",),
        "not a calibration": (log, "--calibration", log),
        "is a file": (log, "--out", tmp_path / "broken"),
    }.items():
        answer = gro("logs", "analyse", *arguments, *(() if "--out" in arguments else ("--out", out)))
        assert answer.code == 2
        assert said in answer.line
    assert not out.exists()
