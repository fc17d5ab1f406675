"""How the gate learns: people walk round a ring of items, some steps left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gro.config import ProtectionSettings
from gro.data import Sequences
from gro.defenses import lesson as module
from gro.defenses.astray import astray
from gro.defenses.gate import Gate
from gro.defenses.lesson import Begun, Lesson, became, teachers
from gro.defenses.personas import Personas, misled
from gro.defenses.witness import FEATURES, LIKELY, READERS, Network, features, gains
from gro.errors import DataError
from gro.metrics import ndcg
from gro.models import build
from gro.optimizer.plain import fit
from gro.optimizer.staged import HELD, Staged, StagedSettings, fit_staged, witnesses
from gro.ranking import ranks
from gro.training import Quiet
from gro_surrogates.strategies import Agent, Mimic, Random, Strategy

SHORT = 3


def random_histories(count: int, length: int, n_items: int) -> Tensor:
    return torch.randint(1, n_items + 1, (count, length))


RING, USERS, LONGEST, BUDGET = 40, 200, 12, 0.05
QUICK = Gate(thefts=16, personas=4)


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
    how = ProtectionSettings(
        hidden_size=16,
        inner_size=8,
        n_layers=1,
        n_heads=1,
        dropout=0.0,
        max_length=LONGEST,
        epochs=6,
        learning_rate=0.01,
        batch_size=16,
        patience=0,
    )
    plain = build(how, RING)
    fit(plain, ring, how, folder=None, progress=Quiet())
    return fit_staged(plain.eval(), ring, how, StagedSettings(short=SHORT), folder=None, progress=Quiet())


@pytest.fixture(scope="module")
def fitted(learnt: Staged, ring: Sequences) -> Gate:
    return QUICK.fitted(learnt, ring, BUDGET)


@pytest.fixture(scope="module")
def lesson(learnt: Staged, ring: Sequences) -> Lesson:
    return Lesson(learnt, Personas(learnt.early, SHORT, learnt.early.item_embedding.weight[1:9].detach()), ring, 16)


def share(part: Gate, model: Staged, histories: Tensor) -> float:
    return float((part.since(model, histories) < histories.shape[1]).float().mean())


def test_people_pass_and_random_histories_do_not(fitted: Gate, learnt: Staged) -> None:
    fresh = torch.tensor([history[:LONGEST] for history in people(400, 1) if len(history) >= LONGEST])
    assert share(fitted, learnt, fresh) < 4 * BUDGET  # they lose but a part
    assert share(fitted, learnt, random_histories(400, LONGEST, RING)) > 0.9
    assert share(fitted, learnt, fresh[:, torch.randperm(LONGEST)]) > 0.9
    assert share(fitted, learnt, torch.full((5, LONGEST), 7)) == 1


def judged(lesson: Lesson, network: Network) -> Tensor:
    """Logits of everybody by the network that has not learnt from him."""
    found = network.opinions(lesson.people)
    return torch.stack([found[fold][row] for row, fold in enumerate(lesson.fold.tolist())])


@pytest.mark.parametrize(("budget", "uneven"), [(0.0, 2.5), (0.01, 2.5), (0.1, 2.5), (0.1, 0.2)])
def test_as_many_people_are_false_as_can_be_afforded(
    lesson: Lesson, budget: float, uneven: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EPOCHS", 5)
    monkeypatch.setattr(module, "UNEVEN", uneven)
    values = lesson.learnt(budget)
    thresholds = torch.tensor(values["thresholds"])
    logits = judged(lesson, Network.read(str(values["weights"])))
    everything = torch.ones_like(lesson.judged)

    young, last, *others = lesson._groups()

    def over(levels: Tensor) -> bool:
        lost = lesson._lost(lesson.judged & (logits > levels), everything)
        surely = [part + error for part, error in (lesson._part(lost, some) for some in (young, last))]
        unfair = [part - error for part, error in (lesson._part(lost, some) for some in others)]
        return max(surely) > budget + 1e-6 or max(unfair, default=0.0) > uneven * budget + 1e-6

    assert not over(thresholds + 1e-5)
    found = torch.stack([lesson._thresholds(logits, share) for share in module.SHARES])
    place = int((found - thresholds).abs().amax(dim=1).argmin())
    torch.testing.assert_close(found[place], thresholds)
    assert over(found[place - 1] - 1e-5) if place else budget == 0.1


def test_a_threshold_is_a_quantile_of_the_people_after_so_many_items_or_about_as_many_lower_for_the_young(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, young = torch.randn(lesson.judged.shape), module.YOUNG * SHORT
    monkeypatch.setattr(module, "NEAR", 1)
    for share in (0.0, 0.1, 0.5):
        for place, found in enumerate(lesson._thresholds(logits, share).tolist()):
            own = logits[lesson.judged[:, place], place].numpy()
            assert found == pytest.approx(np.quantile(own, 1 - share * (2 if place < young else 1)), abs=1e-5)
    monkeypatch.setattr(module, "NEAR", int(lesson.judged[:, -1].sum()) + 1)
    about = logits[:, -2:][lesson.judged[:, -2:]].numpy()
    assert float(lesson._thresholds(logits, 0.1)[-1]) == pytest.approx(np.quantile(about, 0.9), abs=1e-5)
    monkeypatch.setattr(module, "NEAR", 10**9)
    first, later = (np.quantile(logits[lesson.judged].numpy(), 1 - share) for share in (0.2, 0.1))
    wanted = [first] * young + [later] * (LONGEST - young)
    assert lesson._thresholds(logits, 0.1).tolist() == pytest.approx(wanted, abs=1e-5)


def test_what_people_lose_has_a_standard_error_over_people(lesson: Lesson) -> None:
    last, lost = lesson._groups()[1], torch.rand(lesson.earned.shape) * lesson.earned
    parts = lesson.whose == torch.arange(USERS // 2)[:, None]
    loss, gain = ((parts.double() @ (each * last).double().sum(dim=1)).numpy() for each in (lost, lesson.earned))
    part = loss.sum() / gain.sum()
    error = np.sqrt(((loss - part * gain) ** 2).sum()) / gain.sum()
    assert lesson._part(lost, last) == pytest.approx((part, error), rel=1e-5)
    assert 0.3 < part < part + error < 0.6
    assert lesson._part(torch.zeros_like(lost), last) == (0, 0)
    assert lesson._part(lost, torch.zeros_like(last)) == (0, 0)


@torch.no_grad()
def test_what_is_lost_is_what_is_no_longer_earned_by_those_who_are_led_astray(lesson: Lesson) -> None:
    false = torch.rand(lesson.judged.shape) < 0.7
    counted = torch.rand(lesson.judged.shape) < 0.8
    lost, seen = lesson._lost(false, counted), set()
    for row in range(0, len(false), 61):
        history = lesson.parts[row].tolist()
        for place in range(LONGEST):
            wanted = 0.0
            if place and false[row, place - 1] and counted[row, place] and lesson.earned[row, place]:
                begin = place
                while begin and false[row, begin - 1]:
                    begin -= 1
                asked = torch.tensor([history[:place]])
                if place <= SHORT:
                    scores, better = lesson.personas.astray(asked, lesson.others)[0], 1.0
                else:
                    since, better = torch.tensor([begin]), lesson.better
                    scores = astray(lesson.model.witness, asked, since, SHORT, lesson.others)[0]
                rank = 1 + int((scores > scores[history[place] - 1]).sum())
                left = better / np.log2(1 + rank) if rank <= 10 else 0.0
                wanted = max(0.0, float(lesson.earned[row, place]) - left)
                seen.add((place <= SHORT, begin <= SHORT))
            assert lost[row, place] == pytest.approx(wanted, abs=1e-4)
    assert seen == {(True, True), (False, True), (False, False)}


def test_people_are_measured_by_their_last_items_and_by_all_where_they_begin(
    lesson: Lesson, ring: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEVERAL", 1)
    young, last, beginners, new, rare, few, more, longer = lesson._groups()
    unknown = {tuple(ring.history(user)[:-HELD].tolist()) for user in range(USERS)}
    least, later = lesson._least_typical(), 0
    for row, history in enumerate(lesson.parts[:, :-1].tolist()):
        part = tuple(item for item in history if item)
        starts = {at for whole in unknown for at in range(len(whole)) if whole[at : at + len(part)] == part}
        assert int(lesson.length[row, 0]) in starts
        later += int(lesson.length[row, 0]) > 0
    place, before, known = torch.arange(LONGEST), lesson.length, lesson.people.any(dim=2)
    begin = before[:, :1] == 0
    assert torch.equal(lesson.judged, known & (begin | (place >= SHORT)))
    assert torch.equal(last, lesson.judged & (place >= known.sum(dim=1, keepdim=True) - module.LAST))
    measured = last | (begin & known)
    assert torch.equal(beginners, measured & (before <= SHORT))
    assert torch.equal(young, measured & (before <= 2 * SHORT))
    assert torch.equal(new, measured & least)
    assert torch.equal(rare, last & least)
    assert torch.equal(few, measured & (before <= 10))
    assert torch.equal(more, measured & (before > 10) & (before <= 20))
    assert torch.equal(longer, measured & (before > 20))
    assert later > 100


def test_a_group_counts_in_which_several_people_earn_something(lesson: Lesson, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEVERAL", 1)
    young, last, *groups = lesson._groups()

    def earning(group: Tensor) -> int:
        return len({int(lesson.whose[row]) for row in (group & (lesson.earned > 0)).nonzero()[:, 0]})

    counts = [earning(group) for group in groups]
    for several in {*counts, max(counts) + 1}:
        monkeypatch.setattr(module, "SEVERAL", several)
        kept = [group for group, count in zip(groups, counts, strict=True) if count >= several]
        torch.testing.assert_close(lesson._groups(), [young, last, *kept])


def test_what_is_earned_is_what_personas_have_then_the_witness_and_more_by_as_much_as_the_target_is_better(
    lesson: Lesson, learnt: Staged, ring: Sequences
) -> None:
    unknown = ring.of(np.setdiff1d(np.arange(USERS), witnesses(ring))).valid
    better = ndcg(ranks(learnt.later, unknown), 10).sum() / ndcg(ranks(learnt.witness, unknown), 10).sum()
    for row in range(0, len(lesson.people), 97):
        own, history = gains(lesson.people[row][None])[0].tolist(), lesson.parts[row]
        begins = int(lesson.length[row, 0]) == 0
        for place in range(LONGEST):
            wanted = max(1.0, better) * own[place]
            if lesson.length[row, place] <= SHORT:
                wanted = 0.0
                if begins and place:
                    scores = lesson.personas.scores(history[None, :place])[0]
                    rank = 1 + int((scores > scores[history[place] - 1]).sum())
                    wanted = 1 / np.log2(1 + rank) if rank <= 10 else 0.0
            assert lesson.earned[row, place] == pytest.approx(wanted, abs=1e-5)


def test_the_least_typical_are_those_whose_items_the_witness_expected_least(lesson: Lesson) -> None:
    likely = []
    for read in lesson.people:
        own = read[read.any(dim=1)]
        likely.append(float(own[1:, LIKELY].mean()))
    least = lesson._least_typical()[:, 0].numpy()
    assert bool((lesson._least_typical() == lesson._least_typical()[:, :1]).all())
    assert least.sum() == len(likely) // 10
    assert max(np.array(likely)[least]) <= min(np.array(likely)[~least]) + 1e-6


def test_a_history_is_false_since_the_last_break() -> None:
    false = torch.tensor([[False, True, True], [False, False, False], [True, True, True], [True, False, True]])
    assert became(false).tolist() == [[1, 1, 1], [1, 2, 3], [0, 0, 0], [0, 2, 2]]


def test_learning_is_the_same_whenever_it_is_done(fitted: Gate, learnt: Staged, ring: Sequences) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = QUICK.fitted(learnt, replace(ring, name="another name"), BUDGET)
    assert torch.equal(torch.get_rng_state(), before)
    assert again == fitted
    assert again.weights == fitted.weights
    assert (again.thefts, again.personas) == (16, 4)
    assert Gate.make(again.model_dump(mode="json"), "card") == fitted


def test_a_gate_that_has_judged_can_learn_anew(
    learnt: Staged, ring: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EPOCHS", 5)
    used = QUICK.model_copy(update={"weights": Network().written(), "thresholds": (0.0,) * LONGEST, "codebook": ""})
    used.since(learnt, random_histories(5, LONGEST, RING))
    again, fresh = used.fitted(learnt, ring), QUICK.fitted(learnt, ring)
    assert again == fresh
    real = torch.tensor([history[:LONGEST] for history in people(50, 2) if len(history) >= LONGEST])
    histories = torch.cat([real, random_histories(50, LONGEST, RING)])
    assert torch.equal(again.since(learnt, histories), fresh.since(learnt, histories))


def test_nobody_is_judged_by_whom_he_has_taught(lesson: Lesson) -> None:
    thefts, begun = torch.rand(24, LONGEST, FEATURES), torch.ones(24, dtype=torch.int64)
    weight = lesson._weight(thefts, begun)
    people = len(lesson.people)
    for number in range(READERS):
        assert not weight[number, :people][lesson.fold == number].any()
        others = lesson.fold != number
        assert torch.equal(weight[number, :people][others] > 0, lesson.judged[others])
        shares = weight[number, :people].amax(dim=1).sum(), weight[number, people:].amax(dim=1).sum()
        torch.testing.assert_close(*shares)
    for user in range(USERS // 2):
        assert len(lesson.fold[12 * user : 12 * user + 12].unique()) == 1


def flat(network: Network, number: int) -> Tensor:
    parts = (network.reading[number], network.judging[number])
    return torch.cat([parameter.flatten() for part in parts for parameter in part.parameters()])


@pytest.mark.parametrize("fold", range(READERS))
def test_a_network_is_the_same_whoever_is_in_the_fold_that_it_judges(
    lesson: Lesson, fold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EPOCHS", 1)
    thefts, begun = torch.rand(24, LONGEST, FEATURES), torch.ones(24, dtype=torch.int64)
    before, own = lesson._taught(thefts, begun), (lesson.fold == fold)[:, None, None]
    monkeypatch.setattr(lesson, "people", torch.where(own, 1.5 * lesson.people, lesson.people))
    after = lesson._taught(thefts, begun)
    same = [torch.equal(flat(before, number), flat(after, number)) for number in range(READERS)]
    assert same == [number == fold for number in range(READERS)]


def test_all_parts_of_a_history_are_in_one_fold(lesson: Lesson, ring: Sequences) -> None:
    windows, _, whose = lesson._windows(ring)
    folds = whose % READERS
    assert torch.equal(folds, lesson.fold)
    unknown = [f"{ring.history(user)[:-HELD].tolist()}"[1:-1] for user in range(USERS) if user not in witnesses(ring)]
    for rows, own in zip(windows.split(12), folds.split(12), strict=True):
        assert len(own.unique()) == 1
        parts = [f"{[item for item in row if item]}"[1:-1] for row in rows.tolist()]
        assert any(all(part in history for part in parts) for history in unknown)
    assert [int((folds == fold).sum()) for fold in range(READERS)] == [12 * USERS // 2 // READERS] * READERS


def test_the_witness_knows_none_of_those_who_teach(lesson: Lesson, learnt: Staged, ring: Sequences) -> None:
    unknown = np.setdiff1d(np.arange(USERS), witnesses(ring))
    windows, _, _ = lesson._windows(ring)
    assert len(windows) == 12 * len(unknown)
    parts = {tuple(ring.history(int(user))[:-HELD].tolist()) for user in unknown}
    for window in windows[::12].tolist():
        part = tuple(item for item in window if item)
        assert any(part == history[at : at + len(part)] for history in parts for at in range(len(history)))


def test_what_a_thief_took_from_people_counts_for_nothing(lesson: Lesson) -> None:
    thefts, begun = torch.rand(3, LONGEST, FEATURES), torch.tensor([1, 5, 9])
    counted = lesson._weight(thefts, begun)[0, len(lesson.people) :] > 0
    for row, first in zip(counted.tolist(), (0, 5, 9), strict=True):
        assert row == [place >= first for place in range(LONGEST)]


@pytest.mark.parametrize("then", [Random, Agent, Mimic])
def test_some_thieves_begin_with_what_people_did(then: type[Strategy]) -> None:
    held = torch.tensor([[1, 2, 3, 4, 5, 0], [6, 7, 8, 0, 0, 0]])
    strategy, generator = Begun(held, then()), torch.Generator().manual_seed(0)
    sizes = set()
    for _ in range(30):
        started = strategy.start(7, RING, generator)
        size = started.shape[1]
        sizes.add(size)
        assert {tuple(row) for row in started.tolist()} <= {tuple(row[:size]) for row in held.tolist() if row[size - 1]}
        chosen = strategy.pick(started, torch.arange(1, 6).expand(7, -1), RING, generator)
        assert chosen.shape == (7,)
    assert sizes == {1, 2, 3, 4}


def test_thieves_grow_their_histories_in_turns(lesson: Lesson) -> None:
    turns = list[int]()

    class Learning(Random):
        def start(self, size: int, n_items: int, generator: torch.Generator) -> Tensor:
            turns.append(size)
            return super().start(size, n_items, generator)

    read, begun = lesson._theft(Learning(), None)
    assert turns == [16 // module.TURNS] * module.TURNS
    assert (read.shape, begun.tolist()) == ((16, LONGEST, FEATURES), [1] * 16)


class Watching(Random):
    """Keeps his last histories."""

    def pick(self, histories: Tensor, lists: Tensor, n_items: int, generator: torch.Generator) -> Tensor:
        """Keep them."""
        following = super().pick(histories, lists, n_items, generator)
        self.whole = torch.cat([histories, following[:, None]], dim=1)
        return following


def test_where_nobody_has_so_many_items_people_are_read_as_far_as_the_longest(lesson: Lesson, learnt: Staged) -> None:
    few = sequences([history[: LONGEST - 2] for history in people(USERS, 0)])
    short_of = Lesson(learnt, lesson.personas, few, 16)
    parts = short_of.parts
    assert parts.shape[1] == LONGEST - 2 - HELD
    assert short_of.people.shape == (len(parts), LONGEST, FEATURES)
    torch.testing.assert_close(short_of.people[:, : parts.shape[1]], features(learnt, lesson.personas, parts))
    assert not short_of.people[:, parts.shape[1] :].any()


def test_what_is_read_of_a_theft_is_what_is_read_of_its_histories(lesson: Lesson) -> None:
    thief = Watching()
    read, _ = lesson._theft(thief, None)
    with torch.inference_mode():
        torch.testing.assert_close(read[-len(thief.whole) :], lesson._read(thief.whole))


@pytest.mark.parametrize("length", [1, SHORT, SHORT + 1, LONGEST])
@torch.inference_mode()
def test_thieves_ask_beginners_personas_first_then_a_gate_before_them(
    lesson: Lesson, learnt: Staged, length: int
) -> None:
    asked = random_histories(40, length, RING)
    read = lesson._read(asked)
    answering = lesson.personas if length <= SHORT else learnt.later
    true = answering.scores(asked)
    assert torch.equal(lesson._answered(asked, read, None), true)
    torch.manual_seed(0)
    network = Network().eval()
    thresholds = network(read).quantile(0.5, dim=0)
    since = became(network(read) > thresholds)[:, -1]
    false = since < length
    assert 10 < int(false.sum()) < 30
    found = lesson._answered(asked, read, (network, thresholds))
    wanted = misled(learnt.later, lesson.personas, asked, since, lesson.others)
    torch.testing.assert_close(found, torch.where(false[:, None], wanted, true))
    assert not torch.allclose(wanted, true)


def test_thieves_ask_again_behind_the_gate_that_has_learnt_from_them(
    lesson: Lesson, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, learnt_from = list[object](), list[int]()
    theft, taught = lesson._theft, lesson._taught

    def watched(strategy: Strategy, gate: tuple[Network, Tensor] | None) -> tuple[Tensor, Tensor]:
        asked.append(gate and gate[0].written())
        return theft(strategy, gate)

    def learning(thefts: Tensor, begun: Tensor) -> Network:
        learnt_from.append(len(thefts))
        networks.append(taught(thefts, begun))
        return networks[-1]

    networks = list[Network]()
    monkeypatch.setattr(module, "EPOCHS", 1)
    monkeypatch.setattr(lesson, "_theft", watched)
    monkeypatch.setattr(lesson, "_taught", learning)
    values = lesson.learnt(BUDGET)
    first, second = (network.written() for network in networks)
    assert learnt_from == [12 * 16, 24 * 16]
    assert asked == [None] * 12 + [first] * 12
    assert values["weights"] == second != first


def test_what_is_learnt_from_are_parts_of_histories_without_what_is_held_out(lesson: Lesson, ring: Sequences) -> None:
    windows, _, _ = lesson._windows(ring)
    held_in = [ring.history(user)[:-HELD].tolist() for user in range(USERS)]
    begins = []
    for number in range(0, len(windows), 12):
        parts = [[item for item in window if item] for window in windows[number : number + 12].tolist()]
        for part in parts:
            whole = [
                history for history in held_in for at in range(len(history)) if history[at : at + len(part)] == part
            ]
            assert whole
            assert len(part) == LONGEST or part in held_in
        begins += [any(history[: len(part)] == part for history in held_in) for part in parts]
    assert 0.4 < np.mean(begins) < 0.95


def test_of_many_people_fewer_parts_are_learnt(
    lesson: Lesson, ring: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 3 * USERS // 2 + 1)
    assert len(lesson._windows(ring)[0]) == 3 * USERS // 2
    monkeypatch.setattr(module, "MOST", 1)
    assert len(lesson._windows(ring)[0]) == USERS // 2


@pytest.mark.parametrize("histories", [[[1, 2, 3, 4, 5]] * 30, people(1, 0), people(6, 0)])
def test_too_few_people_to_learn_from_are_told(learnt: Staged, histories: list[list[int]]) -> None:
    message = "ring: the gate learns from people with more than 5 interactions; there are too few: protect it otherwise"
    for refused in (
        lambda: QUICK.fitted(learnt, sequences(histories)),
        lambda: QUICK.require_people(sequences(histories), StagedSettings(short=SHORT)),
    ):
        with pytest.raises(DataError, match=message):
            refused()


def test_those_who_teach_have_more_than_beginners_and_are_not_known(ring: Sequences) -> None:
    found = set(teachers(ring, LONGEST).tolist())
    assert found == {
        user
        for user in range(USERS)
        if len(ring.history(user)) > LONGEST + HELD and user not in witnesses(ring).tolist()
    }
    assert READERS <= len(found) < USERS // 2
    QUICK.require_people(ring, StagedSettings(short=LONGEST))
