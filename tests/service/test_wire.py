from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import GroError
from gro.service.core import Refused
from gro.service.wire import Question, Wire, WireSettings

WIRE = Wire(WireSettings(n_items=50, longest=20, most_histories=8, most_k=10, most_bytes=10_000))
histories = st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=20), min_size=1, max_size=8)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["histories", "k"]), inner),
)


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def refusal(content: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        WIRE.question(content)
    return caught.value


def test_a_whole_number_is_an_integer_however_it_is_written() -> None:
    assert WIRE.question(b'{"histories": [[1.0, 2e0]], "k": 3.0}') == Question([[1, 2]], 3)


@given(histories, st.none() | st.integers(1, 10))
def test_a_question_is_read_as_it_was_asked(asked: list[list[int]], k: int | None) -> None:
    fields = {"histories": asked} | ({} if k is None else {"k": k})
    assert WIRE.question(body(**fields)) == Question(asked, k or 10)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_one_history_needs_no_list_around_it(asked: list[int]) -> None:
    assert WIRE.question(body(histories=asked)).histories == [asked]


def answer(content: bytes) -> Question | Refused:
    try:
        return WIRE.question(content)
    except Refused as refused:
        return refused


@given(anything)
def test_whatever_else_is_sent_is_refused_in_one_line_or_a_question_within_bounds(sent: Any) -> None:
    found = answer(json.dumps(sent).encode())
    if isinstance(found, Question):
        assert all(1 <= item <= 50 for history in found.histories for item in history)
        assert 1 <= found.k <= 10
    else:
        assert found.status == 400
        assert "\n" not in found.detail


@given(st.binary(max_size=200))
def test_bytes_are_refused_or_a_question(sent: bytes) -> None:
    found = answer(sent)
    assert isinstance(found, Question) or found.status == 400


@pytest.mark.parametrize(
    "asked",
    [
        [],
        [[]],
        [0],
        [51],
        [1.5],
        ["1"],
        [True],
        [None],
        [[1], 2],
        [[1], []],
        {"a": 1},
        "12",
        1,
        [[[1]]],
        [[1]] * 9,
        [1] * 21,
    ],
)
def test_histories_that_are_none_are_refused_and_told_what_would_be_right(asked: object) -> None:
    told = refusal(body(histories=asked))
    assert (told.status, told.code) == (400, "question_malformed")
    assert "whole numbers from 1 to 50" in told.detail
    assert told.detail.startswith("histories")


@pytest.mark.parametrize("k", [0, -1, 11, 1.5, "1", True, None, [1]])
def test_a_length_that_is_none_is_refused(k: object) -> None:
    assert "k is 1 to 10" in refusal(body(histories=[1], k=k)).detail


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"[1]",
        b"{",
        b'"histories"',
        b"\xff",
        b'{"histories": [1], "histories": [2]}',
        b'{"histories": [NaN]}',
        b'{"histories": [' + b"9" * 5000 + b"]}",
        b"[" * 5000,
        b'{"histories": ' + b"[" * 4000 + b"]" * 4000 + b"}",
    ],
)
def test_tricks_with_json_are_refused(sent: bytes) -> None:
    assert refusal(sent).status == 400


def test_a_body_that_is_too_large_is_not_read() -> None:
    told = refusal(b" " * 10_001)
    assert (told.status, told.code) == (413, "body_too_large")
    assert "10,000 bytes" in told.detail


def test_the_names_of_fields_are_the_services() -> None:
    wire = Wire(WireSettings(histories="session", k="n", lists="items"))
    assert wire.question(b'{"session": [3, 4], "n": 5}') == Question([[3, 4]], 5)
    assert wire.lists(b'{"items": [7, 8]}') == [[7, 8]]
    assert wire.lists(b'{"items": [[7], [8]]}') == [[7], [8]]


@pytest.mark.parametrize("sent", [b"", b"{}", b"[]", b"null", b'{"list": [1]}'])
def test_a_response_without_lists_is_said_to_have_none(sent: bytes) -> None:
    with pytest.raises(GroError, match="no field 'lists'"):
        WIRE.lists(sent)


def test_other_lists_take_the_place_of_those_of_a_response() -> None:
    assert json.loads(WIRE.with_lists(b'{"lists": [[1, 2]], "model": "m"}', [[3, 4]])) == {
        "lists": [[3, 4]],
        "model": "m",
    }
    assert json.loads(WIRE.with_lists(b'{"lists": [1, 2]}', [[3, 4]])) == {"lists": [3, 4]}
