from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gro._recbole import RecBoleSettings, read_config
from gro.config import DataSettings, TrainingSettings
from gro.errors import ConfigError

FULL = """
model: SASRec
dataset: steam
data_path: data/
USER_ID_FIELD: uid
ITEM_ID_FIELD: iid
TIME_FIELD: when
field_separator: ","
user_inter_num_interval: "[5,inf)"
item_inter_num_interval: "[3,inf)"
val_interval: {rating: "[3,inf)"}
rm_dup_inter: last
load_col: {inter: [uid, iid, when]}
MAX_ITEM_LIST_LENGTH: 20
hidden_size: 32
n_layers: 1
n_heads: 4
inner_size: 128
hidden_dropout_prob: 0.3
attn_dropout_prob: 0.1
loss_type: CE
train_neg_sample_args: ~
learning_rate: 1e-3
train_batch_size: 2048
epochs: 30
stopping_step: 5
weight_decay: 1e-4
seed: 7
eval_args: {split: {LS: valid_and_test}, order: TO, mode: full}
gpu_id: 0
metrics: [Hit]
"""


def read(tmp_path: Path, text: str) -> RecBoleSettings:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    return read_config(tmp_path / "config.yaml")


def test_every_key_with_an_equivalent_is_read(tmp_path: Path) -> None:
    data, training, hyper = read(tmp_path, FULL)
    assert DataSettings.make(data) == DataSettings(
        dataset="steam",
        data_path=Path("data"),
        user_id_field="uid",
        item_id_field="iid",
        time_field="when",
        field_separator=",",
        user_inter_num_interval="[5,inf)",
        item_inter_num_interval="[3,inf)",
        val_interval={"rating": "[3,inf)"},
        rm_dup_inter="last",
    )
    assert TrainingSettings.make(training) == TrainingSettings(
        model="SASRec",
        max_length=20,
        hidden_size=32,
        n_layers=1,
        n_heads=4,
        inner_size=128,
        dropout=0.3,
        attention_dropout=0.1,
        learning_rate=1e-3,
        batch_size=103,
        epochs=30,
        patience=6,
        weight_decay=1e-4,
        seed=7,
    )
    assert hyper["hidden_size"] == 32
    assert "epochs" not in hyper


def test_filters_left_out_are_recboles_and_drop_nothing(tmp_path: Path) -> None:
    data = read(tmp_path, "dataset: ml-1m\nrm_dup_inter: ~\n").data
    assert data == {
        "dataset": "ml-1m",
        "user_inter_num_interval": "[0,inf)",
        "item_inter_num_interval": "[0,inf)",
        "rm_dup_inter": "keep",
    }


def test_the_bundled_set_is_read_from_recboles_folder(tmp_path: Path) -> None:
    assert "data_path" not in read(tmp_path, "dataset: ml-100k\ndata_path: dataset/\n").data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: GRU4Rec\nembedding_size: 48\nhidden_size: 48\nnum_layers: 2\ndropout_prob: 0.1", (48, 2, 0.1)),
        ("model: NARM\nhidden_size: 48\nn_layers: 3\ndropout_probs: [0.4, 0.4]", (48, 3, 0.4)),
        ("model: BERT4Rec\nhidden_size: 48\nn_layers: 3\nhidden_dropout_prob: 0.4", (48, 3, 0.4)),
    ],
)
def test_hyper_parameters_by_architecture(tmp_path: Path, text: str, expected: tuple[Any, ...]) -> None:
    settings = TrainingSettings.make(read(tmp_path, text).training)
    assert (settings.hidden_size, settings.n_layers, settings.dropout) == expected


def test_other_recbole_models_keep_their_own_keys(tmp_path: Path) -> None:
    found = read(tmp_path, "model: STAMP\nembedding_size: 12\nloss_type: BPR\nepochs: 3\n")
    assert found.hyper == {"embedding_size": 12, "loss_type": "BPR"}
    assert found.training == {"model": "STAMP", "epochs": 3}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hidden_sise: 3", r"no key 'hidden_sise'\. Did you mean 'hidden_size'\?"),
        ("threshold: {rating: 3}", r"'threshold' is .*: only None is supported"),
        ("benchmark_filename: [a, b, c]", "'benchmark_filename' is"),
        ("alias_of_item_id: [other]", "'alias_of_item_id' is"),
        ("filter_inter_by_user_or_item: false", "'filter_inter_by_user_or_item' is False: only True"),
        ("repeatable: false", "'repeatable' is False: only True is supported"),
        ("eval_args: {split: {RS: [8, 1, 1]}}", r"'eval_args\.split' is .*only \{'LS': 'valid_and_test'\}"),
        ("eval_args: {order: RO}", r"'eval_args\.order' is 'RO': only 'TO'"),
        ("eval_args: {mode: uni100}", r"'eval_args\.mode' is 'uni100'"),
        ("eval_args: {splitt: 1}", r"'eval_args' has no key 'splitt'\. Did you mean 'split'\?"),
        ("eval_args: full", "'eval_args' is 'full'"),
        ("loss_type: BPR", "'loss_type' is 'BPR': only 'CE'"),
        ("hidden_act: relu", "'hidden_act' is 'relu': only 'gelu'"),
        ("train_batch_size: many", "'train_batch_size' is 'many': right would be a whole number"),
    ],
)
def test_what_cannot_be_honoured_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, f"model: SASRec\n{line}\n")
    assert str(caught.value).startswith(f"{tmp_path / 'config.yaml'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("model: GRU4Rec\nembedding_size: 64\nhidden_size: 128", "hidden_size"),
        ("model: NARM\ndropout_probs: [0.25, 0.5]", "dropout"),
    ],
)
def test_two_values_for_one_of_ours_are_refused(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=f"here both are one '{key}'; make them equal"):
        read(tmp_path, text)


def test_the_line_of_broken_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml:2: not YAML: ") as caught:
        read(tmp_path, "model: SASRec\ndataset: x: y\nepochs: 3\n")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="right would be lines such as"):
        read(tmp_path, text)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"dataset: caf\xe9")
    with pytest.raises(ConfigError, match="not a UTF-8 file"):
        read_config(tmp_path / "latin.yaml")


def test_an_expression_is_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expression = "__import__('os').mkdir('harmed')"
    assert read(tmp_path, f"dataset: {expression}\n").data["dataset"] == expression
    assert not (tmp_path / "harmed").exists()


def test_a_yaml_object_is_refused_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"config\.yaml:1: not YAML: could not determine a constructor"):
        read(tmp_path, "dataset: !!python/object/apply:os.mkdir ['harmed']\n")
    assert not (tmp_path / "harmed").exists()
