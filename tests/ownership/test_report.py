"""The report of a verdict: what a judge reads, and what is refused before anything is written."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gro.errors import DataError
from gro.ownership.calibration import OTHERS, Calibration, joint
from gro.ownership.evidence import read
from gro.ownership.pictures import null_distribution
from gro.ownership.report import write
from gro.ownership.statement import Statement, signed
from gro.ownership.timestamp import Proof
from tests.conftest import Gro
from tests.ownership.test_timestamp import Authority

HOSTILE = '<script src="//evil">alert(1)</script> & "co"'
COMMITTED = {"triggers": "ab" * 32, "parameters": "cd" * 32, "fingerprint.walk": "ef" * 32}
MARKS = ("triggers", "parameters")
DRAWS = 9_999
FAIR = {"seed": np.linspace(0.02, 1, 50).tolist(), "copy": [0.01, 0.5]}
UNFAIR = {"seed": [0.001] * 5 + [0.5] * 95}
Told = Callable[..., Path]


def others(highest: float = 0.5, draws: int = DRAWS) -> Calibration:
    """What other secrets read: from 0 to the highest in even steps."""
    return Calibration({OTHERS: np.linspace(0, highest, draws).tolist()})


def mark(statistic: float, **changes: Any) -> dict[str, Any]:
    """What a mark found."""
    return {**others().report(statistic), **changes}


def likeness(statistic: float, **changes: Any) -> dict[str, Any]:
    """What a fingerprint found, beside innocents of which those by another seed are the most alike."""
    nulls = {"users": np.linspace(0, 0.3, 50).tolist(), "seed": np.linspace(0.1, 0.5, 150).tolist()}
    return {"fingerprint.walk": {**Calibration(nulls).report(statistic), **changes}}


@pytest.fixture(scope="session")
def statement(plain: Path) -> Statement:
    return signed(plain, Ed25519PrivateKey.generate(), f"Owner {HOSTILE}", COMMITTED, [plain])


@pytest.fixture
def told(statement: Statement, tmp_path: Path) -> Told:
    """Return a function that writes a verdict as ``gro own verify`` does."""

    def told(*statistics: float, verdict: str = "copy", **changes: Any) -> Path:
        nulls = [others(0.5), others(0.7)][: len(statistics)]
        tests = {name: null.report(each) for name, null, each in zip(MARKS, nulls, statistics, strict=False)}
        together = None
        if len(statistics) > 1:
            statistic, null = joint(statistics, {OTHERS: np.column_stack([each.all for each in nulls])})
            together = null.report(statistic)
        decisive = together or next(iter(tests.values()), {"p_value": None})
        values = {
            "suspect": f"https://suspect.example/{HOSTILE}",
            "owner": statement.owner,
            "statement": statement.digest,
            "signed_at": statement.signed_at,
            "made": "2026-11-27T00:00:00+00:00",
            "verdict": verdict,
            "reason": f"because {HOSTILE}",
            "alpha": 0.01,
            "calls": 1234,
            "p_value": None if verdict == "inconclusive" else decisive["p_value"],
            "tests": tests,
            "together": together,
            "likeness": {},
            "control": {},
        }
        (tmp_path / "verdict.json").write_text(json.dumps({**values, **changes}))
        return tmp_path / "verdict.json"

    return told


class Reader(HTMLParser):
    """Collects text, tags, what they refer to, and cells of tables; every tag must be closed."""

    VOID = frozenset({"meta", "br", "path", "use", "rect", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.cells: list[str] = []
        self.said = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "srcset"}]
        self.cells += [""] * (tag == "td")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "srcset"}]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open or "svg" in self._open:
            return
        self.said += data
        if "td" in self._open:
            self.cells[-1] += data


def page(path: Path, statement: Statement, **changes: Any) -> tuple[str, Reader]:
    out = path.with_name("report.html")
    write(out, read(path, statement), **changes)
    text = out.read_text(encoding="utf-8")
    return text, Reader(text)


def said(reader: Reader) -> str:
    return " ".join(reader.said.split())


def test_a_copy_is_told_in_words_that_can_be_counted(told: Told, statement: Statement) -> None:
    text, reader = page(told(0.9), statement)
    words = said(reader)
    assert (
        "The evidence says: a copy. Of 9,999 other secrets that might have been drawn, none reads as much from the "
        "suspect as the owner's does. Had the suspect been made without the owner's model, so much would be read in at "
        "most one case of 10,000 (p = 0.0001)."
    ) in words
    assert "(1 + 0) / (1 + 9,999) = 0.0001" in words
    assert "The suspect was asked 1,234 questions" in words
    assert "The limit for saying so was 1 %: of a hundred suspects that were made without the owner's model" in words
    assert "no p-value can be below 1/10,000" in words
    assert "This needs no other models to compare with" in words
    row = reader.cells.index("Secret rings, learnt by heart")
    effect = (0.9 - 0.25) / float(np.std(np.linspace(0, 0.5, DRAWS), ddof=1))
    assert reader.cells[row + 1 : row + 7] == ["0.9", "0.25", "0.5", "0 of 9,999", f"{effect:.3g}", "0.0001"]
    assert text.count("<svg") == 1


def test_what_is_not_shown_is_no_acquittal(told: Told, statement: Statement) -> None:
    words = said(page(told(0.49, verdict="not shown"), statement)[1])
    assert "The evidence does not show a copy. Of 9,999 other secrets that might have been drawn, 200 read as" in words
    assert "at most one case of 49 (p = 0.0201)" in words
    assert "This does not show that the suspect is innocent" in words
    assert "The evidence says: a copy" not in words


def test_no_verdict_says_why_and_nothing_else(told: Told, statement: Statement) -> None:
    words = said(page(told(verdict="inconclusive", reason="the suspect's answers vary", calls=0), statement)[1])
    assert "There is no verdict. Nothing follows from this examination" in words
    assert "The reason: the suspect's answers vary." in words
    for section in ("What was found", "Do the same secrets accuse innocents?", "Likeness", "other secrets were"):
        assert section not in words


def test_several_marks_are_told_each_and_together_and_the_page_stays_small(told: Told, statement: Statement) -> None:
    text, reader = page(told(0.9, 0.2), statement)
    assert text.count("<svg") == 3
    row = [reader.cells.index(title) for title in ("A message in the weights", "All marks together")]
    assert reader.cells[row[0] + 1 : row[0] + 4] == ["0.2", "0.35", "0.7"]
    assert reader.cells[row[1] + 4] == "84 of 9,999"  # p * p <= 1e-4 * 0.71 where p <= 0.0084
    assert len(text) < 150_000


def test_a_control_is_told_with_what_chance_brings(told: Told, statement: Statement) -> None:
    words = said(reader := page(told(0.9, control=FAIR), statement)[1])
    assert "put to 52 independent models: 1 would be called a copy. What is claimed" in words
    assert "chance alone would call 0.52 of them a copy on average. 1 would be. That is no more than chance" in words
    row = reader.cells.index("copy: copied, as thieves do it, from such an independent model")
    assert reader.cells[row + 1 : row + 3] == ["2", "1"]
    assert "It was not done here" not in words


def test_a_control_that_was_not_done_is_asked_for(told: Told, statement: Statement) -> None:
    words = said(page(told(0.9), statement)[1])
    assert "Whether the same secrets would accuse innocents too was not tried" in words
    assert "It was not done here." in words


def test_secrets_that_accuse_innocents_accuse_nobody(told: Told, statement: Statement) -> None:
    words = said(page(told(0.9, verdict="inconclusive", control=UNFAIR), statement)[1])
    assert "There is no verdict." in words
    assert "put to 100 independent models: 5 would be called a copy" in words
    assert "in less than one of 100 such trials: these secrets fit models that know nothing of them" in words
    assert "Had the suspect been made without" not in words


def test_likeness_is_told_apart_and_decides_nothing(told: Told, statement: Statement) -> None:
    without = said(page(told(0.9), statement)[1])
    text, reader = page(told(0.9, likeness=likeness(0.4999)), statement)
    words = said(reader)
    assert text.count("<svg") == 2
    assert "Likeness This decides nothing." in words
    assert "independent models that are trained to the end are alike too" in words
    assert "Of 200 independent models, 1 is at least as like the owner's model" in words
    row = reader.cells.index("users: made from the data of only some of the people")
    assert reader.cells[row + 1 : row + 5] == ["50", "0.15", "0.3", "0"]
    assert "This decides nothing." not in without
    verdict = slice(words.index("The evidence says"), words.index("What is claimed"))
    assert words[verdict] == without[verdict]


def test_likeness_alone_is_no_verdict(told: Told, statement: Statement) -> None:
    words = said(page(told(verdict="inconclusive", likeness=likeness(0.9)), statement)[1])
    assert "There is no verdict." in words
    assert "This decides nothing." in words
    assert "What was found" not in words


@pytest.mark.parametrize(
    ("nulls", "labels"),
    [
        ({OTHERS: [0.1, 0.2]}, ("what secrets read from the suspect", "other secrets", "the owner's secret")),
        ({"seed": [0.1], "$x": [0.2]}, ("likeness to the owner's model", "independent models", "the suspect")),
    ],
)
def test_a_picture_says_what_is_compared(nulls: dict[str, list[float]], labels: tuple[str, ...]) -> None:
    drawn = null_distribution(nulls, 0.9)
    assert all(f"<!-- {label} -->" in drawn for label in labels)


def test_the_owners_word_and_what_proves_it_are_told_apart(told: Told, statement: Statement) -> None:
    words = said(page(told(0.9), statement)[1])
    assert f"{statement.signed_at[:10]} {statement.signed_at[11:19]} UTC: the owner's own word, and no proof" in words
    assert "No date is proven here." in words
    assert "That the key is the owner's was not checked" in words
    for digest in (statement.digest, statement.artifact.weights, statement.public_key, *COMMITTED.values()):
        assert digest in words
    assert "The key is the one that was given as the owner's own." in said(page(told(0.9), statement, known=True)[1])


def test_a_proven_date_counts_only_if_it_is_before_the_examination(told: Told, statement: Statement) -> None:
    for day, late in ((26, False), (28, True)):
        proof = Proof(datetime(2026, 11, day, tzinfo=UTC), f"CN={HOSTILE}")
        words = said(page(told(0.9), statement, proof=proof)[1])
        assert f"2026-11-{day} 00:00 UTC: at this time the statement existed, by the word of CN={HOSTILE}" in words
        assert ("The proven date is later than the examination." in words) == late
        assert "No date is proven" not in words


def test_what_was_committed_to_and_not_examined_is_told(told: Told, statement: Statement) -> None:
    words = said(page(told(0.9), statement)[1])
    assert "are the things that the owner also committed to as “fingerprint.walk”, “parameters”: nothing" in words
    assert "Not everything that this statement commits to was examined" in words
    words = said(page(told(0.9, 0.8, likeness=likeness(0.4)), statement)[1])
    assert "Not part of this examination" not in words
    assert "everything that it commits to was examined" in words


def test_hostile_names_are_text_and_the_page_needs_nothing_from_elsewhere(told: Told, statement: Statement) -> None:
    alike = likeness(0.9)["fingerprint.walk"]
    alike |= {"nearest": HOSTILE, "nulls": {HOSTILE: alike["nulls"]["seed"]}}
    changes = {"likeness": {"fingerprint.walk": alike}, "control": UNFAIR | {HOSTILE: [0.5]}}
    text, reader = page(told(0.9, verdict="inconclusive", **changes), statement)
    assert "<script" not in text
    assert reader.said.count(HOSTILE) >= 6
    assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(reader.tags)
    assert all(reference.startswith("#") for reference in reader.references)
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import", text)


def test_the_same_verdict_makes_the_same_page(told: Told, statement: Statement) -> None:
    assert page(told(0.9, 0.8), statement)[0] == page(told(0.9, 0.8), statement)[0]


def test_without_matplotlib_there_is_everything_but_pictures(
    told: Told, statement: Statement, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = said(page(told(0.9), statement)[1])
    for name in [*(name for name in sys.modules if name.partition(".")[0] == "matplotlib"), "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    text, reader = page(told(0.9), statement)
    assert "<svg" not in text
    assert said(reader) == words


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"p_value": 0.001}, r"is 'copy' with p = 0\.0001, not 'copy' with p = 0\.001"),
        ({"p_value": None}, r"is 'copy' with p = 0\.0001, not 'copy'$"),
        ({"tests": {}}, "is 'inconclusive', not 'copy' with p"),
        ({"tests": {}, "likeness": likeness(0.9)}, "is 'inconclusive', not 'copy' with p"),
        ({"tests": {}, "verdict": "not shown"}, "is 'inconclusive', not 'not shown' with p"),
        ({"verdict": "not shown"}, "is 'copy' with p = 0.0001, not 'not shown'"),
        ({"verdict": "inconclusive"}, "is 'copy' with p = 0.0001, not 'inconclusive'"),
        ({"alpha": 0.00001}, "is 'inconclusive', not 'copy' with p"),
        ({"control": UNFAIR}, "is 'inconclusive', not 'copy' with p"),
        ({"control": UNFAIR, "verdict": "not shown"}, "is 'inconclusive', not 'not shown' with p"),
        ({"tests": {"triggers": mark(0.9, p_value=0.00001)}}, "'triggers': p = 1e-05 does not follow"),
        ({"tests": {"triggers": mark(0.9, nearest="users\n")}}, r"nearest are 'other secrets', not 'users\\n'"),
        ({"tests": {"triggers": likeness(0.9)["fingerprint.walk"]}}, "compared with 'other secrets' and nothing else"),
        ({"tests": likeness(0.9)}, "not all that the statement commits to, and no others"),
        ({"tests": {"parameters": mark(0.9)}}, "not all that the statement commits to, and no others"),
        ({"tests": {"triggers": mark(0.9), "promotion": mark(0.9)}}, "not all that the statement commits to"),
        ({"tests": {"triggers": mark(0.9), "parameters": mark(0.9)}}, "'together' is told of several marks"),
        ({"together": mark(0.9)}, "'together' is told of several marks"),
        ({"likeness": {"fingerprint.cold": mark(0.9)}}, "a likeness that the statement does not commit to"),
        ({"likeness": likeness(0.9, p_value=0.5)}, "'fingerprint.walk': p = 0.5 does not follow"),
    ],
)
def test_a_verdict_that_its_numbers_do_not_bear_out_is_refused(
    told: Told, statement: Statement, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(DataError, match=f"verdict.json: altered: .*{why}") as error:
        read(told(0.9, **changes), statement)
    assert "\n" not in str(error.value)


def test_marks_are_put_together_again(told: Told, statement: Statement) -> None:
    """No mark is found, and the joint statistic says that one is."""
    for null, why in ((others(), "does not follow from the marks"), (others(draws=500), "of different number")):
        found = null.report(0.9)
        with pytest.raises(DataError, match=f"altered: .*{why}"):
            read(told(0.2, 0.2, together=found, p_value=found["p_value"]), statement)


def test_another_statement_is_refused(told: Told, statement: Statement) -> None:
    with pytest.raises(DataError, match=rf"rests on the statement {'0' * 64}, not on {statement.digest}"):
        read(told(0.9, statement="0" * 64), statement)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"verdict": "guilty"}', b'{"tests": {"\\n": 1}}']
)
def test_what_is_no_verdict_is_one_line(tmp_path: Path, statement: Statement, content: bytes) -> None:
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(DataError, match="not a verdict of") as error:
        read(tmp_path / "v", statement)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "nothing", statement)


@pytest.mark.parametrize(
    "changes",
    [
        {"tests": {"triggers": mark(float("nan"))}},
        {"tests": {"triggers": mark(float("inf"))}},
        {"tests": {"triggers": mark(0.9, nulls={})}},
        {"tests": {"triggers": mark(0.9, nulls={OTHERS: []})}},
        {"control": {"seed": [-0.01]}},
        {"control": {"seed": [1.01]}},
        {"alpha": 0},
        {"alpha": 1},
        {"statement": "no digest\n"},
    ],
)
def test_figures_that_are_none_are_refused(told: Told, statement: Statement, changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="not a verdict of") as error:
        read(told(0.9, **changes), statement)
    assert "\n" not in str(error.value)


def test_keygen_and_report_by_commands(gro: Gro, plain: Path, told: Told, statement: Statement, tmp_path: Path) -> None:
    key, other = tmp_path / "owner.key", tmp_path / "other.key"
    made = gro("own", "keygen", key, "--json").json
    assert made["public_key_file"] == f"{key}.pub"
    assert "is there already" in gro("own", "keygen", key).line
    gro("own", "keygen", other)
    path = tmp_path / "statement.json"
    statement.write(path)
    verdict, out = told(0.9), tmp_path / "out" / "report.html"
    arguments = ("own", "report", verdict, "--statement", path, "--out", out)
    assert "wrong key" in gro(*arguments, "--public-key", f"{other}.pub").line
    assert "both --token and --authority" in gro(*arguments, "--token", path).line
    assert not out.exists()
    assert gro(*arguments, "--json").json == {
        "report": str(out),
        "verdict": "copy",
        "owner_key_checked": False,
        "proven_time": None,
    }
    assert hashlib.sha256(verdict.read_bytes()).hexdigest() in out.read_text()
    authority = Authority(tmp_path / "authority", "Time & Co")
    proof = ("--token", authority.stamp(path), "--authority", authority.root)
    assert datetime.fromisoformat(gro(*arguments, *proof, "--json").json["proven_time"]).tzinfo is not None
    assert "CN=Time &amp; Co (SHA-256 " in out.read_text()
