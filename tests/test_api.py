from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gro
from gro import _recbole, api, artifacts
from gro.config import AttackCommand, ProtectCommand, ProtectionSettings, TrainCommand
from gro.data import Sequences
from gro.errors import ArtifactError, ConfigError
from gro.metrics import ndcg
from gro.models import TrainableRecommender, build
from gro.optimizer.plain import fit
from gro.optimizer.protect import Protection
from gro.ranking import ranks
from gro.serving import RankingService
from gro.theft import robbed, stolen_copy
from gro.training import Quiet
from gro_surrogates.fusion import RankFusion
from gro_surrogates.thief import Thief, ThiefSettings

SMALL: dict[str, Any] = {"hidden_size": 16, "inner_size": 16, "n_layers": 1, "n_heads": 1, "max_length": 10}
SETTINGS = ProtectionSettings(
    **SMALL,
    k=5,
    epochs=8,
    patience=0,
    batch_size=8,
    item_dropout=0.0,
    dropout=0.0,
    learning_rate=1e-2,
    warm_up_epochs=1,
    protect_epochs=2,
    positions=4,
)
THIEF = ThiefSettings(**SMALL, dropout=0.0, epochs=12, learning_rate=1e-2, batch_size=8)


class Bag(nn.Module):
    """A user's own module: scores by the last item alone."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.table = nn.Embedding(n_items + 1, n_items)

    def forward(self, histories: Tensor) -> Tensor:
        last = histories.gather(1, (histories != 0).sum(1, keepdim=True) - 1)[:, 0]
        scores: Tensor = self.table(last)
        return scores


def write(folder: Path, sequences: Sequences) -> Path:
    rows = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(sequences.n_users):
        rows += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(sequences.history(user))]
    (folder / "ring").mkdir(parents=True)
    (folder / "ring" / "ring.inter").write_text("\n".join(rows) + "\n")
    return folder


def train(model: TrainableRecommender, sequences: Sequences) -> float:
    fit(model, sequences, SETTINGS, folder=None, progress=Quiet())
    return float(ndcg(ranks(model, sequences.test), 10).mean())


@pytest.mark.parametrize("kind", ["SASRec", "nn.Module", "RecBole"])
def test_any_model_is_trained_robbed_and_protected(kind: str, tiny: Sequences) -> None:
    make: dict[str, Callable[[], TrainableRecommender]] = {
        "SASRec": lambda: build(SETTINGS, tiny.n_items),
        "nn.Module": lambda: gro.adapt(Bag(tiny.n_items), tiny.n_items, 10),
        "RecBole": lambda: _recbole.build("STAMP", tiny.n_items, 10, {"embedding_size": 16}),
    }
    target = make[kind]()
    untrained = float(ndcg(ranks(target, tiny.test), 10).mean())
    utility = train(target, tiny)
    assert utility > untrained + 0.1

    theft = Thief(THIEF)(RankingService(target, 5), tiny.n_items, calls=600, seed=0)
    assert theft.calls == 600
    assert float(ndcg(ranks(theft.surrogate, tiny.test), 10).mean()) > untrained + 0.1

    before = [parameter.detach().clone() for parameter in target.parameters()]
    student = build(SETTINGS, tiny.n_items, seed=1)
    log = Protection(target, student, tiny, SETTINGS, utility, None, Quiet()).run()
    assert len(log.figures) == 3
    assert any(not torch.equal(old, new) for old, new in zip(before, target.parameters(), strict=True))


def test_the_warm_up_leaves_the_target_and_a_strong_swap_hurts_it(tiny: Sequences) -> None:
    target = build(SETTINGS, tiny.n_items)
    train(target, tiny)
    plain = float(ndcg(ranks(target, tiny.valid), 10).mean())
    settings = SETTINGS.model_copy(update={"swap_weight": 100.0})
    log = Protection(target, build(settings, tiny.n_items, seed=1), tiny, settings, plain, None, Quiet()).run()
    warm, *protected = (figures["utility_loss"] for figures in log.figures)
    assert warm == pytest.approx(0)
    assert max(protected) > 0.2


def test_a_budget_is_kept_and_drives_the_weight(tiny: Sequences) -> None:
    target = build(SETTINGS, tiny.n_items)
    train(target, tiny)
    plain = float(ndcg(ranks(target, tiny.valid), 10).mean())
    update = {"swap_weight": 4.0, "utility_budget": 0.05, "protect_epochs": 6}
    settings = SETTINGS.model_copy(update=update)
    protection = Protection(target, build(settings, tiny.n_items, seed=1), tiny, settings, plain, None, Quiet())
    log = protection.run()
    epochs = log.figures[settings.warm_up_epochs :]
    spent, weights = ([epoch[name] for epoch in epochs] for name in ("utility_loss", "swap_weight"))
    assert weights[0] == 4.0
    for loss, weight, following in zip(spent, weights, weights[1:], strict=False):
        assert following == (weight / 2 if loss > 0.05 else min(2 * weight, 4.0))
    within = [loss for loss in spent if loss <= 0.05]
    assert log.best["utility_loss"] in (within or [min(spent)])
    assert 1 - float(ndcg(ranks(target, tiny.valid), 10).mean()) / plain == pytest.approx(log.best["utility_loss"])


def test_settings_come_from_flags_then_the_plain_target_then_the_card(tmp_path: Path, tiny: Sequences) -> None:
    data: dict[str, Any] = {"dataset": "ring", "data_path": write(tmp_path, tiny)}
    plain = gro.train(**data, **SMALL, k=5, epochs=1, out=tmp_path / "plain")
    completed = api.complete(ProtectCommand, {**data, "from": plain.path, "out": tmp_path / "x"})
    assert completed.hidden_size == 16
    assert completed.max_length == 10
    card = api.complete(TrainCommand, {"dataset": "ml-1m", "out": tmp_path / "x"})
    assert card.max_length == 200
    assert api.complete(TrainCommand, {"dataset": "ml-1m", "max_length": 7, "out": tmp_path / "x"}).max_length == 7


def test_a_target_of_other_interactions_is_refused(tmp_path: Path, tiny: Sequences) -> None:
    plain = gro.train(
        dataset="ring", data_path=write(tmp_path / "a", tiny), **SMALL, k=5, epochs=1, out=tmp_path / "plain"
    )
    changed = Sequences(tiny.name, tiny.indptr, np.roll(tiny.items, 1), tiny.item_tokens, tiny.user_tokens)
    other = write(tmp_path / "b", changed)
    with pytest.raises(ArtifactError, match="other interactions"):
        gro.protect(dataset="ring", data_path=other, k=5, defence="gro", from_=plain.path, out=tmp_path / "protected")
    with pytest.raises(ArtifactError, match="other interactions"):
        gro.attack(run=plain.path, calls=100, data_path=other)
    with pytest.raises(ConfigError, match="another architecture"):
        gro.protect(
            dataset="ring",
            data_path=tmp_path / "a",
            k=5,
            hidden_size=8,
            defence="gro",
            from_=plain.path,
            out=tmp_path / "protected",
        )
    assert not (tmp_path / "protected").exists()


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, "gated"),
        ({"utility_budget": 0.1}, "gated"),
        ({"swap_weight": 1.0}, "gro"),
        ({"queries": "thief", "utility_budget": 0.1}, "gro"),
        ({"swap_weight": 1.0, "defence": "gro-truncate"}, "gro-truncate"),
    ],
)
def test_who_gives_a_setting_of_gro_means_gro(given: dict[str, Any], chosen: str, tmp_path: Path) -> None:
    card = api.complete(ProtectCommand, {"dataset": "ml-100k", "out": tmp_path / "x", **given})
    assert card.defence == chosen
    assert card.protect_epochs == 6, "what a dataset's card suggests does not count as given"


def test_a_budget_that_a_defence_has_no_use_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the defence 'reverse' has no use for a utility_budget; leave it out"):
        gro.protect(dataset="ring", data_path=tmp_path, defence="reverse", utility_budget=0.1, out=tmp_path / "x")


def test_a_theft_is_the_same_for_the_same_seed(tmp_path: Path, tiny: Sequences) -> None:
    plain = gro.train(dataset="ring", data_path=write(tmp_path, tiny), **SMALL, k=5, epochs=2, out=tmp_path / "plain")
    thefts = [
        gro.attack(run=plain.path, calls=200, seed=seed, **THIEF.model_dump(include={"hidden_size", "epochs"}), out=out)
        for seed, out in ((0, tmp_path / "a"), (0, tmp_path / "b"), (1, tmp_path / "c"))
    ]
    first, again, other = (theft.model.head.weight for theft in thefts)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.fixture
def plain(tmp_path: Path, tiny: Sequences) -> gro.Run:
    """A plain target on the disk."""
    return gro.train(dataset="ring", data_path=write(tmp_path, tiny), **SMALL, k=5, epochs=6, out=tmp_path / "plain")


def defended(plain: gro.Run, defence: str, out: Path) -> gro.Run:
    """A defence that trains nothing, put on the plain target."""
    data: dict[str, Any] = {"dataset": "ring", "data_path": plain.path.parent}
    return gro.protect(**data, **SMALL, k=5, defence=defence, from_=plain.path, out=out)


@pytest.mark.parametrize("defence", ["reverse", "gaussian-noise"])
def test_what_people_lose_is_what_protection_says_it_costs(defence: str, plain: gro.Run, tmp_path: Path) -> None:
    run = defended(plain, defence, tmp_path / "defended")
    report = gro.evaluate(run=run.path, against=plain.path, seed=0).report
    against = report["against"]
    assert against["all"]["users"] == report["users"]
    assert against["all"]["plain"] == plain.report["target"]["ndcg@10"]
    assert against["all"]["served"] == report["target"]["ndcg@10"]
    assert against["all"]["loss"] == pytest.approx(run.report["utility_loss"])
    for kind in ("history_length", "next_item", "typicality"):
        groups = against[kind].values()
        assert sum(group["users"] for group in groups) == report["users"]
        for figure in ("plain", "served"):
            total = sum(group["users"] * group[figure] for group in groups)
            assert total == pytest.approx(report["users"] * against["all"][figure])
    assert against["typicality"]["least typical tenth"]["users"] == report["users"] // 10
    alone = gro.evaluate(run=run.path, seed=0).report
    assert alone == {name: value for name, value in report.items() if name != "against"}


def test_nobody_loses_against_oneself(plain: gro.Run) -> None:
    against = gro.evaluate(run=plain.path, against=plain.path).report["against"]
    groups = [against.pop("all"), *(group for kind in against.values() for group in kind.values())]
    assert {group["loss"] for group in groups} <= {0.0, None}
    assert groups[0]["interval"] == [0.0, 0.0]


def test_what_people_lose_follows_the_seed_in_its_intervals_alone(plain: gro.Run, tmp_path: Path) -> None:
    run = defended(plain, "reverse", tmp_path / "defended").path
    one, other = (gro.evaluate(run=run, against=plain.path, seed=seed).report["against"]["all"] for seed in (1, 2))
    assert one.pop("interval") != other.pop("interval")
    assert one == other


def test_what_is_compared_with_must_be_a_plain_target_of_the_same_items(
    plain: gro.Run, tmp_path: Path, tiny: Sequences
) -> None:
    changed = Sequences(tiny.name, tiny.indptr, np.roll(tiny.items, 1), tiny.item_tokens, tiny.user_tokens)
    elsewhere = write(tmp_path / "b", changed)
    other = gro.train(dataset="ring", data_path=elsewhere, **SMALL, k=5, epochs=1, out=tmp_path / "other")
    with pytest.raises(ArtifactError, match=r"other: made from other interactions than ring"):
        gro.evaluate(run=plain.path, against=other.path)
    with pytest.raises(ArtifactError, match=r"defended: has a defence already; give the plain target"):
        gro.evaluate(run=plain.path, against=defended(plain, "reverse", tmp_path / "defended").path)
    with pytest.raises(ArtifactError, match="nowhere"):
        gro.evaluate(run=plain.path, against=tmp_path / "nowhere")
    made = artifacts.load(plain.path)
    artifacts.save(
        tmp_path / "renamed",
        model=made.model,
        settings=made.manifest.model,
        item_tokens=np.roll(made.item_tokens, 1),
        dataset=made.manifest.dataset.model_dump(),
        seed=0,
        command=made.manifest.settings,
        metrics=made.manifest.metrics,
    )
    with pytest.raises(ArtifactError, match=r"renamed: has another catalogue than ring"):
        gro.evaluate(run=plain.path, against=tmp_path / "renamed")


LEARNING: dict[str, Any] = {"calls": 200, **THIEF.model_dump(include={"hidden_size", "epochs", "batch_size"})}


def test_a_theft_tells_the_place_of_every_user_s_next_item(plain: gro.Run) -> None:
    theft = gro.attack(run=plain.path, **LEARNING)
    target, held_out = robbed(AttackCommand(run=plain.path))
    assert theft.path.parent == plain.path.with_name("plain.thefts")
    assert "places" not in theft.report
    assert theft.places.keys() == {"target", "surrogate", "floor"}
    assert theft.places["target"] == ranks(target, held_out).tolist()
    assert theft.places["surrogate"] == ranks(theft.model, held_out).tolist()
    assert gro.attack(run=plain.path, **LEARNING) == theft


def test_the_copy_of_an_ensemble_is_all_its_clones(plain: gro.Run) -> None:
    _, held_out = robbed(AttackCommand(run=plain.path))
    theft = gro.attack(run=plain.path, **LEARNING, clones=["SASRec", "GRU4Rec"])
    second = theft.path.with_name(f"{theft.path.name}.clone-2")
    copy = stolen_copy(theft.path)
    assert isinstance(copy, RankFusion)
    assert [type(clone).__name__ for clone in copy.clones] == ["SASRec", "GRU4Rec"]
    assert ranks(copy, held_out).tolist() == theft.places["surrogate"]
    assert theft.places["surrogate"] != ranks(theft.model, held_out).tolist()
    assert len(theft.report["held_out_agreement@10"]) == 2
    second.rename(second.with_name("elsewhere"))
    with pytest.raises(ArtifactError, match="clone-2"):
        stolen_copy(theft.path)


def test_the_copy_of_one_clone_is_that_clone(plain: gro.Run) -> None:
    theft = gro.attack(run=plain.path, **LEARNING)
    assert torch.equal(weights(stolen_copy(theft.path)), weights(theft.model))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_defence_is_rehearsed_where_the_target_has_one(plain: gro.Run, tmp_path: Path) -> None:
    def inverted(target: Path) -> bool:
        copies = [gro.attack(run=target, **LEARNING, invert=invert).model for invert in (True, False)]
        return not torch.equal(*map(weights, copies))

    settings: dict[str, Any] = {"epochs": 6, "warm_up_epochs": 1, "protect_epochs": 2, "swap_weight": 50.0}
    where: dict[str, Any] = {"dataset": "ring", "data_path": tmp_path, "from_": plain.path, "out": tmp_path / "guarded"}
    guarded = gro.protect(**where, **SMALL, k=5, **settings, utility_budget=1.0)
    assert inverted(guarded.path)
    assert not inverted(plain.path)
