"""Answers are bought once for each questioning, kept in parts, and shared by all that ask alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gro.errors import ArtifactError, GroError
from gro.training import Quiet
from gro_surrogates import recordings
from gro_surrogates.answers import Answers, Faults
from gro_surrogates.recordings import Recording, gather, record
from gro_surrogates.settings import ThiefSettings
from gro_surrogates.thief import Theft, Thief

N_ITEMS, CALLS = 30, 120
SETTINGS = ThiefSettings(max_length=6, hidden_size=8, inner_size=8, epochs=2)


class Counter:
    """A target that notes what it is asked and may break off."""

    def __init__(self, budget: int = CALLS) -> None:
        self.calls, self.budget = 0, budget

    def __call__(self, histories: Tensor) -> Tensor:
        self.calls += len(histories)
        if self.calls > self.budget:
            raise KeyboardInterrupt
        return (histories[:, :1] + torch.arange(5)) % N_ITEMS + 1


def steal(thief: Thief, target: Callable[[Tensor], Tensor], calls: int = CALLS, seed: int = 0) -> Theft:
    return thief(target, N_ITEMS, calls, seed)


def weights(theft: Theft) -> Tensor:
    return torch.cat([p.detach().flatten() for p in theft.surrogate.parameters()])


def group(start: int, size: int = 3, length: int = 4) -> Answers:
    """Answers to ``size`` histories, every one of them different from those of other starts."""
    histories = torch.arange(start, start + size)[:, None] + torch.arange(length)
    lists = (histories[..., None] + torch.arange(2)).to(torch.int16)
    return Answers(histories, lists, torch.zeros(size, dtype=torch.int64))


def groups(count: int) -> Iterator[Answers]:
    return (group(1 + 10 * number) for number in range(count))


def rows(recording: Recording) -> list[list[int]]:
    return [row for part in recording for row in part.histories.tolist()]


ALL_ROWS = [row for each in groups(5) for row in each.histories.tolist()]


@pytest.fixture(params=["memory", "disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "disk" else None


@pytest.mark.parametrize(("size", "parts"), [(1, 5), (12, 5), (13, 3), (24, 3), (36, 2), (60, 1), (1000, 1)])
def test_parts_hold_everything_in_order(
    folder: Path | None, size: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "PART", size)
    recording = record(lambda faults: groups(5), 1, folder)
    assert (len(recording), recording.calls) == (parts, 60)
    assert rows(recording) == ALL_ROWS
    for part in recording:
        assert torch.equal(part.lists.long(), part.histories[..., None] + torch.arange(2))
        assert part.lists.dtype == torch.int16


def test_a_part_is_as_long_as_its_calls_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "PART", 48)
    parts = list(gather(groups(5), Faults(), price=2))
    assert [part.calls for part in parts] == [48, 48, 24]
    assert {part.price for part in parts} == {2}


def test_lists_that_were_not_kept_are_counted_when_they_are_read_again(
    folder: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "PART", 30)
    recording = record(lambda faults: (replace(each, taken_back=5) for each in groups(5)), 2, folder)
    assert [part.calls for part in recording] == [2 * 17] * 5
    assert recording.calls == 170


def test_a_change_is_made_whenever_a_part_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "PART", 24)
    recording, changed = record(lambda faults: groups(5), 1), []

    def shortened(part: Answers) -> Answers:
        changed.append(part.n_sequences)
        return replace(part, lists=part.lists[..., :1])

    lazy = recording.changed(shortened)
    assert (changed, lazy.calls, len(lazy)) == ([], recording.calls, 3)
    assert [part.lists.shape[2] for part in lazy] == [1, 1, 1]
    assert [part.lists.shape[2] for part in recording] == [2, 2, 2]
    assert rows(lazy.changed(lambda part: part.rows(torch.tensor([0])))) == [ALL_ROWS[n] for n in (0, 6, 12)]


@pytest.mark.parametrize(("size", "parts"), [(119, 10), (120, 1)])
def test_two_questionings_are_one_recording(size: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "PART", 12)
    first = record(lambda faults: groups(5), 1)
    second = Recording.of([group(101 + 10 * n) for n in range(5)], Faults(failed=2, error="TimeoutError: later"))
    monkeypatch.setattr(recordings, "PART", size)
    both = first + second
    assert (len(both), both.calls, both.faults.failed) == (parts, 120, 2)
    assert both.faults.error == "TimeoutError: later"
    assert rows(both) == rows(first) + rows(second)


def test_faults_add_up_and_the_first_error_is_told() -> None:
    first, second = Faults(1, 2, 3, 4, "a"), Faults(10, 20, 30, 40, "b")
    assert first + second == Faults(11, 22, 33, 44, "a")
    assert Faults() + second == second


def test_a_theft_over_several_parts_learns_every_history_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "PART", 30)
    monkeypatch.setattr("gro_surrogates.strategies.Autoregressive.together", 5)
    learnt: list[list[int]] = []
    fractions: list[float] = []

    class Watching(Quiet):
        def step(self, epoch: int, fraction: float) -> None:
            if epoch == 0:
                fractions.append(fraction)

    def learn(surrogate: Any, optimizer: Any, answers: Answers, loss: Any, **settings: Any) -> Iterator[float]:
        learnt.extend(answers.histories.tolist())
        yield 1.0

    monkeypatch.setattr("gro_surrogates.thief.learn_epoch", learn)
    thief = Thief(SETTINGS, progress=Watching())
    asked = thief.ask(Counter(), N_ITEMS, CALLS, seed=0)
    assert len(asked) == 4
    thief.learn(asked, N_ITEMS, seed=0)
    held_out = [row for row in rows(asked) if row not in learnt]
    assert len(held_out) == 1
    assert held_out[0] in asked[0].histories.tolist()
    epoch = len(learnt) // SETTINGS.epochs
    for part in (learnt[:epoch], learnt[epoch:]):
        assert sorted([*part, *held_out]) == sorted(rows(asked))
    assert fractions == [0.25, 0.5, 0.75, 1.0]


def test_a_theft_over_several_parts_learns_as_well_as_from_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 15, "learning_rate": 0.02})
    whole = steal(Thief(settings), Counter(600), 600)
    monkeypatch.setattr(recordings, "PART", 150)
    monkeypatch.setattr("gro_surrogates.strategies.Autoregressive.together", 20)
    thief = Thief(settings, recordings=tmp_path)
    assert len(thief.ask(Counter(600), N_ITEMS, 600, seed=0)) > 2
    parts = steal(thief, Counter(0), 600)
    agreed = [theft.logs[0].best["held_out_agreement@10"] for theft in (whole, parts)]
    assert min(agreed) > 0.6
    assert agreed[1] == pytest.approx(agreed[0], abs=0.15)


def test_the_same_questions_are_never_asked_twice(tmp_path: Path) -> None:
    expected, target = weights(steal(Thief(SETTINGS), Counter())), Counter()
    thief = Thief(SETTINGS, recordings=tmp_path)
    assert torch.equal(weights(steal(thief, target)), expected)
    assert target.calls == CALLS
    assert torch.equal(weights(steal(thief, Counter(budget=0))), expected)
    learning = {"loss": "set", "epochs": 1, "truncate": 3, "stop_gain": 0.0, "hidden_size": 16}
    other = Thief(SETTINGS.model_copy(update=learning), recordings=tmp_path)
    assert not torch.equal(weights(steal(other, Counter(budget=0)))[: len(expected)], expected)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("length", [None, 6])
def test_unset_histories_are_as_long_as_the_copy_reads(tmp_path: Path, length: int | None) -> None:
    for settings, target in ((SETTINGS, Counter()), (ThiefSettings(max_length=9, sequence_length=6), Counter(0))):
        wanted = settings.model_copy(update={"sequence_length": settings.sequence_length or length})
        Thief(wanted, recordings=tmp_path).ask(target, N_ITEMS, CALLS, seed=0)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [{"victim": "b"}, {"seed": 1}, {"calls": 90}, {"queries": "random"}, {"repeats": 2}, {"sequence_length": 5}],
    ids=lambda change: next(iter(change)),
)
def test_other_questions_or_another_victim_are_bought_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    first = Thief(SETTINGS, recordings=tmp_path, victim="a").ask(Counter(), N_ITEMS, CALLS, seed=0)
    asked: dict[str, Any] = {"victim": "a", "seed": 0, "calls": CALLS}
    settings = SETTINGS.model_copy(update={key: value for key, value in change.items() if key not in asked})
    asked |= {key: value for key, value in change.items() if key in asked}
    target = Counter()
    thief = Thief(settings, recordings=tmp_path, victim=asked["victim"])
    found = thief.ask(target, N_ITEMS, asked["calls"], asked["seed"])
    assert target.calls == found.calls == asked["calls"]
    assert len(list(tmp_path.iterdir())) == 2
    again = Thief(SETTINGS, recordings=tmp_path, victim="a").ask(Counter(budget=0), N_ITEMS, CALLS, seed=0)
    assert rows(again) == rows(first)


def test_recorded_faults_are_kept(tmp_path: Path) -> None:
    def short(histories: Tensor) -> Tensor:
        lists = (histories[:, :1] + torch.arange(5)) % N_ITEMS + 1
        return torch.where(histories[:, -1:] % 2 == 0, lists, lists * (torch.arange(5) < 3))

    thief = Thief(SETTINGS, recordings=tmp_path)
    first, again = (steal(thief, target).faults for target in (short, Counter(budget=0)))
    assert 0 < first.short < CALLS
    assert first == again == steal(Thief(SETTINGS), short).faults


@pytest.mark.parametrize("size", [12, 24, 1000])
def test_faults_of_all_parts_are_counted_once(folder: Path | None, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "PART", size)

    def buy(faults: Faults) -> Iterator[Answers]:
        for number, each in enumerate(groups(3)):
            faults.failed += 1
            yield replace(each, lists=each.lists.masked_fill(torch.arange(2) == number, 0)) if number == 1 else each

    for _ in range(2):
        assert record(buy, 1, folder).faults == Faults(failed=3, short=12)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "of other questions": lambda path: path.write_bytes(
        path.read_bytes().replace(b"autoregressive", b"autoregressivE")
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("place", [0, -1])
def test_damaged_recordings_are_refused_in_one_line(
    tmp_path: Path, damage: Callable[[Path], object], place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "PART", 60)
    monkeypatch.setattr("gro_surrogates.strategies.Autoregressive.together", 5)
    thief = Thief(SETTINGS, recordings=tmp_path)
    steal(thief, Counter())
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    damage(files[place])
    with pytest.raises(ArtifactError, match="delete") as error:
        steal(thief, Counter())
    assert str(error.value).startswith(f"{files[place]}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["*.safetensors", "000000.safetensors", "recording.json"])
def test_a_recording_that_lacks_a_file_is_refused(
    tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gro_surrogates.recordings.PART", CALLS // 3)
    thief = Thief(SETTINGS, recordings=tmp_path)
    steal(thief, Counter())
    for file in tmp_path.rglob(missing):
        file.unlink()
    with pytest.raises(ArtifactError, match="delete it"):
        steal(thief, Counter())


def test_nothing_is_kept_of_a_questioning_that_broke_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "PART", 30)
    monkeypatch.setattr("gro_surrogates.strategies.Autoregressive.together", 5)
    thief, target = Thief(SETTINGS, recordings=tmp_path), Counter()
    with pytest.raises(KeyboardInterrupt):
        steal(thief, Counter(budget=CALLS // 2))
    assert not list(tmp_path.iterdir())
    steal(thief, target)
    assert target.calls == CALLS


def test_nothing_is_kept_of_a_service_that_never_answers(folder: Path | None) -> None:
    def dead(histories: Tensor) -> Tensor:
        raise ConnectionError("refused")

    with pytest.raises(GroError, match=r"answered none of .* calls; the first error was ConnectionError: refused"):
        steal(Thief(SETTINGS, recordings=folder), dead)
    assert folder is None or not list(folder.iterdir())


def test_recordings_that_cannot_be_kept_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be written"):
        steal(Thief(SETTINGS, recordings=tmp_path / "file"), Counter())


def test_whoever_finishes_first_keeps_his_answers(tmp_path: Path) -> None:
    """Two thieves that ask alike at the same time both go on with one recording."""
    thief = Thief(SETTINGS, recordings=tmp_path)
    late = Counter()

    def overtaken(histories: Tensor) -> Tensor:
        if not late.calls:
            steal(thief, Counter())
        return late(histories)

    assert torch.equal(weights(steal(thief, overtaken)), weights(steal(thief, Counter(budget=0))))
    assert len(list(tmp_path.iterdir())) == 1
