"""The command line: every verb of the library as a command of ``gro``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

from gro.errors import GroError

BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM); unwinds like Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: arguments after the program's name; unset takes the process's own.

    Returns:
        0 done, 1 something was found wanting, 2 bad input, 130 interrupted, 143 terminated. Every error is one line on
        stderr.
    """
    try:
        with _terminable():
            code: int = import_module("gro.cli.app").run(sys.argv[1:] if argv is None else list(argv))
            sys.stdout.flush()
            return code
    except GroError as error:
        return _fail(str(error), BAD_INPUT)
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        _discard_output()
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{(error.strerror or str(error)).lower()}", BAD_INPUT)
    except KeyboardInterrupt as interrupt:
        code = TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
        return _fail("interrupted; run the same command again to resume", code)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"gro: {' '.join(message.split())}\n")
    return code


def _discard_output() -> None:
    """Send what Python still flushes at its end nowhere: the reader of stdout is gone, or its disk is full."""
    if sys.__stdout__ is not None and sys.stdout is sys.__stdout__:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.__stdout__.fileno())


@contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
