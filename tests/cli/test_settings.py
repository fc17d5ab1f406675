from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gro.cli.settings import merge
from gro.config import AttackCommand, ProtectCommand, TrainCommand
from gro.errors import ConfigError
from gro_surrogates.settings import ThiefSettings

THEFT = (AttackCommand, ThiefSettings)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def of_file(path: Path, text: str, *classes: type[Any], **given: Any) -> dict[str, Any]:
    path.write_text(text)
    return merge(given, {"config": path}, classes)


def test_flags_win_over_the_file_and_nothing_else_is_set(toml: Path) -> None:
    text = 'dataset = "tiny"\nepochs = 3\nlearning-rate = 0.1\n'
    merged = of_file(toml, text, TrainCommand, out=Path("x"), epochs=4)
    assert merged == {"dataset": "tiny", "out": Path("x"), "epochs": 4, "learning_rate": 0.1}


def test_a_flag_that_repeats_the_default_wins_over_the_file(toml: Path) -> None:
    default = TrainCommand.model_fields["k"].default
    assert of_file(toml, 'dataset = "tiny"\nout = "x"\nk = 7\n', TrainCommand, k=default)["k"] == default


def test_from_is_a_key(toml: Path) -> None:
    merged = of_file(toml, 'dataset = "tiny"\nout = "x"\nfrom = "plain"\n', ProtectCommand)
    assert ProtectCommand.make(merged).from_ == Path("plain")


def test_attack_takes_its_own_and_the_thief_s_keys(toml: Path) -> None:
    merged = of_file(toml, "calls = 9\nepochs = 2\n", *THEFT, run=Path("r"))
    assert merged == {"run": Path("r"), "calls": 9, "epochs": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch = 3", "unknown key 'epoch'. Did you mean 'epochs'?"),
        ("frm = 'x'", "unknown key 'frm'. Did you mean 'from'?"),
        ("epochs = 'many'", "'epochs' is 'many'"),
        ("dropout = 2.0", "'dropout' is 2.0"),
        ("model = 'SASrek'", "'model' is 'SASrek'"),
        ("model = 'SASrek'", "Did you mean 'SASRec'?"),
        ("epochs = ", "not a TOML file"),
    ],
)
def test_bad_file_is_named_with_its_key(toml: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        of_file(toml, text, ProtectCommand, dataset="tiny", out=Path("x"))
    assert str(error.value).startswith(f"{toml}: ")
    assert said in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        merge({}, {"config": tmp_path / "none.toml"}, [TrainCommand])


def test_recbole_s_file_is_the_weakest(tmp_path: Path, toml: Path) -> None:
    yaml = tmp_path / "recbole.yaml"
    yaml.write_text("dataset: tiny\nmodel: GRU4Rec\nepochs: 7\nlearning_rate: 0.5\n")
    toml.write_text("epochs = 8\nlearning_rate = 0.25\n")
    files = {"config": toml, "recbole_config": yaml}
    merged = merge({"out": Path("x"), "learning_rate": 0.125}, files, [TrainCommand])
    command = TrainCommand.make(merged)
    assert (command.dataset, command.model, command.epochs, command.learning_rate) == ("tiny", "GRU4Rec", 8, 0.125)
