from __future__ import annotations

import json
import math

import pytest

from gro.cli.output import percent, show
from gro.cli.settings import Output


@pytest.mark.parametrize(
    ("value", "interval", "shown"),
    [
        (0.131, None, "13.10"),
        (-0.0749, None, "-7.49"),
        (0.5, [0.25, 0.75], "50.00 [25.0, 75.0]"),
        (None, None, "-"),
        (math.nan, [0.1, 0.2], "-"),
    ],
)
def test_percent(value: float | None, interval: list[float] | None, shown: str) -> None:
    assert percent(value, interval) == shown


def test_json_is_one_valid_object_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    report = {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": (-math.inf, None)}}
    assert show(Output(json_=True), report, "title", ["x"], [["y"]]) == 0
    text = capsys.readouterr().out
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [None, 1.5], "c": {"d": [None, None]}}


def test_plain_table_is_as_wide_as_its_cells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["a" * 200, "1.00", "3.11.7 x"], ["b [link] :smile:", "-12.00 [1.0, 2.0]", "-"]]
    texts = []
    for columns in ("20", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        show(Output(), {}, "title", ["name", "HR@10 %", "found"], rows)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    title, header, first, second = texts[0].splitlines()
    assert title == "title"
    assert header.index("HR@10 %") + len("HR@10 %") == first.index("1.00") + len("1.00")
    assert header.index("found") == first.index("3.11.7 x")
    assert "b [link] :smile:" in second


def test_table_without_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(Output(), {}, "nothing", ["name"], []) == 0
    assert capsys.readouterr().out.startswith("nothing\n")
