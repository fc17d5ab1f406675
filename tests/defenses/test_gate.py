"""The gate: what it reads, whom it takes for false, and what these are served."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.defenses import gate as module
from gro.defenses.base import Answer, Part
from gro.defenses.gate import Gate, Lesson, Network, features, suspicion
from gro.defenses.lists import Truncate
from gro.defenses.misinformation import false_names
from gro.defenses.pipeline import Defended
from gro.errors import ConfigError, DataError
from gro.models import build
from gro.models.base import lengths, most_recent
from gro.optimizer.plain import fit
from gro.optimizer.staged import HELD, Staged, StagedSettings, build_staged, fit_staged, witnesses
from gro.ranking import top_k
from gro.testing.defence import DefenceContract
from gro.training import Quiet

NAMES = ("SASRec", "GRU4Rec", "NARM", "BERT4Rec")
N_ITEMS, SHORT, MAX_LENGTH, K, SECRET = 20, 3, 8, 12, b"owner"
HISTORIES = torch.tensor(
    [[4, 5, 4, 7, 8, 9, 10, 11, 4, 4], [3, 9, 3, 3, 0, 0, 0, 0, 0, 0], [7] * 10, [2] + [0] * 9, [2, 6, 1] + [0] * 7]
)
BAD = ["", "AAAA", "no base64!", "\N{SNOWMAN}", Network().written()[:-8], Network().written() + "AAAA"]


def settings(name: str = "SASRec", **changes: object) -> ProtectionSettings:
    small: dict[str, object] = {"model": name, "hidden_size": 8, "inner_size": 8, "n_layers": 1, "n_heads": 1}
    return ProtectionSettings.model_validate(small | {"max_length": MAX_LENGTH, "dropout": 0.0} | changes)


def staged(name: str = "SASRec", seed: int = 0, n_items: int = N_ITEMS) -> Staged:
    """A target whose members are sure of what they say."""
    made = build_staged(settings(name, seed=seed), n_items, StagedSettings(short=SHORT)).double().eval()
    with torch.no_grad():
        for member in made.models():
            member.item_embedding.weight.mul_(10)
    return made


def network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network().eval().requires_grad_(False)


def gate(threshold: float = 0.0) -> Gate:
    """A gate that has learnt something or other."""
    return Gate(weights=network().written(), threshold=threshold)


STRICT, LENIENT = gate(-1e9), gate(1e9)


def answers(part: Part, model: Staged, histories: Tensor = HISTORIES, secret: bytes = SECRET) -> Tensor:
    return Defended(model, [part], K, secret=secret, per_history=True).lists(histories)


def random_histories(count: int, length: int = MAX_LENGTH, n_items: int = N_ITEMS) -> Tensor:
    return torch.randint(1, n_items + 1, (count, length))


def another(model: Staged, member: str) -> Staged:
    """The same target with another model in one place."""
    members = {"later": model.later, "early": model.early, "witness": model.witness}
    members[member] = staged(seed=50).later
    return Staged(list(members.values()), model.short).eval()


def expected_features(model: Staged, history: list[int]) -> list[list[float]]:
    """Of one history, a prefix at a time."""
    read = [item for item in history if item][-MAX_LENGTH:]
    found = []
    for place, item in enumerate(read):
        popular = float(model.popularity[item - 1].log() / 8 + 1)
        if place == 0:
            found.append([popular, 0, 0, 0, 0, 0, 0])
            continue
        scores = model.witness.scores(torch.tensor([read[:place]]))[0]
        better = int((scores > scores[item - 1]).sum())
        likely = float(scores.log_softmax(dim=0)[item - 1])
        top = [float(better < most) for most in (10, 100, 200)]
        found.append([popular, np.log(1 + better) / 7, likely / 8 + 1, float(item in read[:place]), *top])
    return found


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_features_are_what_the_witness_makes_of_each_item(name: str) -> None:
    model = staged(name, n_items=400)
    histories = torch.cat([HISTORIES, random_histories(95, 10, 400)])
    found = features(model, histories)
    assert found.shape == (100, MAX_LENGTH, 7)
    for row, history in zip(found.tolist(), histories.tolist(), strict=True):
        wanted = expected_features(model, history)
        np.testing.assert_allclose(row[: len(wanted)], wanted, rtol=1e-6, atol=1e-9)
        assert not np.any(row[len(wanted) :])


@torch.inference_mode()
def test_features_know_nothing_of_the_models_that_answer() -> None:
    model = staged()
    before = features(model, HISTORIES)
    for member in ("later", "early"):
        assert torch.equal(features(another(model, member), HISTORIES), before)
    assert not torch.equal(features(another(model, "witness"), HISTORIES), before)


@pytest.mark.parametrize("together", [1, 3 * MAX_LENGTH * N_ITEMS, 10**9])
def test_features_are_the_same_however_many_are_read_together(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = staged()
    whole, read, scored = features(model, HISTORIES), list[int](), model.witness.prefix_scores

    def watched(histories: Tensor, ends: Tensor) -> Tensor:
        read.append(len(histories))
        return scored(histories, ends)

    monkeypatch.setattr(module, "TOGETHER", together)
    monkeypatch.setattr(model.witness, "prefix_scores", watched)
    torch.testing.assert_close(features(model, HISTORIES), whole)
    assert read == {1: [1] * 5, 10**9: [5]}.get(together, [3, 2])
    torch.testing.assert_close(torch.cat([features(model, row[None]) for row in HISTORIES]), whole)


def test_an_item_that_the_witness_has_never_expected_is_a_finite_figure() -> None:
    model = staged()
    with torch.no_grad():
        model.witness.item_embedding.weight.mul_(1e4)
    assert bool((model.popularity == 0).any())
    found = features(model, torch.cat([HISTORIES, random_histories(20, 10)]))
    assert bool(found.isfinite().all())


def test_reading_leaves_the_model_in_its_mode() -> None:
    model = staged().train()
    features(model, HISTORIES)
    assert all(part.training for part in model.modules())


def test_a_network_is_written_and_read_exactly() -> None:
    one = network()
    again = Network.read(one.written())
    assert again.written() == one.written() != network(1).written()
    for before, after in zip(one.parameters(), again.parameters(), strict=True):
        assert torch.equal(before, after)
        assert not after.requires_grad
    assert not again.training
    read = torch.randn(5, 6, 7)
    assert torch.equal(one(read), again(read))
    assert again(read).shape == (5, 6)


@pytest.mark.parametrize("written", [*BAD, None, base64.b64encode(np.full(3969, np.nan, "<f4").tobytes()).decode()])
def test_weights_that_are_none_are_refused(written: str | None) -> None:
    with pytest.raises(ConfigError, match="the gate's 'weights' are not those of its network"):
        Gate(weights=written, threshold=0.0).judged(staged(), HISTORIES)


@pytest.mark.parametrize("name", NAMES)
def test_suspicion_never_falls_while_a_history_grows(name: str) -> None:
    model, histories, judging = staged(name), random_histories(40), network().double()
    begun = [histories[:, :length] for length in range(1, MAX_LENGTH + 1)]
    found = torch.stack([suspicion(judging, features(model, each), SHORT) for each in begun])
    assert bool(found[:SHORT].isneginf().all())
    assert bool(found[SHORT:].isfinite().all())
    assert bool((found[SHORT:].diff(dim=0) >= -1e-9).all())
    assert bool((found[-1] > found[SHORT]).any())


def test_suspicion_is_the_highest_logit_behind_the_short_items() -> None:
    model, judging = staged(), network().double()
    read = features(model, HISTORIES)
    found, logits = suspicion(judging, read, SHORT), judging(read)
    for row, length in enumerate((8, 4, 8, 1, 3)):
        later = logits[row, SHORT:length]
        assert float(found[row]) == (float(later.max()) if len(later) else -np.inf)


def test_a_history_that_looked_false_stays_false() -> None:
    model, histories = staged().float(), random_histories(60)
    part = gate(float(suspicion(network(), features(model, histories[:, : SHORT + 2]), SHORT).median()))
    flags = torch.stack([part.judged(model, histories[:, : length + 1]) for length in range(MAX_LENGTH)])
    assert not bool(flags[:SHORT].any())
    assert bool((flags[1:] >= flags[:-1]).all())
    assert 0 < int(flags[SHORT + 1].sum()) < int(flags[-1].sum()) <= 60


def decoys(model: Staged, histories: Tensor, secret: bytes = SECRET) -> Tensor:
    names = false_names(model.n_items, secret)
    return top_k(model.early.scores(names[most_recent(histories, SHORT)]), K)


@torch.no_grad()
def test_the_false_get_lists_of_beginners_after_other_items() -> None:
    model = staged().float()
    for histories in (HISTORIES, random_histories(30), random_histories(5, 2)):
        true, begun = top_k(model.scores(histories), K), lengths(histories) <= SHORT
        served = answers(STRICT, model, histories)
        assert torch.equal(served[begun], true[begun])
        assert torch.equal(served[~begun], decoys(model, histories)[~begun])
        assert all(len(set(row)) == K and min(row) >= 1 and max(row) <= N_ITEMS for row in served.tolist())
        assert torch.equal(answers(LENIENT, model, histories), true)


@torch.no_grad()
def test_only_those_above_the_threshold_are_served_decoys() -> None:
    model, histories = staged().float(), random_histories(40)
    part = gate(float(suspicion(network(), features(model, histories), SHORT).median()))
    false = part.judged(model, histories)
    assert int(false.sum()) == 20
    served, true = answers(part, model, histories), top_k(model.scores(histories), K)
    assert torch.equal(served[~false], true[~false])
    assert torch.equal(served[false], decoys(model, histories)[false])
    assert not (served[false] == true[false]).all(dim=1).any()


@torch.no_grad()
def test_decoys_are_the_same_whenever_the_same_is_asked_and_another_secret_s_are_others() -> None:
    model, histories = staged().float(), random_histories(30)
    whole = answers(STRICT, model, histories)
    assert torch.equal(answers(STRICT, model, histories), whole)
    assert torch.equal(torch.cat([answers(STRICT, model, row[None]) for row in histories]), whole)
    other = answers(STRICT, model, histories, b"another")
    assert torch.equal(other, decoys(model, histories, b"another"))
    assert (other == whole).all(dim=1).float().mean() < 0.2


@torch.no_grad()
def test_decoys_hold_nothing_of_what_comes_later() -> None:
    model, histories = staged().float(), random_histories(30)
    whole = answers(STRICT, model, histories)
    changed = another(model, "later").float()
    assert torch.equal(answers(STRICT, changed, histories), whole)
    assert not torch.equal(answers(LENIENT, changed, histories), answers(LENIENT, model, histories))
    assert not torch.equal(answers(STRICT, another(model, "early").float(), histories), whole)


@torch.no_grad()
def test_decoys_are_as_long_as_the_lists() -> None:
    model, histories = staged().float(), random_histories(10)
    served = Defended(model, [Truncate(k=5), STRICT], K, secret=SECRET, per_history=True)
    assert served.k == 5
    assert torch.equal(served.lists(histories), decoys(model, histories)[:, :5])


def test_a_gate_that_has_learnt_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="the gate has learnt nothing; protect a target with it"):
        answers(Gate(), staged())


def test_a_target_without_a_witness_is_refused_before_anything_is_trained(tiny: Sequences) -> None:
    plain = build(settings(), N_ITEMS).eval()
    for refused in (
        lambda: Gate().fitted(plain, tiny),
        lambda: Defended(plain, [STRICT], 5, secret=SECRET, per_history=True),
    ):
        with pytest.raises(ConfigError, match="the gate needs a target that is trained by 'staged', not SASRec"):
            refused()


@pytest.mark.parametrize(
    "wrong", [{"false_alarms": 0.0}, {"false_alarms": 1.0}, {"thefts": 0}, {"rounds": 0}, {"threshold": np.nan}]
)
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Gate.make(wrong, "card")


# Learning: people walk round a ring of items, some steps left out.

RING, USERS, LONGEST, ALARMS = 40, 200, 12, 0.05
QUICK = Gate(false_alarms=ALARMS, thefts=16, rounds=1)


def people(count: int, seed: int) -> list[list[int]]:
    """Histories of 11 to 24 items, each one or two further round the ring than the last."""
    rng = np.random.default_rng(seed)
    steps = [1 + (rng.random(rng.integers(11, 25)) < 0.2) for _ in range(count)]
    return [[int(item) % RING + 1 for item in rng.integers(RING) + step.cumsum()] for step in steps]


def sequences(histories: list[list[int]]) -> Sequences:
    bounds = np.cumsum([0, *map(len, histories)], dtype=np.int64)
    tokens = np.array(["[PAD]", *(f"i{item}" for item in range(1, RING + 1))])
    users = np.array([f"u{user}" for user in range(len(histories))])
    return Sequences("ring", bounds, np.concatenate(histories).astype(np.int32), tokens, users)


@pytest.fixture(scope="module")
def ring() -> Sequences:
    return sequences(people(USERS, 0))


@pytest.fixture(scope="module")
def learnt(ring: Sequences) -> Staged:
    how = settings(hidden_size=16, max_length=LONGEST, epochs=6, learning_rate=0.01, batch_size=16, patience=0)
    plain = build(how, RING)
    fit(plain, ring, how, folder=None, progress=Quiet())
    return fit_staged(plain.eval(), ring, how, StagedSettings(short=SHORT), folder=None, progress=Quiet())


@pytest.fixture(scope="module")
def fitted(learnt: Staged, ring: Sequences) -> Gate:
    return QUICK.fitted(learnt, ring)


def share(part: Gate, model: Staged, histories: Tensor) -> float:
    return float(part.judged(model, histories).float().mean())


def test_people_pass_and_random_histories_do_not(fitted: Gate, learnt: Staged) -> None:
    fresh = torch.tensor([history[:LONGEST] for history in people(400, 1) if len(history) >= LONGEST])
    assert share(fitted, learnt, fresh) < ALARMS + 0.07  # 30 judges do not tell it more exactly
    assert share(fitted, learnt, random_histories(400, LONGEST, RING)) > 0.9
    assert share(fitted, learnt, fresh[:, torch.randperm(LONGEST)]) > 0.9
    assert share(fitted, learnt, torch.full((5, LONGEST), 7)) == 1


@pytest.mark.parametrize("false_alarms", [0.001, ALARMS, 0.3])
def test_no_more_judges_are_taken_for_false_than_stated(learnt: Staged, ring: Sequences, false_alarms: float) -> None:
    lesson = Lesson(learnt, ring, QUICK.model_copy(update={"false_alarms": false_alarms}))
    values = lesson.learnt()
    found = suspicion(Network.read(str(values["weights"])), lesson.judges, SHORT).numpy()
    assert len(found) == 12 * round(0.15 * USERS)
    alarms = (found > values["threshold"]).mean()
    assert alarms <= false_alarms
    below = found[found < values["threshold"]]
    assert (found >= below.max()).mean() > false_alarms


def test_learning_is_the_same_whenever_it_is_done(fitted: Gate, learnt: Staged, ring: Sequences) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = QUICK.fitted(learnt, replace(ring, name="another name"))
    assert torch.equal(torch.get_rng_state(), before)
    assert again == fitted
    assert again.weights == fitted.weights
    assert (again.thefts, again.rounds, again.false_alarms) == (16, 1, ALARMS)
    assert Gate.make(again.model_dump(mode="json"), "card") == fitted


def test_a_gate_that_has_judged_can_learn_anew(learnt: Staged, ring: Sequences) -> None:
    used = QUICK.model_copy(update={"weights": network(3).written(), "threshold": 0.0})
    used.judged(learnt, random_histories(5, LONGEST, RING))
    again, fresh = used.fitted(learnt, ring), QUICK.fitted(learnt, ring)
    assert again == fresh
    real = torch.tensor([history[:LONGEST] for history in people(50, 2) if len(history) >= LONGEST])
    histories = torch.cat([real, random_histories(50, LONGEST, RING)])
    assert torch.equal(again.judged(learnt, histories), fresh.judged(learnt, histories))


def test_a_second_round_learns_from_thieves_whom_the_gate_answers(
    fitted: Gate, learnt: Staged, ring: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, honest = list[Gate](), Gate.lists

    def watched(part: Gate, answer: Answer) -> Tensor:
        answered.append(part)
        assert answer.histories.shape[1] > SHORT
        return honest(part, answer)

    monkeypatch.setattr(Gate, "lists", watched)
    twice = QUICK.model_copy(update={"rounds": 2}).fitted(learnt, ring)
    assert {part.weights for part in answered} == {fitted.weights}
    assert {part.threshold for part in answered} == {fitted.threshold}
    assert len(answered) == len(module.THIEVES) * (LONGEST - 1 - SHORT)
    assert twice.weights != fitted.weights


def test_the_witness_the_network_and_the_threshold_know_different_people(
    learnt: Staged, ring: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, windows = [set(witnesses(ring).tolist())], Lesson._windows

    def watched(lesson: Lesson, given: Sequences, users: npt.NDArray[np.int64]) -> Tensor:
        asked.append(set(users.tolist()))
        return windows(lesson, given, users)

    monkeypatch.setattr(Lesson, "_windows", watched)
    Lesson(learnt, ring, QUICK)
    assert [len(users) for users in asked] == [100, 70, 30]
    assert set().union(*asked) == set(range(USERS))


def test_what_is_learnt_from_are_parts_of_histories_without_what_is_held_out(learnt: Staged, ring: Sequences) -> None:
    lesson = Lesson(learnt, ring, QUICK)
    users = np.arange(20)
    windows = lesson._windows(ring, users)
    begins = []
    for number, window in enumerate(windows.tolist()):
        history, part = ring.history(number // 12)[:-HELD].tolist(), [item for item in window if item]
        assert len(part) == min(len(history), LONGEST)
        found = [at for at in range(len(history)) if history[at : at + len(part)] == part]
        assert found
        begins += found[:1] if len(history) > LONGEST + 1 else []
    assert 0.4 < np.mean(np.array(begins) == 0) < 0.9
    assert len(lesson._windows(sequences([[1] * (SHORT + HELD)]), np.array([0]))) == 0
    assert len(lesson._windows(sequences([[1] * (SHORT + HELD + 1)]), np.array([0]))) == 12


@pytest.mark.parametrize("histories", [[[1, 2, 3, 4, 5]] * 30, people(1, 0), people(2, 0)])
def test_too_few_people_to_learn_from_are_told(learnt: Staged, histories: list[list[int]]) -> None:
    message = "ring: the gate learns from people with more than 5 interactions; there are too few: protect it otherwise"
    with pytest.raises(DataError, match=message):
        QUICK.fitted(learnt, sequences(histories))


class TestContract(DefenceContract):
    def part(self) -> Part:
        return Gate(false_alarms=0.4, thefts=4, rounds=1)

    def model(self) -> Any:
        return build_staged(settings(), 40, StagedSettings(short=SHORT)).eval()
