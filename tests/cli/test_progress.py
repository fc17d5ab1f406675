from __future__ import annotations

import io

import pytest
from rich.console import Console

from gro.cli.progress import Bar, Lines, Plan, describe, watch
from gro.cli.settings import Output
from gro.training import Quiet


def test_plain_lines_have_one_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("protection", Plan([2, 3]))
    for epoch, most in ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)):
        for fraction in (0.1, 0.5, 1.0):
            lines.step(epoch, fraction)
        lines.epoch(epoch, {"score": 9.0, "valid_ndcg@10": 0.0625})
        wanted = f"protection: epoch {epoch + 1} of at most {most}: valid ndcg@10 6.25 %\n"
        assert capsys.readouterr().err == wanted


def test_a_training_of_one_epoch_ends_before_the_next_one(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("protection", Plan([1, 2]))
    for _ in range(2):
        lines.step(0, 1.0)
        lines.epoch(0, {"score": 0.5})
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["1:", "2:"]


def test_plain_lines_of_a_thief_that_asks(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("theft", Plan([4]))
    for done in range(1, 101):
        lines.step(-1, done / 100)
    shares = [line.split(": ")[-1] for line in capsys.readouterr().err.splitlines()]
    assert shares == [f"{share}% of the calls made" for share in (25, 50, 75, 100)]
    lines.step(0, 1.0)
    lines.epoch(0, {"held_out_agreement@10": 0.5})
    assert capsys.readouterr().err == "theft: epoch 1 of at most 4: held out agreement@10 50.00 %\n"


def test_bar_covers_all_epochs_and_begins_anew_with_each_training() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = Bar.on(console)
    bar = Bar("protection", Plan([10, 20]), progress)
    bar.step(6, 0.5)
    (task,) = progress.tasks
    assert (task.completed, task.total) == (6.5, 10)
    bar.epoch(6, {"valid_ndcg@10": 0.5})
    assert task.fields["figures"] == "valid ndcg@10 50.00 %"
    assert task.description == "protection: epoch 7 of at most 10"
    bar.step(7, 1.0)
    bar.step(0, 0.25)
    (task,) = progress.tasks
    assert (task.completed, task.total) == (0.25, 20)


def test_bar_of_a_thief_asks_before_it_learns() -> None:
    progress = Bar.on(Console(file=io.StringIO(), force_terminal=True))
    bar = Bar("theft", Plan([30]), progress)
    bar.step(-1, 0.5)
    assert (progress.tasks[0].completed, progress.tasks[0].total) == (0.5, 1)
    bar.step(0, 0.5)
    (task,) = progress.tasks
    assert (task.completed, task.total, task.description) == (0.5, 30, "theft: epoch 1 of at most 30")


def test_a_terminal_shows_the_bar_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    with watch(Output(), "theft", [3]) as progress:
        progress.step(0, 0.5)
        progress.epoch(0, {"held_out_agreement@10": 0.25})
    assert "theft: epoch 1 of at most 3" in screen.getvalue()
    assert "left" in screen.getvalue()
    assert "held out agreement@10 25.00 %" in screen.getvalue()


def test_quiet() -> None:
    with watch(Output(quiet=True), "theft", [3]) as progress:
        assert isinstance(progress, Quiet)


def test_describe_leaves_the_score_out() -> None:
    assert describe({"score": 1.0, "utility_loss": -0.5, "student_loss": 0.125}) == (
        "utility loss -50.00 %, student loss 12.50 %"
    )
