from __future__ import annotations

import re
from collections.abc import Callable

import pytest

import gro.data
from gro.config import DataSettings
from gro.data import Sequences
from gro.errors import DataError

Write = Callable[..., DataSettings]

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"
RATED = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ROWS = "u1\ta\t1\nu1\tb\t2\nu1\tc\t3\nu2\tb\t1\nu2\tc\t9\nu2\ta\t5\n"


def tokens(sequences: Sequences) -> dict[str, list[str]]:
    """Histories in tokens, by user token."""
    return {
        str(user): sequences.item_tokens[sequences.history(u)].tolist() for u, user in enumerate(sequences.user_tokens)
    }


def test_ids_follow_first_appearance_and_rows_follow_time(write: Write) -> None:
    sequences = gro.data.load(write(HEADER + ROWS))
    assert sequences.item_tokens.tolist() == ["[PAD]", "a", "b", "c"]
    assert sequences.user_tokens.tolist() == ["u1", "u2"]
    assert sequences.items.tolist() == [1, 2, 3, 2, 1, 3]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param((HEADER + ROWS).replace("\n", "\r\n"), id="CRLF"),
        pytest.param((HEADER + ROWS).removesuffix("\n"), id="no final newline"),
        pytest.param("\ufeff" + HEADER + ROWS, id="byte order mark"),
        pytest.param(HEADER + ROWS.replace("\n", "\n\n"), id="empty lines"),
        pytest.param((HEADER + ROWS).replace("\n", "\n\n").replace("\n", "\r\n"), id="empty CRLF lines"),
    ],
)
def test_line_ends_do_not_matter(write: Write, content: str) -> None:
    assert gro.data.load(write(content)).digest == gro.data.load(write(HEADER + ROWS)).digest


def test_tokens_stay_strings(write: Write) -> None:
    rows = 'NA\t01\t1\nNA\t1\t2\nNA\t1.0\t3\nNA\tnan\t4\nNA\t"é\t5\nNA\t x \t6\n'
    assert tokens(gro.data.load(write(HEADER + rows))) == {"NA": ["01", "1", "1.0", "nan", '"é', " x "]}


def test_leading_zeros_count_where_every_token_is_a_number(write: Write) -> None:
    sequences = gro.data.load(write(HEADER + "007\t01\t1\n007\t1\t2\n007\t001\t3\n"))
    assert tokens(sequences) == {"007": ["01", "1", "001"]}


def test_other_columns_are_skipped_wherever_they_stand(write: Write) -> None:
    header = "title:token_seq\ttimestamp:float\tgenre:token\tuser_id:token\tvec:float_seq\titem_id:token\n"
    rows = "a b\t3\tx\tu\t1 2\tp\n\t1\t\tu\t\tq\nz\t2\t\tu\tbad\tr\n"
    assert tokens(gro.data.load(write(header + rows))) == {"u": ["q", "r", "p"]}


def test_names_and_separator_are_settings(write: Write) -> None:
    rows = "who:token,what:token,when:float\nu,p,3\nu,q,1\nu,r,2\n"
    fields = {"user_id_field": "who", "item_id_field": "what", "time_field": "when", "field_separator": ","}
    assert tokens(gro.data.load(write(rows, **fields))) == {"u": ["q", "r", "p"]}


BAD = {
    "empty file": ("", ": the file is empty"),
    "blank file": ("\n\n", ": the file is empty"),
    "header only": (HEADER, ": there is a header but no interaction"),
    "one column": ("user_id:token\nu\n", ":1: no column 'item_id' (item_id_field); the file has user_id"),
    "wrong separator": ((HEADER + ROWS).replace("\t", ","), "user_id:token,item_id:token,timestamp:float"),
    "no types": ("user_id\titem_id\ttimestamp\nu\ta\t1\n", ":1: column 'user_id' is not name:type"),
    "unknown type": (HEADER.replace("float", "int") + ROWS, ":1: column 'timestamp:int' is not name:type"),
    "name twice": (HEADER.replace("item_id", "user_id") + ROWS, ":1: a column name occurs twice"),
    "time is a token": (HEADER.replace("float", "token") + ROWS, "'timestamp' (time_field) is token; it must be float"),
    "user is a float": (HEADER.replace("user_id:token", "user_id:float") + ROWS, "'user_id' (user_id_field) is float"),
    "no time": ("user_id:token\titem_id:token\nu\ta\n", ":1: no column 'timestamp' (time_field)"),
    "not UTF-8": ((HEADER + ROWS).encode() + b"caf\xe9\ta\t1\n", ":8: not UTF-8 (byte 0xe9)"),
    "UTF-16": ((HEADER + ROWS).encode("utf-16"), ":1: not UTF-8"),
    "NUL": (HEADER + ROWS + "u\0\ta\t1\n", ":8: stray NUL"),
    "carriage return": (HEADER + ROWS + "u\ra\t1\n", ":8: stray carriage return"),
    "short row": (HEADER + ROWS + "u3\ta\n", ":8: 2 cells where the header has 3 columns"),
    "long row": (HEADER + "u0\ta\t1\t1\n" + ROWS, ":2: 4 cells where the header has 3 columns"),
    "blanks": (HEADER + ROWS + "  \n", ":8: 1 cells"),
    "ill-typed time": (HEADER + ROWS + "\nu3\ta\tnoon\n", ":9: column 'timestamp' is 'noon', not a number"),
    "ill-typed rating": (RATED + "u\ta\t\t1\nu\tb\tx\t1\n", ":3: column 'rating' is 'x', not a number"),
    "no time given": (HEADER + ROWS + "u3\ta\t\n", ":8: column 'timestamp' is empty or NaN"),
    "time NaN": (HEADER + ROWS + "u3\ta\tnan\n", ":8: column 'timestamp' is "),
    "negative time": (HEADER + ROWS + "u3\ta\t-5\n", ":8: column 'timestamp' is -5"),
    "endless time": (HEADER + "u3\ta\tinf\n" + ROWS, ":2: column 'timestamp' is inf"),
    "no user": (HEADER + ROWS + "\ta\t1\n", ":8: column 'user_id' is empty"),
    "no item": (HEADER + ROWS + "\nu\t\t1\n", ":9: column 'item_id' is empty"),
    "identical rows": (HEADER + ROWS + "u1\tb\t2.0\n", ":8: same user, item and time as line 3; set rm_dup_inter"),
    "short history": (
        HEADER + ROWS + "u3\ta\t1\nu4\ta\t1\nu4\tb\t1\n",
        (
            "user 'u3' has 1 interaction(s); leave-one-out needs 3 and 2 user(s) have fewer; "
            'set user_inter_num_interval = "[3,inf)"'
        ),
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_file_is_one_line_that_says_where(write: Write, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        gro.data.load(write(content))
    assert "toy" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_remedies_work(write: Write) -> None:
    twice = HEADER + ROWS + "u1\tb\t2.0\n"
    assert gro.data.load(write(twice, rm_dup_inter="first")).n_interactions == 6
    assert gro.data.load(write(twice, rm_dup_inter="keep")).n_interactions == 7
    short = HEADER + ROWS + "u3\ta\t1\n"
    assert gro.data.load(write(short, user_inter_num_interval="[3,inf)")).user_tokens.tolist() == ["u1", "u2"]


def test_misspelt_field_is_named_with_the_nearest(write: Write) -> None:
    with pytest.raises(DataError, match=r"no column 'user' .*Did you mean 'user_id'\?"):
        gro.data.load(write(HEADER + ROWS, user_id_field="user"))


def test_separator_is_one_character(write: Write) -> None:
    with pytest.raises(DataError, match="field_separator is '::'"):
        gro.data.load(write(HEADER + ROWS, field_separator="::"))


def test_repeats_at_another_time_are_kept(write: Write) -> None:
    assert gro.data.load(write(HEADER + ROWS + "u1\tb\t7\n")).history(0).tolist() == [1, 2, 3, 2]


def test_exact_order_tells_apart_what_32_bits_merge(write: Write) -> None:
    rows = HEADER + "u\ta\t1000000010\nu\tb\t1000000000\nu\tc\t1000000020\n"
    assert tokens(gro.data.load(write(rows)))["u"] == ["a", "b", "c"]
    assert tokens(gro.data.load(write(rows, time_order="exact")))["u"] == ["b", "a", "c"]
