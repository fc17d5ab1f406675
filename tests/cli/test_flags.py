from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

from gro.cli.app import COMMANDS
from gro.cli.settings import flag
from gro.config import AttackCommand, ProtectCommand, TrainCommand
from gro_surrogates.settings import ThiefSettings

Gro = Any


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(gro: Gro, name: str) -> None:
    answer = gro(*name.split(), "--help")
    assert answer.code == 0
    assert answer.err == ""
    assert COMMANDS[name].doc in " ".join(answer.out.split())
    assert "--json" in answer.out


@pytest.mark.parametrize(
    ("name", "classes"),
    [("train", [TrainCommand]), ("protect", [ProtectCommand]), ("attack", [AttackCommand, ThiefSettings])],
)
def test_every_setting_is_a_flag(gro: Gro, name: str, classes: list[Any]) -> None:
    words = gro(name, "--help").out.split()
    assert {flag(field) for cls in classes for field in cls.model_fields} <= set(words)


def test_help_shows_docstring_and_default(gro: Gro) -> None:
    text = " ".join(gro("train", "--help").out.replace("│", " ").split())
    assert "--k INT Exposed k: the length of the lists that the service returns. [default: 100]" in text
    assert "--seed INT [default: 0]" in text
    assert "[default: None]" not in text


def test_version(gro: Gro) -> None:
    assert gro("--version").out.strip() == metadata.version("gro")


def test_no_command_prints_the_commands(gro: Gro) -> None:
    answer = gro()
    assert answer.code == 0
    assert all(name.partition(" ")[0] in answer.out for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--learning-rat", "3"], "Did you mean --learning-rate?"),
        (["trian"], 'Did you mean "train"?'),
        (["train", "--model", "SASrek"], '"SASRec"'),
        (["train", "--epochs", "many"], "--epochs"),
        (["train", "--epochs"], "--epochs requires an argument"),
        (["attack", "run", "stray"], "stray"),
        (["train", "--dataset", "tiny"], "--out must be given"),
        (["evaluate"], "RUN must be given"),
        (["train", "--dataset", "tiny", "--out", "x", "--k", "0"], "command line: 'k' is 0"),
    ],
)
def test_wrong_command_line(gro: Gro, arguments: list[str], said: str) -> None:
    answer = gro(*arguments)
    assert answer.code == 2
    assert said in answer.line


@pytest.mark.parametrize("arguments", [["--help"], ["attack", "--help"], ["train", "--epochs", "x"], ["train"]])
def test_torch_is_not_loaded_for_help_and_errors(arguments: list[str]) -> None:
    code = f"import sys; from gro.cli import main; main({arguments}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
