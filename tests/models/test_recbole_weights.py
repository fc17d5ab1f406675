from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gro import _recbole
from gro.config import ModelSettings
from gro.errors import ArtifactError, ConfigError
from gro.models import BERT4Rec, StateRecommender, build
from gro.models.recbole_weights import from_recbole, to_recbole

NAMES = ["SASRec", "GRU4Rec", "NARM", "BERT4Rec"]
N_ITEMS, MAX_LENGTH, SIZE = 30, 9, 16
RECURRENT = {"embedding_size": SIZE, "hidden_size": SIZE}
TRANSFORMER = {"hidden_size": SIZE, "inner_size": 24, "n_layers": 2}
HYPER = {"GRU4Rec": RECURRENT | {"num_layers": 2}, "NARM": RECURRENT | {"n_layers": 2}}


def recbole(name: str) -> _recbole.RecBoleRecommender:
    recommender = _recbole.build(name, N_ITEMS, MAX_LENGTH, HYPER.get(name, TRANSFORMER), seed=4)
    torch.manual_seed(0)
    for weight in recommender.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return recommender.eval()


def ours(name: str) -> StateRecommender:
    chosen = {"model": name, "max_length": MAX_LENGTH, "hidden_size": SIZE, "inner_size": 24, "n_layers": 2}
    return build(ModelSettings.make(chosen), N_ITEMS).eval()


def pair(name: str) -> tuple[StateRecommender, _recbole.RecBoleRecommender]:
    theirs, mine = recbole(name), ours(name)
    mine.load_state_dict(from_recbole(theirs.recbole.state_dict(), name))
    if isinstance(mine, BERT4Rec):
        mine.drop_oldest = True
    return mine, theirs


PAIRS = {name: pair(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_converted_weights_give_recboles_scores(name: str, data: st.DataObject) -> None:
    items = st.integers(1, N_ITEMS)
    rows = data.draw(st.lists(st.lists(items, min_size=1, max_size=MAX_LENGTH), min_size=1, max_size=4))
    width = max(map(len, rows))
    histories = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mine, theirs = PAIRS[name]
    with torch.no_grad():
        torch.testing.assert_close(mine.scores(histories), theirs.scores(histories), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_the_identity(name: str) -> None:
    theirs = recbole(name).recbole.state_dict()
    back = to_recbole(from_recbole(theirs, name), name)
    assert back.keys() == theirs.keys()
    assert all(back[key] is theirs[key] for key in theirs)
    mine = ours(name).state_dict()
    again = from_recbole(to_recbole(mine, name), name)
    assert again.keys() == mine.keys()
    assert all(torch.equal(again[key], mine[key]) for key in mine)


@pytest.mark.parametrize("name", NAMES)
def test_our_weights_load_into_recboles_model(name: str) -> None:
    theirs = recbole(name)
    theirs.recbole.load_state_dict(to_recbole(ours(name).state_dict(), name))


def test_unknown_and_missing_names_are_named() -> None:
    state = dict(recbole("SASRec").recbole.state_dict())
    state["extra"] = state.pop("LayerNorm.bias")
    with pytest.raises(ArtifactError) as caught:
        from_recbole(state, "SASRec")
    assert str(caught.value) == "not the weights of RecBole's SASRec: unknown extra; missing LayerNorm.bias"


def test_the_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"not the weights of RecBole's NARM: unknown .*missing .*a_1\.weight"):
        from_recbole(recbole("SASRec").recbole.state_dict(), "NARM")
    with pytest.raises(ArtifactError, match="not the weights of GRU4Rec"):
        to_recbole(ours("SASRec").state_dict(), "GRU4Rec")


def test_a_layer_with_a_hole_is_refused() -> None:
    state = {key: weight for key, weight in recbole("SASRec").recbole.state_dict().items() if "layer.0." not in key}
    with pytest.raises(ArtifactError, match=r"missing trm_encoder\.layer\.0\.feed_forward"):
        from_recbole(state, "SASRec")


def test_two_sizes_are_refused() -> None:
    state = _recbole.build("GRU4Rec", N_ITEMS, MAX_LENGTH).recbole.state_dict()
    with pytest.raises(ArtifactError, match="item vectors of 64 and a hidden state of 128"):
        from_recbole(state, "GRU4Rec")


def test_other_architectures_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"weights of 'SASRek' cannot be converted\. Did you mean 'SASRec'\?"):
        from_recbole({}, "SASRek")
