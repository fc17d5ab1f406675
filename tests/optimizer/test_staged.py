"""A recommender of two stages: who answers whom, what each member learns, and how it travels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

import gro as library
from gro.artifacts import load
from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.defenses import cards
from gro.defenses.astray import others
from gro.defenses.gate import Gate
from gro.defenses.personas import Personas, misled
from gro.defenses.served import defence_of, needs_secret, served
from gro.defenses.training import Trained, Training, most_epochs
from gro.errors import ArtifactError, ConfigError
from gro.models import build
from gro.models.base import lengths
from gro.optimizer.plain import fit
from gro.optimizer.staged import FEW, HELD, Staged, StagedSettings, beginnings, build_staged, fit_staged, witnesses
from gro.ranking import lists, ranks, top_k
from gro.training import Quiet

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
N_ITEMS, SHORT, MAX_LENGTH, WIDTH = 20, 3, 8, 12
OWN = StagedSettings(short=SHORT)
CARD = """
secret = "c0ffee"
training = { kind = "staged", short = 3 }
serving = [{ kind = "gate", thefts = 8, personas = 4 }]
"""

Gro = Any


def settings(name: str = "SASRec", **changes: object) -> ProtectionSettings:
    small: dict[str, object] = {"model": name, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1}
    small |= {"max_length": MAX_LENGTH, "dropout": 0.0, "k": 5, "batch_size": 16, "epochs": 2, "learning_rate": 0.01}
    return ProtectionSettings.model_validate(small | changes)


def staged(name: str = "SASRec", short: int = SHORT) -> Staged:
    return build_staged(settings(name), N_ITEMS, StagedSettings(short=short)).double().eval()


def random_histories(count: int) -> Tensor:
    rows = torch.randint(1, N_ITEMS + 1, (count, WIDTH))
    return rows.masked_fill(torch.arange(WIDTH) >= 1 + torch.arange(count)[:, None] % WIDTH, 0)


def spoil(model: nn.Module) -> None:
    """Make whatever it answers worthless, and visible wherever it comes through."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def counted(sizes: list[int]) -> Sequences:
    """Users of these many items; every interaction has an item of its own, in order."""
    bounds = np.cumsum([0, *sizes], dtype=np.int64)
    tokens = np.array(["[PAD]", *(f"i{item}" for item in range(1, bounds[-1] + 1))])
    items = np.arange(1, bounds[-1] + 1, dtype=np.int32)
    return Sequences("counted", bounds, items, tokens, np.array([f"u{user}" for user in range(len(sizes))]))


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_history_is_answered_by_the_model_of_its_length(name: str) -> None:
    model, histories = staged(name), random_histories(48)
    found = model.scores(histories)
    for row, history in zip(found, histories, strict=True):
        alone = history[history > 0][None]
        answering = model.early if alone.shape[1] <= SHORT else model.later
        torch.testing.assert_close(row, answering.scores(alone[:, -MAX_LENGTH:])[0])


@pytest.mark.parametrize("width", [1, SHORT, SHORT + 1, WIDTH])
@torch.inference_mode()
def test_scores_are_exactly_those_of_one_model(width: int) -> None:
    model, histories = staged(), torch.randint(1, N_ITEMS + 1, (7, width))
    answering = model.early if width <= SHORT else model.later
    assert torch.equal(model.scores(histories), answering.scores(histories))


@torch.inference_mode()
def test_beginners_learn_nothing_of_the_later_model_and_nobody_anything_of_the_witnesses() -> None:
    model, histories = staged(), random_histories(48)
    before, begun = model.scores(histories), lengths(histories) <= SHORT
    spoil(model.witness)
    spoil(model.early_witness)
    assert torch.equal(model.scores(histories), before)
    spoil(model.later)
    found = model.scores(histories)
    assert torch.equal(found[begun], before[begun])
    assert bool(found[~begun].isnan().all())


def test_every_member_can_be_trained_on() -> None:
    model, histories = staged(), random_histories(12)
    model.scores(histories).square().sum().backward()
    for member, expected in zip(model.models(), (True, True, False, False), strict=True):
        assert any(weight.grad is not None and bool(weight.grad.any()) for weight in member.parameters()) is expected


@torch.inference_mode()
def test_scores_of_prefixes_are_those_of_histories() -> None:
    model, histories = staged(), torch.randint(1, N_ITEMS + 1, (5, MAX_LENGTH))
    ends = torch.arange(MAX_LENGTH).expand(5, -1)
    found = model.prefix_scores(histories, ends)
    for end in range(MAX_LENGTH):
        torch.testing.assert_close(found[:, end], model.scores(histories[:, : end + 1]))


def test_it_can_be_ranked_like_any_model(tiny: Sequences) -> None:
    model = staged(short=7).train()
    begun = tiny.valid.lengths <= 7
    assert 0 < begun.sum() < len(begun)
    expected = np.where(begun, ranks(model.early, tiny.valid), ranks(model.later, tiny.valid))
    np.testing.assert_array_equal(ranks(model, tiny.valid), expected)
    assert lists(model, tiny.valid, 5).shape == (tiny.n_users, 5)
    assert model.training


@pytest.mark.parametrize("n_items", [1, 20, 600])
@torch.inference_mode()
def test_popularity_is_what_the_witness_expects_after_any_item(n_items: int) -> None:
    model = build_staged(settings(), n_items, OWN).double().eval()
    spoil(model.later)
    spoil(model.early)
    everything = model.witness.scores(torch.arange(1, n_items + 1)[:, None]).softmax(dim=1).mean(dim=0)
    assert float(model.popularity.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(model.popularity, everything, rtol=1e-9 if n_items <= 512 else 0.05, atol=0.0)


def test_members_are_checked() -> None:
    members = staged().models()
    other = build(settings(), N_ITEMS + 1)
    for wrong in (members[:3], [*members, members[0]], [], [*members[:3], other]):
        with pytest.raises(ConfigError, match="made of four models of one catalogue; protect the target again"):
            Staged(wrong, SHORT)
    for short in (MAX_LENGTH, MAX_LENGTH + 5):
        with pytest.raises(ConfigError, match=rf"short is {short}; it must be less than max_length, {MAX_LENGTH}"):
            Staged(members, short)
    assert Staged(members, MAX_LENGTH - 1).models() == members


@pytest.mark.parametrize("wrong", [{"short": 0}, {"short": -1}, {"short": 2.5}, {"long": 3}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StagedSettings.model_validate(wrong)


def test_members_differ_and_belong_to_their_seeds() -> None:
    first, second = (build_staged(settings(seed=seed), N_ITEMS, OWN).models() for seed in (0, 1))
    assert all(torch.equal(flat(one), flat(two)) for one, two in zip(first[1:], second, strict=False))
    assert len({float(flat(member).sum()) for member in first}) == 4


@pytest.mark.parametrize("n_users", [1, 2, 9, 100])
def test_the_witness_knows_half_of_the_people(n_users: int) -> None:
    found = witnesses(counted([3] * n_users))
    assert len(found) == max(1, n_users // 2)
    assert found.tolist() == sorted(set(found.tolist()))
    assert 0 <= found.min() <= found.max() < n_users
    assert np.array_equal(found, witnesses(counted([5] * n_users)))


@pytest.mark.parametrize("short", [1, 3, 10])
def test_everybodys_first_items_are_learnt_without_what_is_held_out(short: int) -> None:
    whole = counted([1 + HELD, 4, 5, 6, 7, 12, 13, 14, 40, 1 + HELD])
    found = beginnings(whole, short)
    for user in range(whole.n_users):
        assert found.train.history(user).tolist() == whole.train.history(user)[: short + 1].tolist()
    held_out = whole.test.targets
    assert not set(held_out) & {*found.train.items.tolist(), *found.valid.targets.tolist()}
    assert found.user_tokens.tolist() == whole.user_tokens.tolist()
    assert (found.n_items, found.name) == (whole.n_items, "counted, beginnings")


@given(st.lists(st.integers(3, 40), min_size=1, max_size=60), st.integers(1, 12))
@example([4, *[40] * 19], 12)
def test_the_first_stage_ends_before_more_than_a_few_are_beginners(sizes: list[int], short: int) -> None:
    found = StagedSettings(short=short).suited(counted(sizes)).short

    def beginners(longest: int) -> float:
        return float(np.mean([size - HELD <= longest for size in sizes]))

    assert 1 <= found <= short
    assert found == 1 or beginners(found) <= FEW
    assert found == short or beginners(found + 1) > FEW


def test_each_member_learns_its_part(tiny: Sequences) -> None:
    how = settings()
    plain = build(how, N_ITEMS, seed=7).eval()
    before = flat(plain)
    found = fit_staged(plain, tiny, how, OWN, folder=None, progress=Quiet())
    assert found.later is plain
    assert torch.equal(flat(plain), before)
    assert not any(member.training for member in found.models())
    half = tiny.of(witnesses(tiny))
    parts = {1: beginnings(tiny, SHORT), 2: half, 3: beginnings(half, SHORT)}
    for number, member in enumerate((found.early, found.witness, found.early_witness), start=1):
        alone = build(how, N_ITEMS, seed=how.seed + number)
        fit(alone, parts[number], how, folder=None, progress=Quiet())
        assert torch.equal(flat(member), flat(alone))


@pytest.mark.parametrize("name", NAMES)
def test_who_reads_every_item_of_a_history_does_so_in_one_pass(name: str, tiny: Sequences) -> None:
    how = settings(name, epochs=1)
    plain, reader = build(how, N_ITEMS, seed=7).eval(), "SASRec" if name == "BERT4Rec" else name
    for found in (staged(name), fit_staged(plain, tiny, how, OWN, folder=None, progress=Quiet())):
        assert [type(member).__name__ for member in found.models()] == [name, reader, reader, reader]
        assert found.early.one_pass


class Interrupted(Quiet):
    """Stops in the first epoch of the second training."""

    def __init__(self) -> None:
        self.epochs = 0

    def epoch(self, epoch: int, figures: Any) -> None:
        self.epochs += 1
        if self.epochs > 2:
            raise KeyboardInterrupt


def test_a_resumed_run_ends_like_another(tiny: Sequences, tmp_path: Path) -> None:
    how, plain = settings(), build(settings(), N_ITEMS).eval()
    whole = fit_staged(plain, tiny, how, OWN, folder=None, progress=Quiet())
    with pytest.raises(KeyboardInterrupt):
        fit_staged(plain, tiny, how, OWN, folder=tmp_path / "run", progress=Interrupted())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.early", "run.witness"]
    with pytest.raises(ArtifactError, match="other settings"):
        fit_staged(plain, tiny, settings(epochs=5), OWN, folder=tmp_path / "run", progress=Quiet())
    counting = Interrupted()
    counting.epochs = -100
    resumed = fit_staged(plain, tiny, how, OWN, folder=tmp_path / "run", progress=counting)
    assert counting.epochs == -97
    assert torch.equal(flat(resumed), flat(whole))
    trained = Training(plain, tiny, how, b"key", tmp_path / "run", Quiet())(OWN)
    assert sorted(trained.states) == sorted(tmp_path.iterdir())


def test_it_is_one_of_the_trainings(tiny: Sequences) -> None:
    how, plain = settings(epochs=1), build(settings(), N_ITEMS).eval()
    trained = Training(plain, tiny, how, b"key", None, Quiet())(OWN)
    assert isinstance(trained.target, Staged)
    assert trained.members == trained.target.models()
    assert Trained(plain).members == [plain]
    assert most_epochs(OWN, how) == [1, 1, 1]


def test_a_first_stage_that_never_ends_is_refused_before_anything_is_trained() -> None:
    defence = cards.parse({"training": {"kind": "staged", "short": MAX_LENGTH}}, "card.toml", "card")
    message = f"defence 'card': short is {MAX_LENGTH}; it must be less than max_length, {MAX_LENGTH}"
    with pytest.raises(ConfigError, match=message):
        defence.exposes(settings(), N_ITEMS)
    assert cards.read("gated").exposes(ProtectionSettings(hidden_size=8, n_layers=1, k=20), 30) == 20


@pytest.fixture(scope="module")
def run(learnt: Path, data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> library.Run:
    folder = tmp_path_factory.mktemp("gated")
    card = folder / "gated.toml"
    card.write_text(CARD)
    where: dict[str, Any] = {"dataset": "tiny", "data_path": data_path, "from_": learnt, "out": folder / "run"}
    return library.protect(**where, k=10, epochs=2, utility_budget=1e-6, defence=str(card))


def test_members_and_gate_travel_in_the_artifact(run: library.Run, learnt: Path) -> None:
    artifact = load(run.path)
    assert torch.equal(flat(artifact.model), flat(load(learnt).model))
    assert len(artifact.others) == 3
    defence = defence_of(artifact)
    assert defence is not None
    assert defence.training == StagedSettings(short=3)
    (gate,) = defence.parts
    assert isinstance(gate, Gate)
    assert gate.weights
    assert len(gate.thresholds) == artifact.model.max_length
    codebook = Personas.read(artifact.others[0], 3, gate.codebook or "").codebook
    assert codebook is not None
    assert 1 < len(codebook) <= 4
    assert needs_secret(artifact)
    assert not list(run.path.parent.glob("run.*"))


def test_what_was_measured_is_what_is_served_when_the_folder_is_read_again(run: library.Run) -> None:
    again = library.evaluate(run=run.path).report
    assert {key: again["target"][key] for key in run.report["target"]} == run.report["target"]
    assert (run.report["k"], run.report["exposed"], again["k"]) == (10, 10, 10)


def test_lists_are_those_of_the_members_behind_the_gate(run: library.Run) -> None:
    artifact = load(run.path)
    people = torch.arange(7) + torch.arange(1, 30)[:, None]
    histories = torch.cat([people, torch.randint(1, 41, (29, 7))])
    targets = [served(load(run.path), 10, seed, torch.device("cpu")) for seed in (0, 1)]
    defence = defence_of(artifact)
    assert defence is not None
    (gate,) = defence.parts
    assert isinstance(gate, Gate)
    with torch.inference_mode():
        early, later, model = artifact.others[0], artifact.model, Staged([artifact.model, *artifact.others], 3)
        personas = Personas.read(early, 3, gate.codebook or "", again=gate.again)
        instead = others(model.popularity, bytes.fromhex("c0ffee"))
        for asked, answering in ((histories, later), (histories[:, :3], personas)):
            since = gate.since(model, asked)
            false = since < asked.shape[1]
            assert 0 < false.sum() < len(false)
            expected = answering.scores(asked)
            expected[false] = misled(later, personas, asked[false], since[false], instead)
            for target in targets:
                assert torch.equal(top_k(target.scores(asked), 10), top_k(expected, 10))


@pytest.mark.parametrize("short", [7, 10 * MAX_LENGTH])
def test_where_people_have_few_items_the_first_stage_ends_sooner(
    learnt: Path, data_path: Path, tmp_path: Path, short: int
) -> None:
    card = tmp_path / "long.toml"
    card.write_text(CARD.replace("short = 3", f"short = {short}"))
    where: dict[str, Any] = {"dataset": "tiny", "data_path": data_path, "from_": learnt, "out": tmp_path / "run"}
    run = library.protect(**where, k=10, epochs=1, defence=str(card))
    defence = defence_of(load(run.path))
    assert defence is not None
    assert defence.training == StagedSettings(short=6)  # of nine items two are held out
    assert library.protect(**where, k=10, epochs=1, defence=str(card)).report == run.report


def test_members_of_two_architectures_travel_in_one_artifact(data_path: Path, tmp_path: Path) -> None:
    card = tmp_path / "gated.toml"
    card.write_text(CARD)
    where: dict[str, Any] = {"dataset": "tiny", "data_path": data_path, "out": tmp_path / "run", "defence": str(card)}
    where |= {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1, "max_length": MAX_LENGTH}
    run = library.protect(**where, model="BERT4Rec", k=10, epochs=1)
    artifact = load(run.path)
    assert [type(each).__name__ for each in (artifact.model, *artifact.others)] == ["BERT4Rec", *["SASRec"] * 3]
    again = library.evaluate(run=run.path).report["target"]
    assert {key: again[key] for key in run.report["target"]} == run.report["target"]


def test_the_commands_work_on_it(
    gro: Gro, learnt: Path, data_path: Path, tmp_path: Path, write: Callable[[str], Path]
) -> None:
    out = tmp_path / "run"
    where = ("--dataset", "tiny", "--data-path", data_path, "--from", learnt, "--out", out, "--quiet")
    sizes = ("--hidden-size", 8, "--inner-size", 8, "--n-layers", 1, "--n-heads", 1, "--epochs", 1)
    protected = gro("protect", *where, *sizes, "--k", 10, "--defence", write(CARD), "--json").json
    evaluated = gro("evaluate", out, "--json").json
    assert {key: evaluated["target"][key] for key in protected["target"]} == protected["target"]
    theft = gro("attack", out, "--thief", "mimic", "--calls", 120, "--epochs", 1, "--sequence-length", 6, "--json")
    assert (theft.code, theft.json["k"], theft.json["calls"]) == (0, 10, 120)
