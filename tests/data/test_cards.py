from __future__ import annotations

import os
from pathlib import Path

import pytest

import gro.data
from gro import api, cards
from gro.config import DataSettings, ProtectCommand
from gro.errors import ConfigError

CARDS = gro.data.dataset_cards()
KINDS: tuple[cards.Kind, ...] = ("datasets", "surrogates", "surrogates/suites", "experiments")


def test_there_is_a_card_for_each_set_of_the_house() -> None:
    assert {"ml-100k", "ml-1m", "amazon-beauty"} <= CARDS.keys()
    assert {name: card.suggested["max_length"] for name, card in CARDS.items()}["ml-1m"] == 200
    assert gro.data.dataset_card("none-such") is None


@pytest.mark.parametrize("name", CARDS)
def test_what_a_card_suggests_is_a_setting_and_what_is_given_comes_first(name: str) -> None:
    suggested = CARDS[name].suggested
    completed = api.complete(ProtectCommand, {"dataset": name, "out": "run", "max_length": 7})
    assert completed.model_dump(include=set(suggested)) == {**suggested, "max_length": 7}


DATA_PATH = os.environ.get("GRO_DATA_PATH")


@pytest.mark.parametrize("name", CARDS)
def test_card_tells_the_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if DATA_PATH:
        monkeypatch.setenv("GRO_DATA_PATH", DATA_PATH)
    if not {row.name: row for row in gro.data.available()}[name].source:
        pytest.skip(f"{name} is not on this machine; set GRO_DATA_PATH to test its card")
    settings, card = DataSettings(dataset=name), CARDS[name]
    assert gro.data.find(settings).sha256 == card.sha256
    sequences = gro.data.load(settings)
    found = {"users": sequences.n_users, "items": sequences.n_items, "interactions": sequences.n_interactions}
    assert found == card.counts.model_dump()


def test_settings_come_before_the_cards_filters() -> None:
    card = CARDS["amazon-beauty"]
    completed = card.complete(DataSettings(dataset="amazon-beauty", user_inter_num_interval="[9,inf)"))
    assert completed.user_inter_num_interval == "[9,inf)"
    assert completed.item_inter_num_interval == "[5,inf)"
    assert card.complete(completed) == completed


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one card of each kind, and the package inside it."""
    (tmp_path / "gro").mkdir()
    monkeypatch.setattr(cards, "__file__", str(tmp_path / "gro" / "cards.py"))
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"my-{Path(kind).name}.toml").write_text('some-key = "checkout"\n')
    return tmp_path


def test_cards_are_found_in_a_checkout_and_in_a_wheel(checkout: Path) -> None:
    for kind in KINDS:
        name = f"my-{Path(kind).name}"
        assert cards.names(kind) == [name]
        assert cards.read(kind, name) == ({"some_key": "checkout"}, checkout / kind / f"{name}.toml")
    shipped = checkout / "gro" / "_cards" / "surrogates"
    shipped.mkdir(parents=True)
    (shipped / "b.toml").write_text("")
    (shipped / "a.toml").write_text('key = "wheel"')
    assert cards.names("surrogates") == ["a", "b"]
    assert cards.read("surrogates", "a")[0] == {"key": "wheel"}
    assert cards.names("datasets") == cards.names("surrogates/suites") == []  # nothing is read from beside a wheel


def test_unknown_card_names_the_nearest(checkout: Path) -> None:
    with pytest.raises(ConfigError, match=r"no card 'my-dataset'.*Did you mean 'my-datasets'\?"):
        cards.read("datasets", "my-dataset")


def test_malformed_dataset_card_names_file_and_keys(checkout: Path) -> None:
    with pytest.raises(ConfigError, match=r"my-datasets.toml: .*'title' is required.*unknown key 'some_key'"):
        gro.data.dataset_card("my-datasets")
