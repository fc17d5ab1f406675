"""API keys: what is taken, what is refused, and what may be learnt from a refusal or from the file."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gro.errors import ConfigError
from gro.service.access import keys as keys_module
from gro.service.access.keys import PREFIX, KeySettings, KeyStore, start_key_file
from gro.service.access.secret import ALPHABET, base62
from gro.service.core import Principal, Refused, Role

Refusing = Callable[..., AbstractContextManager[None]]
NOW, DAY = 1_800_000_000.0, 86_400.0
RANK = frozenset({Role.RANK})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    start_key_file(path)
    return path


@pytest.fixture(scope="module")
def store(path: Path) -> KeyStore:
    return KeyStore(KeySettings(path=path))


@pytest.fixture(scope="module")
def presented(store: KeyStore) -> str:
    return store.create("acme", RANK, DAY, NOW)[1]


def with_checksum(body: str) -> str:
    """A key that no typing error explains."""
    return body + keys_module._checksum(body)


def letters(number: int) -> st.SearchStrategy[str]:
    return st.text(ALPHABET, min_size=number, max_size=number)


def test_a_key_is_its_accounts_and_may_do_what_it_was_made_for(store: KeyStore) -> None:
    key, presented = store.create("acme", {Role.RANK, Role.AUDIT}, DAY, NOW, label="Berlin, batch")
    assert store.verify(presented, NOW) == Principal("acme", frozenset({Role.RANK, Role.AUDIT}), f"key:{key.id}")
    assert key in store.list()
    assert (key.account, key.label, key.created, key.expires) == ("acme", "Berlin, batch", NOW, NOW + DAY)


def test_a_key_can_be_told_by_how_it_looks(store: KeyStore) -> None:
    texts = {store.create("acme", RANK, DAY, NOW)[1] for _ in range(10)}
    assert len(texts) == 10
    for text in texts:
        prefix, key_id, secret = text.split("_")
        assert (prefix, len(key_id), len(secret)) == ("gro", 12, 43 + 6)
        assert set(key_id + secret) <= set(ALPHABET)
    assert len(ALPHABET) ** 43 > 2**256


@given(st.integers(0, 62**6 - 1))
def test_base62_is_read_back(number: int) -> None:
    text = base62(number, 6)
    assert len(text) == 6
    assert sum(ALPHABET.index(digit) * 62**place for place, digit in enumerate(reversed(text))) == number


def test_no_secret_is_kept_or_shown(store: KeyStore, path: Path, presented: str) -> None:
    content = path.read_text()
    secret = presented.split("_")[2][:43]
    assert secret not in content
    assert hashlib.sha256(presented.encode()).hexdigest() in content
    for key in store.list():
        assert key.digest not in repr(key)
        assert key.digest not in str(key)


@given(st.text(max_size=80) | st.builds("gro_{}_{}".format, letters(12), letters(49)))
def test_nothing_else_is_a_key(store: KeyStore, text: str) -> None:
    with pytest.raises(Refused) as refusal:
        store.verify(text, NOW)
    assert refusal.value.status == 401
    assert refusal.value.code in {"key_malformed", "key_mistyped", "key_unknown"}


@given(st.data())
def test_every_typing_error_is_seen_without_a_look_up(store: KeyStore, presented: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(4, len(presented) - 1))
    typed = data.draw(st.sampled_from(ALPHABET).filter(lambda letter: letter != presented[at]))
    with pytest.raises(Refused) as refusal:
        store.verify(presented[:at] + typed + presented[at + 1 :], NOW)
    assert refusal.value.code in {"key_malformed", "key_mistyped"}


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda key: key + "\n",
        lambda key: " " + key,
        lambda key: key + "\0",
        lambda key: key + "x",
        lambda key: key[:-1],
        lambda key: key.replace("_", "-"),
        lambda key: "".join(chr(ord(letter) + 0xFEE0) for letter in key),  # full-width forms
        lambda key: key.replace("g", "\u0261", 1),
        lambda key: key[:4] + "٣" + key[5:],
        lambda key: key[:4] + "ß" + key[5:],
        lambda key: key[:4] + "\u212a" + key[5:],  # the Kelvin sign, which folds to k
        lambda key: "\u200b" + key,
        lambda key: key + "\udcff",
        lambda key: "",
        lambda key: key * 1000,
    ],
)
def test_only_the_exact_characters_match(
    store: KeyStore, presented: str, refusing: Refusing, change: Callable[[str], str]
) -> None:
    with refusing("key_malformed"):
        store.verify(change(presented), NOW)


@pytest.mark.parametrize("change", [str.swapcase, str.lower, str.casefold])
def test_case_matters(store: KeyStore, presented: str, change: Callable[[str], str]) -> None:
    with pytest.raises(Refused):
        store.verify(PREFIX + change(presented.removeprefix(PREFIX)), NOW)


def test_the_log_tells_refusals_apart_and_the_caller_does_not(store: KeyStore, refusing: Refusing) -> None:
    key, good = store.create("acme", RANK, DAY, NOW)
    prefix, key_id, secret = good.split("_")
    wrong = with_checksum(f"{prefix}_{key_id}_{secret[42::-1]}")
    unknown = with_checksum(f"{prefix}_{key_id[::-1]}_{secret[:43]}")
    revoked, ended = store.create("acme", RANK, DAY, NOW)
    store.revoke(revoked.id, NOW)
    cases = {
        "key_wrong": (wrong, NOW),
        "key_unknown": (unknown, NOW),
        "key_expired": (good, NOW + DAY),
        "key_revoked": (ended, NOW),
        "key_mistyped": (good[:-1] + ("0" if good[-1] != "0" else "1"), NOW),
        "key_malformed": ("secret", NOW),
    }
    answers = set()
    for code, (text, now) in cases.items():
        with pytest.raises(Refused) as refusal:
            store.verify(text, now)
        assert refusal.value.code == code
        answers.add((refusal.value.status, refusal.value.detail, tuple(refusal.value.headers.items())))
    assert len(answers) == 1
    # Who does not hold the secret does not learn, even by the log, that a key has ended.
    store.revoke(key.id, NOW)
    with refusing("key_wrong"):
        store.verify(wrong, NOW)


def test_an_unknown_key_is_compared_as_a_wrong_one_is(
    store: KeyStore, presented: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []

    def spied(left: str, right: str) -> bool:
        compared.append((len(left), len(right)))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(keys_module, "hmac", SimpleNamespace(compare_digest=spied))
    _, key_id, secret = presented.split("_")
    for text in (
        presented,
        with_checksum(f"gro_{key_id}_{secret[42::-1]}"),
        with_checksum(f"gro_{key_id[::-1]}_{secret[:43]}"),
    ):
        try:
            store.verify(text, NOW)
        except Refused:
            continue
    assert compared == [(64, 64)] * 3


def test_a_key_works_until_the_moment_it_expires(store: KeyStore, refusing: Refusing) -> None:
    _, presented = store.create("acme", RANK, 10.0, NOW)
    store.verify(presented, NOW + 9.999)
    for now in (NOW + 10, NOW + DAY):
        with refusing("key_expired"):
            store.verify(presented, now)


def test_a_rotated_key_works_until_the_overlap_ends(store: KeyStore, refusing: Refusing) -> None:
    old, shown = store.create("acme", {Role.OPERATE}, DAY, NOW, label="ops")
    new, shown_next = store.rotate(old.id, overlap=60.0, expires_in=2 * DAY, now=NOW + 100)
    assert (new.account, new.roles, new.label) == (old.account, old.roles, old.label)
    assert (new.created, new.expires) == (NOW + 100, NOW + 100 + 2 * DAY)
    for now in (NOW + 100, NOW + 159.9):
        assert store.verify(shown, now).account == store.verify(shown_next, now).account == "acme"
    with refusing("key_expired"):
        store.verify(shown, NOW + 160)
    store.verify(shown_next, NOW + 160)


def test_an_overlap_never_makes_a_key_last_longer(store: KeyStore, refusing: Refusing) -> None:
    old, shown = store.create("acme", RANK, 10.0, NOW)
    store.rotate(old.id, overlap=DAY, expires_in=DAY, now=NOW + 5)
    store.verify(shown, NOW + 9)
    with refusing("key_expired"):
        store.verify(shown, NOW + 10)


def test_no_overlap_ends_a_key_at_once(store: KeyStore, refusing: Refusing) -> None:
    old, shown = store.create("acme", RANK, DAY, NOW)
    store.rotate(old.id, overlap=0.0, expires_in=DAY, now=NOW)
    with refusing("key_expired"):
        store.verify(shown, NOW)


def test_revoking_is_at_once_and_for_good(store: KeyStore, refusing: Refusing) -> None:
    key, presented = store.create("acme", RANK, DAY, NOW)
    assert store.stands(f"key:{key.id}", NOW)
    assert store.revoke(key.id, NOW + 1).revoked == NOW + 1
    assert store.revoke(key.id, NOW + 2).revoked == NOW + 1
    assert not store.stands(f"key:{key.id}", NOW + 2)
    with refusing("key_revoked"):
        store.verify(presented, NOW + 2)


def test_what_is_not_a_key_does_not_stand(store: KeyStore, presented: str) -> None:
    for credential in ("key:none", "key:", "", presented, "token:x"):
        assert not store.stands(credential, NOW)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"account": ""}, "'account'"),
        ({"account": "two words"}, "'account'"),
        ({"account": "new\nline"}, "'account'"),
        ({"account": "acme\n"}, "'account'"),
        ({"account": "ä"}, "'account'"),
        ({"account": "a" * 256}, "'account'"),
        ({"roles": frozenset()}, "'roles'"),
        ({"roles": {"root"}}, "'roles"),
        ({"label": "\x1b[2J"}, "'label'"),
        ({"expires_in": 0.0}, "expires_in is 0.0"),
        ({"expires_in": -1.0}, "expires_in is -1.0"),
        ({"expires_in": float("nan")}, "expires_in is nan"),
        ({"expires_in": float("inf")}, "'expires'"),
    ],
)
def test_what_a_key_cannot_be(store: KeyStore, changed: dict[str, Any], said: str) -> None:
    before = store.list()
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as error:
        store.create(**{"account": "acme", "roles": RANK, "expires_in": DAY, "now": NOW, **changed})
    assert said in str(error.value)
    assert store.list() == before


def test_what_cannot_be_rotated_or_revoked(store: KeyStore) -> None:
    gone, _ = store.create("acme", RANK, DAY, NOW)
    here, _ = store.create("acme", RANK, DAY, NOW)
    store.revoke(gone.id, NOW)
    before = store.list()
    with pytest.raises(ConfigError, match="key revoked; create a new one"):
        store.rotate(gone.id, 0.0, DAY, NOW)
    with pytest.raises(ConfigError, match="key expired; create a new one"):
        store.rotate(here.id, 0.0, DAY, NOW + DAY)
    for overlap in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="overlap is"):
            store.rotate(here.id, overlap, DAY, NOW)
    with pytest.raises(ConfigError, match="no key has the id 'x'"):
        store.rotate("x", 0.0, DAY, NOW)
    with pytest.raises(ConfigError, match="no key has the id 'x'"):
        store.revoke("x", NOW)
    assert store.list() == before


def test_keys_are_listed_in_the_order_they_were_made_in(tmp_path: Path) -> None:
    start_key_file(tmp_path / "keys.json")
    store = KeyStore(KeySettings(path=tmp_path / "keys.json"))
    made = [store.create(f"account-{i}", RANK, DAY, NOW)[0] for i in range(5)]
    assert store.list() == tuple(made)
    rows = json.loads((tmp_path / "keys.json").read_text())["keys"]
    assert [row["id"] for row in rows] == [key.id for key in made]
