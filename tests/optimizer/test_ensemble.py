from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from gro.config import TrainingSettings
from gro.data import Sequences
from gro.errors import ArtifactError, ConfigError
from gro.models import build
from gro.models.base import lengths
from gro.optimizer.ensemble import EnsembleSettings, KeyedEnsemble, build_ensemble, fit_ensemble, similarity
from gro.ranking import lists, ranks
from gro.training import Log, Quiet

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
OWN = EnsembleSettings(queries=4)
KEY = b"secret"


def settings(name: str = "SASRec", **changes: float) -> TrainingSettings:
    small: dict[str, object] = {"model": name, "hidden_size": 8, "inner_size": 16, "max_length": 10, "dropout": 0.0}
    return TrainingSettings.model_validate(small | {"k": 5, "batch_size": 16, "epochs": 3} | changes)


def ensemble(name: str = "SASRec", key: bytes = KEY, own: EnsembleSettings = OWN, seed: int = 0) -> KeyedEnsemble:
    return build_ensemble(settings(name), 20, own, key, seed=seed).eval()


def random_histories(count: int) -> Tensor:
    rows = torch.randint(1, 21, (count, 12))
    ends = torch.randint(1, 13, (count, 1))
    return rows.masked_fill(torch.arange(12) >= ends, 0)


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


class Interrupted(Quiet):
    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        if epoch == 1:
            raise KeyboardInterrupt


def fit(model: KeyedEnsemble, sequences: Sequences, folder: Path | None = None, seed: int = 0) -> Log:
    return fit_ensemble(model, sequences, settings(seed=seed), OWN, folder=folder, progress=Quiet())


@pytest.mark.parametrize("name", NAMES)
def test_every_history_is_answered_by_the_member_of_its_last_item(name: str) -> None:
    model, histories = ensemble(name).double(), random_histories(50)
    with torch.inference_mode():
        found = model.scores(histories)
        for row, history in zip(found, histories, strict=True):
            last = int(history[int(lengths(history[None])) - 1])
            number = int.from_bytes(blake2b(last.to_bytes(8, "big"), key=KEY).digest(), "big") % 3
            torch.testing.assert_close(row, model.models()[number].scores(history[None])[0])


def test_every_member_answers() -> None:
    for key in (b"a", b"b", b"c"):
        assert set(KeyedEnsemble(ensemble().models(), key).choice[1:].tolist()) == {0, 1, 2}
    models = [build(settings(), 3000, seed=seed) for seed in range(3)]
    counts = KeyedEnsemble(models, KEY).choice.bincount()
    assert counts.min() > 900


def test_the_key_chooses_and_is_not_kept() -> None:
    models = ensemble().models()
    first, again, other = (KeyedEnsemble(models, key) for key in (KEY, KEY, b"another"))
    assert torch.equal(first.choice, again.choice)
    assert not torch.equal(first.choice, other.choice)
    histories = random_histories(50)
    with torch.inference_mode():
        assert torch.equal(first.scores(histories), again.scores(histories))
        assert not torch.equal(first.scores(histories), other.scores(histories))
    assert {name.split(".")[0] for name in first.state_dict()} == {"members"}
    assert {name.split(".")[1] for name in first.state_dict()} == {"0", "1", "2"}


def test_the_rest_of_a_batch_does_not_matter() -> None:
    model, histories = ensemble().double(), random_histories(30)
    order = torch.randperm(30)
    with torch.inference_mode():
        whole = model.scores(histories)
        torch.testing.assert_close(model.scores(histories[order]), whole[order])
        torch.testing.assert_close(torch.cat([model.scores(row[None]) for row in histories]), whole)


def test_histories_that_end_alike_have_one_member() -> None:
    model = ensemble()
    histories = random_histories(40)
    histories[:, 9:] = torch.tensor([7, 0, 0])
    with torch.inference_mode():
        assert torch.equal(model.scores(histories), model.models()[int(model.choice[7])].scores(histories))


def test_it_can_be_ranked_like_any_model(tiny: Sequences) -> None:
    model = ensemble().train()
    chosen = model.choice[tiny.items[tiny.indptr[1:] - 3]].numpy()
    each = [ranks(member, tiny.valid) for member in model.models()]
    np.testing.assert_array_equal(ranks(model, tiny.valid), np.choose(chosen, each))
    assert lists(model, tiny.valid, 5).shape == (tiny.n_users, 5)
    assert (model.n_items, model.max_length) == (20, 10)


def test_members_differ_and_belong_to_their_seeds() -> None:
    first, second = ensemble(), ensemble(seed=1)
    assert torch.equal(flat(first.models()[1]), flat(second.models()[0]))
    assert not torch.equal(flat(first.models()[0]), flat(first.models()[1]))


@pytest.mark.parametrize("name", NAMES)
def test_the_similarity_is_the_mean_cosine_of_probabilities(name: str) -> None:
    models = ensemble(name).double().models()
    histories, ends = torch.randint(1, 21, (3, 10)), torch.randint(10, (3, 2))
    with torch.inference_mode():
        found = similarity(models, histories, ends)
        cosines = []
        for row, end in ((row, end) for row, each in zip(histories, ends, strict=True) for end in each):
            p = [model.scores(row[None, : end + 1])[0].softmax(-1) for model in models]
            pairs = ((p[0], p[1]), (p[0], p[2]), (p[1], p[2]))
            cosines += [(a @ b / (a.norm() * b.norm())).item() for a, b in pairs]
    assert found.item() == pytest.approx(np.mean(cosines), rel=1e-9)


def test_diversity_lowers_the_similarity(tiny: Sequences) -> None:
    histories, ends = torch.randint(1, 21, (100, 10)), torch.randint(10, (100, 2))
    found = []
    for diversity in (0.0, 2.0):
        own = EnsembleSettings(members=2, diversity=diversity)
        model = ensemble(own=own)
        fit_ensemble(model, tiny, settings(learning_rate=0.01, epochs=12), own, folder=None, progress=Quiet())
        with torch.inference_mode():
            found.append(float(similarity(model.models(), histories, ends)))
    assert found[1] < found[0] - 0.05


def test_the_epoch_is_chosen_by_the_answers(tiny: Sequences) -> None:
    model = ensemble()
    log = fit(model, tiny)
    places = ranks(model, tiny.valid)
    assert log.best["valid_ndcg"] == pytest.approx(float((1 / np.log2(places + 1.0)).mean()))
    assert log.best["valid_ndcg"] == max(figures["valid_ndcg"] for figures in log.figures)


def test_a_seed_is_a_training(tiny: Sequences) -> None:
    ends = []
    for seed in (0, 0, 1):
        model = ensemble()
        fit(model, tiny, seed=seed)
        ends.append(flat(model))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], flat(ensemble()))


def test_a_resumed_run_ends_like_another(tiny: Sequences, tmp_path: Path) -> None:
    whole, parts, resumed = (ensemble() for _ in range(3))
    log = fit(whole, tiny)
    with pytest.raises(KeyboardInterrupt):
        fit_ensemble(parts, tiny, settings(), OWN, folder=tmp_path, progress=Interrupted())
    assert fit(resumed, tiny, tmp_path) == log
    assert torch.equal(flat(resumed), flat(whole))
    with pytest.raises(ArtifactError, match="other settings"):
        fit(ensemble(), tiny, tmp_path, seed=1)


def test_members_and_keys_are_checked() -> None:
    models = ensemble().models()
    with pytest.raises(ConfigError, match="two or more members"):
        KeyedEnsemble(models[:1], KEY)
    with pytest.raises(ConfigError, match="one catalogue"):
        KeyedEnsemble([models[0], build(settings(), 21)], KEY)
    for key in (b"", b"x" * 65):
        with pytest.raises(ConfigError, match=rf"has {len(key)} bytes; it must have 1 to 64"):
            KeyedEnsemble(models, key)


@pytest.mark.parametrize("wrong", [{"members": 1}, {"members": 65}, {"diversity": -1}, {"queries": 0}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EnsembleSettings.model_validate(wrong)
