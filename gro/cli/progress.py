"""How long work shows itself on stderr: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from gro import training
from gro.cli.settings import Output

ASKING = -1
"""Number of the epoch in which a thief asks its target."""
LINES_WHILE_ASKING = 4


@contextmanager
def watch(output: Output, label: str, epochs: Sequence[int]) -> Iterator[training.Progress]:
    """Yield a progress for one verb.

    Args:
        output: whether anything is to be shown.
        label: what is being made.
        epochs: most epochs of each training that the verb runs, in turn.
    """
    if output.quiet:
        yield training.Quiet()
    elif sys.stderr.isatty():
        with Bar.on(Console(stderr=True)) as bar:
            yield Bar(label, Plan(list(epochs)), bar)
    else:
        yield Lines(label, Plan(list(epochs)))


@dataclass
class Plan:
    """Knows which of a verb's trainings an epoch belongs to: numbers that fall or come back begin the next one."""

    epochs: list[int]
    """Most epochs of the training that runs and of those to come."""
    asking: bool = False
    due: int | None = None
    """Least number by which an epoch belongs to the training that runs."""

    def begin(self, epoch: int) -> bool:
        """Take note that an epoch is running; tell whether it is the first one seen of its training."""
        fresh = self.due is None or epoch < self.due or self.asking
        if epoch == ASKING:
            fresh, self.asking = not self.asking, True
            return fresh
        if self.due is not None and epoch < self.due:
            self.epochs = self.epochs[1:] or self.epochs
        self.asking, self.due = False, epoch
        return fresh

    def end(self, epoch: int) -> None:
        """Take note that an epoch is over."""
        self.due = epoch + 1

    def name(self, epoch: int) -> str:
        """Return how an epoch is called."""
        return "asking the target" if epoch == ASKING else f"epoch {epoch + 1} of at most {self.epochs[0]}"


@dataclass
class Lines:
    """A line per epoch."""

    label: str
    plan: Plan
    quarters: int = 0

    def step(self, epoch: int, fraction: float) -> None:
        """Report every quarter of the calls; the steps of an epoch go unreported."""
        self.plan.begin(epoch)
        if epoch == ASKING and int(fraction * LINES_WHILE_ASKING) > self.quarters:
            self.quarters = int(fraction * LINES_WHILE_ASKING)
            self._write(f"{self.plan.name(epoch)}: {fraction:.0%} of the calls made")

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Report an epoch's figures."""
        self.plan.end(epoch)
        self._write(f"{self.plan.name(epoch)}: {describe(figures)}")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"{self.label}: {text}\n")
        sys.stderr.flush()


@dataclass
class Bar:
    """A bar over a whole training; the time left is for the most epochs that it may take."""

    label: str
    plan: Plan
    progress: Progress
    task: TaskID | None = field(default=None)

    @staticmethod
    def on(console: Console) -> Progress:
        """Return the bar's columns on a console."""
        columns = (
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(min_width=8)),
            TimeRemainingColumn(table_column=Column(min_width=7, no_wrap=True)),
            TextColumn("left", table_column=Column(min_width=4)),
            TextColumn("{task.fields[figures]}", markup=False),
        )
        return Progress(*columns, console=console, transient=True, speed_estimate_period=120, expand=True)

    def step(self, epoch: int, fraction: float) -> None:
        """Move the bar; a training that is resumed begins where it had stopped."""
        if self.plan.begin(epoch) or self.task is None:
            self._begin(epoch)
        if self.task is not None:
            done = fraction if epoch == ASKING else epoch + fraction
            self.progress.update(self.task, completed=done, description=f"{self.label}: {self.plan.name(epoch)}")

    def epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Show an epoch's figures beside the bar."""
        self.plan.end(epoch)
        if self.task is not None:
            self.progress.update(self.task, figures=describe(figures))

    def _begin(self, epoch: int) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
        total = 1 if epoch == ASKING else self.plan.epochs[0]
        self.task = self.progress.add_task(self.label, total=total, completed=max(epoch, 0), figures="")


def describe(figures: Mapping[str, float]) -> str:
    """Return the figures of an epoch in percent; the score that they add up to is left out."""
    return ", ".join(
        f"{name.replace('_', ' ')} {100 * value:.2f} %" for name, value in figures.items() if name != "score"
    )
