from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Gro = Any

EPOCHS = 5
SIZES = ("--hidden-size", "8", "--inner-size", "8", "--n-layers", "1", "--n-heads", "1", "--k", "5")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
STOPPED_IN_THE_THIRD_EPOCH = """
import os, signal, sys
from gro.cli import main
from gro.cli.progress import Lines

def step(self, epoch, fraction):
    if epoch == 2 and fraction > 0.4:
        os.kill(os.getpid(), int(sys.argv[1]))

Lines.step = step
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[2:]))
"""


def command(data_path: Path, out: Path) -> list[str]:
    pace = ("--epochs", str(EPOCHS), "--patience", "0", "--batch-size", "8")
    return ["train", "--dataset", "tiny", "--data-path", str(data_path), "--out", str(out), *SIZES, *pace]


def python(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=False, **more
    )


@pytest.fixture(scope="module")
def unbroken(data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Weights of a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert python("-m", "gro", *command(data_path, out), "--quiet").returncode == 0
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_resumed_run_ends_in_the_weights_of_an_unbroken_one(
    data_path: Path, tmp_path: Path, unbroken: bytes, gro: Gro, number: int, code: int
) -> None:
    out = tmp_path / "run"
    stopped = python("-c", STOPPED_IN_THE_THIRD_EPOCH, str(int(number)), *command(data_path, out))
    assert stopped.returncode == code
    assert stopped.stdout == ""
    said = stopped.stderr.splitlines()
    assert [line.split(":")[1] for line in said if "epoch" in line] == [f" epoch {n} of at most 5" for n in (1, 2)]
    if number == signal.SIGINT:
        assert said[-1] == "gro: interrupted; run the same command again to resume"
        assert "Traceback" not in stopped.stderr
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")] == [Path("run/training.safetensors")]
    refused = gro(*command(data_path, out), "--seed", 1, "--quiet")
    assert refused.code == 2
    assert "begun with other settings" in refused.line
    answer = gro(*command(data_path, out), "--json")
    assert answer.code == 0
    assert "epoch 2 of" not in answer.err
    assert (out / "model.safetensors").read_bytes() == unbroken
    assert sorted(path.name for path in out.iterdir()) == ["items.json", "manifest.json", "model.safetensors"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_in_one_line(gro: Gro, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    def killed(settings: object, output: object) -> int:
        signal.raise_signal(number)
        return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr("gro.cli.datasets.datasets", killed)
        answer = gro("datasets")
    finally:
        signal.signal(signal.SIGINT, before)
    assert answer.code == code
    assert answer.line == "gro: interrupted; run the same command again to resume"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_full_disk(data_path: Path, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    out = tmp_path / "run"
    done = python("-m", "gro", *command(data_path, out), "--quiet", "--json", preexec_fn=small_files)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"gro: {out}: ")
    assert done.stderr.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_stdout_on_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gro", "datasets", "--json"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr == b"gro: no space left on device\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "gro", "datasets"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr == b""
