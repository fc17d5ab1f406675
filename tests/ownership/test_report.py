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
from gro.ownership.calibration import Calibration
from gro.ownership.evidence import read
from gro.ownership.report import write
from gro.ownership.statement import Statement, signed
from gro.ownership.timestamp import Proof
from tests.conftest import Gro
from tests.ownership.test_timestamp import Authority

HOSTILE = '<script src="//evil">alert(1)</script> & "co"'
COMMITTED = {"fingerprint": "ab" * 32, "promotion": "cd" * 32}
Told = Callable[..., Path]


def finding(statistic: float, near: int = 150, far: int = 50, **changes: Any) -> dict[str, Any]:
    """What a test found, with innocents from 0 to 0.5 of which those by another seed are the most alike."""
    nulls = {"users": np.linspace(0, 0.3, far).tolist(), "seed": np.linspace(0.1, 0.5, near).tolist()}
    null = Calibration(nulls)
    return {**null.report(statistic), **changes}


@pytest.fixture(scope="session")
def statement(plain: Path) -> Statement:
    return signed(plain, Ed25519PrivateKey.generate(), f"Owner {HOSTILE}", COMMITTED, [plain])


@pytest.fixture
def told(statement: Statement, tmp_path: Path) -> Told:
    """Return a function that writes a verdict as ``gro own verify`` does."""

    def told(*statistics: float, verdict: str = "copy", **changes: Any) -> Path:
        tests = {name: finding(value) for name, value in zip(COMMITTED, statistics, strict=False)}
        together = finding(float(np.mean(statistics))) if len(statistics) > 1 else None
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
            "p_value": decisive["p_value"],
            "tests": tests,
            "together": together,
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
    assert "The evidence says: a copy. Of 200 independent models, none is as like" in words
    assert "at most one case of 151 (p = 0.00662)" in words
    assert "(1 + 0) / (1 + 150) = 0.00662" in words
    assert "The suspect was asked 1,234 questions" in words
    assert "The limit for saying so was 1 %: of a hundred independent models" in words
    assert "no p-value can be below 1/151" in words
    effect = (0.9 - 0.3) / float(np.std(np.linspace(0.1, 0.5, 150), ddof=1))
    assert f"The suspect lies {effect:.3g} standard deviations above the average" in words
    assert text.count("<svg") == 1


def test_what_is_not_shown_is_no_acquittal(told: Told, statement: Statement) -> None:
    words = said(page(told(0.4999, verdict="not shown"), statement)[1])
    assert "The evidence does not show a copy. Of 200 independent models, 1 is at least as like" in words
    assert "at most one case of 75 (p = 0.0132)" in words
    assert "This does not show that the suspect is innocent" in words
    assert "The evidence says: a copy" not in words


def test_no_verdict_says_why_and_nothing_else(told: Told, statement: Statement) -> None:
    words = said(page(told(verdict="inconclusive", reason="the suspect's answers vary", calls=0), statement)[1])
    assert "There is no verdict. Nothing follows from this examination" in words
    assert "The reason: the suspect's answers vary." in words
    assert "What was found" not in words
    assert "standard deviations above" not in words


def test_several_tests_are_told_each_and_together(told: Told, statement: Statement) -> None:
    text, reader = page(told(0.9, 0.2), statement)
    assert text.count("<svg") == 3
    words = said(reader)
    for title in ("Shared answers to secret questions", "Secretly favoured items", "All tests together"):
        assert title in words
    assert reader.cells.count("the suspect") == 3
    row = reader.cells.index("users: made from the data of only some of the people")
    assert reader.cells[row + 1 : row + 5] == ["50", "0.15", "0.3", "0"]


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
    assert "Not part of this examination is what the owner also committed to as “promotion”" in words
    assert "Not everything that this statement commits to was examined" in words
    words = said(page(told(0.9, 0.8), statement)[1])
    assert "Not part of this examination" not in words
    assert "everything that it commits to was examined" in words


def test_hostile_names_are_text_and_the_page_needs_nothing_from_elsewhere(told: Told, statement: Statement) -> None:
    strange = finding(0.9)
    path = told(0.9, tests={HOSTILE: strange}, verdict="inconclusive")
    text, reader = page(path, statement)
    assert "<script" not in text
    assert reader.said.count(HOSTILE) >= 4
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
        ({"p_value": 0.001}, "the p-value of the verdict is not that of its tests"),
        ({"p_value": None}, "the p-value of the verdict is not that of its tests"),
        ({"tests": {}}, "the p-value of the verdict is not that of its tests"),
        ({"verdict": "not shown"}, r"'not shown' does not follow from p = 0\.00662"),
        ({"alpha": 0.001}, r"'copy' does not follow from p = 0\.00662"),
        ({"tests": {"fingerprint": finding(0.9, p_value=0.0001)}}, "'fingerprint': p = 0.0001 does not follow"),
        ({"tests": {"fingerprint": finding(0.9, nearest="users")}}, "nearest are 'seed', not 'users'"),
    ],
)
def test_a_verdict_that_its_numbers_do_not_bear_out_is_refused(
    told: Told, statement: Statement, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(DataError, match=f"verdict.json: altered: .*{why}") as error:
        read(told(0.9, **changes), statement)
    assert "\n" not in str(error.value)


def test_another_statement_is_refused(told: Told, statement: Statement) -> None:
    with pytest.raises(DataError, match=rf"rests on the statement {'0' * 64}, not on {statement.digest}"):
        read(told(0.9, statement="0" * 64), statement)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"verdict": "guilty"}', b'{"alpha": NaN}'],
)
def test_what_is_no_verdict_is_one_line(tmp_path: Path, statement: Statement, content: bytes) -> None:
    (tmp_path / "v").write_bytes(content)
    with pytest.raises(DataError, match="not a verdict of") as error:
        read(tmp_path / "v", statement)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "nothing", statement)


@pytest.mark.parametrize("statistic", [float("nan"), float("inf")])
def test_figures_that_are_none_are_refused(told: Told, statement: Statement, statistic: float) -> None:
    changed = {"tests": {"fingerprint": {**finding(0.9), "statistic": statistic}}}
    with pytest.raises(DataError, match="not a verdict of") as error:
        read(told(0.9, **changed), statement)
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
