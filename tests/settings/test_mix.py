"""data.mix and data.weights as settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from settings import Config, ConfigError, MixedSetConfig, from_dict, load_config, to_dict, to_yaml

MIX = "data.mix={kinetics: {path: k, weight: 7, split: train}, mine: {path: m, weight: 3, weights: w.csv}}"


def test_a_mix_is_read_back_equal_and_in_order(tmp_path: Path):
    config = load_config(Config, None, [MIX])
    assert list(config.data.mix.items()) == [
        ("kinetics", MixedSetConfig("k", 7.0, split="train")),
        ("mine", MixedSetConfig("m", 3.0, weights="w.csv")),
    ]
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    again = load_config(Config, tmp_path / "config.yaml", ["data.mix.kinetics.weight=0.5"])
    assert list(again.data.mix) == ["kinetics", "mine"]
    assert [one.weight for one in again.data.mix.values()] == [0.5, 3.0]
    assert from_dict(Config, to_dict(config)) == config
    assert list(config.data.sets) == ["data.mix.kinetics.", "data.mix.mine."]
    assert config.data.where == "k and m"


def test_a_single_data_set_is_one_set():
    config = load_config(Config, None, ["data.path=x", "data.split=train", "data.weights=w"])
    assert config.data.sets == {"data.": MixedSetConfig("x", 1.0, split="train", weights="w")}
    assert load_config(Config, None, [MIX]).data.without_split(path="x").sets == {"data.": MixedSetConfig("x", 1.0)}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.mix.a.weight=0.5"], "data.mix.a.path must be set"),
        (["data.mix={a: {path: x}}"], "data.mix.a.weight must be set"),
        (["data.mix={a: {path: '', weight: 1}}"], "data.mix.a.path must be set to the folder"),
        (["data.mix={a: {path: x, weight: 0}}"], "data.mix.a.weight must be greater than 0, not 0.0; remove"),
        (["data.mix={a: {path: x, weight: -1}}"], "data.mix.a.weight must be greater than 0, not -1.0"),
        (["data.mix={a: {path: x, weight: .nan}}"], "data.mix.a.weight must be a finite number, not nan"),
        (["data.mix={a: {path: x, weight: .inf}}"], "data.mix.a.weight must be a finite number, not inf"),
        (["data.mix={a: {path: x, weight: much}}"], "data.mix.a.weight must be a number, not 'much'"),
        (["data.mix={a: {path: x, wight: 1}}"], "unknown key data.mix.a.wight; did you mean weight"),
        (
            ["data.mix={a: {path: 's3://k:x@b/x', weight: 1}}"],
            "data.mix.a.path: the s3:// URL holds a user name or a password",
        ),
        (
            ["data.mix={a: {path: 's3://b/x', weight: 1}, b: {path: 's3://b/x/', weight: 1}}"],
            "data.mix.b.path and data.mix.a.path are the same folder, s3://b/x/",
        ),
        (["data.mix={a: x}"], "data.mix.a must be a mapping, not 'x'"),
        (["data.mix=[x]"], "data.mix must be a mapping, not"),
        (["data.mix={'a b': {path: x, weight: 1}}"], "data.mix: the name 'a b' must be text of 1 to 40 letters"),
        (["data.mix={'a/..': {path: x, weight: 1}}"], "data.mix: the name 'a/..' must be text of"),
        (["data.mix={3: {path: x, weight: 1}}"], "data.mix: the name 3 must be text of"),
        (
            ["data.mix={a: {path: x, weight: 1}, b: {path: ./x, weight: 1}}"],
            "data.mix.b.path and data.mix.a.path are the same folder, ./x",
        ),
        ([MIX, "data.path=x"], "data.path=x and data.mix exclude each other: remove one, or set data.mix.NAME.path"),
        ([MIX, "data.split=train"], "data.split=train and data.mix exclude each other"),
        ([MIX, "data.leave_out=list"], "data.leave_out=list and data.mix exclude each other"),
        ([MIX, "data.weights=w"], "data.weights=w and data.mix exclude each other"),
        ([MIX, "data.loader=decord"], "data.mix needs prepared shards, which data.loader=decord does not read"),
        ([MIX, "monitor.every_epochs=1", "monitor.label=c"], "monitor.data must name the data set to measure"),
    ],
)
def test_mistakes_name_their_key(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config(Config, None, overrides)
    assert message in str(caught.value)
