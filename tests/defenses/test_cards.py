"""Cards of defences: what they may say, how a mistake is told, and what travels with a target."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pytest
from torch import Tensor

from gro.config import ModelSettings
from gro.data import Sequences
from gro.defenses import cards
from gro.defenses.base import Answer, ListPart
from gro.defenses.cards import PARTS, Defence
from gro.defenses.lists import Truncate
from gro.defenses.misinformation import Misinformation
from gro.defenses.pipeline import Defended
from gro.defenses.training import TRAININGS
from gro.errors import ConfigError
from gro.models import Recommender, build
from gro.ranking import lists

KINDS = [part.name() for part in PARTS]


def parse(**lines: Any) -> Defence:
    return cards.parse(lines, "card.toml", "card")


def again(defence: Defence) -> Defence:
    """Write a defence down and read it."""
    return cards.parse(json.loads(json.dumps(defence.table())), "again", defence.name)


@pytest.mark.parametrize("name", cards.names())
def test_a_shipped_card_is_the_same_when_it_is_written_down_and_read(name: str, tiny: Sequences) -> None:
    defence = cards.read(name)
    assert defence.training or defence.parts
    assert again(defence) == defence
    assert again(defence.keyed(tiny, 3)) == defence.keyed(tiny, 3) != defence


def test_every_kind_is_shipped() -> None:
    shipped = [cards.read(name) for name in cards.names()]
    assert {type(part) for defence in shipped for part in defence.parts} == set(PARTS)
    assert {type(defence.training) for defence in shipped if defence.training} == set(TRAININGS)


def test_a_card_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('secret = "0a0B"\nserving = [{ kind = "misinformation", false-alarms = 0.5 }]\n')
    defence = cards.read(str(path))
    assert (defence.name, defence.key, defence.noise) == ("mine", b"\x0a\x0b", "fresh")
    assert defence.parts == (Misinformation(false_alarms=0.5),)


def test_an_unknown_card_is_told_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError, match=r"no defence 'shufle'\. Did you mean 'shuffle'\? Defences: ") as error:
        cards.read("shufle")
    assert str(error.value).endswith(", ".join(cards.names()))
    with pytest.raises(ConfigError, match=r"nowhere/mine\.toml: no such file"):
        cards.read("nowhere/mine.toml")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ({"servings": []}, "card.toml: unknown key 'servings'. Did you mean 'serving'?"),
        ({"noise": "per-call"}, "card.toml: 'noise' is 'per-call': Input should be 'fresh' or 'per-history'"),
        ({"serving": [{"kind": "shuffel"}]}, "card.toml: serving 1: kind is 'shuffel'. Did you mean 'shuffle'?"),
        ({"serving": [{"keep": 3}]}, "card.toml: serving 1: kind is None. Kinds: truncate, "),
        ({"serving": [{"kind": ["shuffle"]}]}, "card.toml: serving 1: kind is ['shuffle']."),
        (
            {"serving": [{"kind": "reverse"}, {"kind": "shuffle", "kep": 3}]},
            "card.toml: serving 2 'shuffle': unknown key 'kep'. Did you mean 'keep'?",
        ),
        ({"serving": [{"kind": "truncate"}]}, "card.toml: serving 1 'truncate': 'k' is required"),
        (
            {"serving": [{"kind": "replace", "probability": 1.5}]},
            "card.toml: serving 1 'replace': 'probability' is 1.5: Input should be less than or equal to 1",
        ),
        (
            {"serving": [{"kind": "tie-blocks", "size": 1}]},
            "card.toml: serving 1 'tie-blocks': 'size' is 1: Input should be greater than or equal to 2",
        ),
        (
            {"serving": [{"kind": "rounding", "step": 1, "form": "rank"}]},
            "card.toml: serving 1 'rounding': 'form' is 'rank': Input should be 'ranking' or 'classifier'. Did you",
        ),
        ({"training": {"kind": "nasti"}}, "card.toml: training: kind is 'nasti'. Did you mean 'nasty'? Kinds: gro, "),
        (
            {"training": {"kind": "ensemble", "members": 1}},
            "card.toml: training 'ensemble': 'members' is 1: Input should be greater than or equal to 2",
        ),
        ({"secret": "owner"}, "card.toml: 'secret' is not hexadecimal; leave it out and one is drawn"),
        ({"secret": "00" * 65}, "card.toml: 'secret' has 65 bytes; give at most 64"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_would_be_right(lines: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(**lines)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_unknown_kind_is_told_all_kinds() -> None:
    with pytest.raises(ConfigError) as error:
        parse(serving=[{"kind": "fence"}])
    assert str(error.value).endswith("Kinds: " + ", ".join(KINDS))


def test_a_secret_is_the_card_s_or_drawn_from_interactions_and_seed(tiny: Sequences) -> None:
    card, other = parse(), replace(tiny, items=tiny.items[::-1])
    drawn = card.keyed(tiny, 0)
    assert len(drawn.key) == cards.SECRET_BYTES
    assert drawn == card.keyed(replace(tiny, name="another name"), 0)
    assert len({drawn.secret, card.keyed(tiny, 1).secret, card.keyed(other, 0).secret, card.secret}) == 4
    assert parse(secret="0a").keyed(tiny, 0) == parse(secret="0a")
    assert drawn.keyed(other, 9) == drawn


def test_what_is_measured_travels(tiny: Sequences) -> None:
    model = build(ModelSettings(hidden_size=8, inner_size=8, n_layers=1, n_heads=1), tiny.n_items).eval()
    plain = cards.read("misinformation-truncate").keyed(tiny, 0)
    fitted = plain.fitted(model, tiny, 1.0)
    assert isinstance(fitted.parts[0], Misinformation)
    assert fitted.parts[0].threshold is not None
    assert again(fitted) == fitted != plain
    served, travelled = (lists(each.before(model, 20, 0), tiny.valid, 10) for each in (fitted, again(fitted)))
    assert np.array_equal(served, travelled)
    assert not np.array_equal(served, lists(model, tiny.valid, 10))


class Spender(ListPart):
    """A part that remembers its budget."""

    spends = True

    kind: Literal["spender"] = "spender"
    budget: float = -1.0

    def fitted(self, model: Recommender, sequences: Sequences, utility_budget: float = 1.0) -> Self:
        return self.model_copy(update={"budget": utility_budget})

    def lists(self, answer: Answer) -> Tensor:
        return answer.lists


def test_every_part_is_told_the_budget(tiny: Sequences) -> None:
    model = build(ModelSettings(), tiny.n_items)
    defence = replace(parse(), parts=(Spender(), Truncate(k=3), Spender()))
    fitted = defence.fitted(model, tiny, 0.25)
    assert fitted.parts == (Spender(budget=0.25), Truncate(k=3), Spender(budget=0.25))
    assert defence.spends
    assert not replace(defence, parts=(Truncate(k=3),)).spends


def test_only_gro_and_the_gate_keep_to_a_budget() -> None:
    assert [name for name in cards.names() if cards.read(name).spends] == [
        "gated",
        "gro",
        "gro-misinformation",
        "gro-truncate",
    ]


def test_a_card_without_parts_leaves_the_model_alone(tiny: Sequences) -> None:
    model = build(ModelSettings(), tiny.n_items)
    assert parse().before(model, 5, 0) is model
    served = parse(serving=[{"kind": "truncate", "k": 3}], noise="per-history").before(model, 5, 0)
    assert isinstance(served, Defended)
    assert served.k == 3
