"""Loading settings: values are set as written, and mistakes are explained."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from settings import Config, ConfigError, PrepareConfig, load_config, to_dict, to_yaml

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load(path):
    assert isinstance(load_config(Config, path), Config)


def test_resolved_config_reads_back_equal(tmp_path):
    config = load_config(
        Config, overrides=["optim.lr=3e-4", "augment.crop_area=[0.5, 1]", "sampler.options={block: 8}"]
    )
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config(Config, path) == config
    assert to_dict(config)["optim"]["lr"] == 3e-4


def test_overrides_take_precedence_over_the_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("seed: 3\ntrain:\n  epochs: 7\n  batch_size: 8\n")
    config = load_config(Config, path, ["train.epochs=2"])
    assert (config.seed, config.train.epochs, config.train.batch_size) == (3, 2, 8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "unknown key optim.lrr; did you mean lr?"),
        ("data.order=glob", "data.order must be one of global, shards, not 'glob'"),
        ("train.epochs=3.5", "train.epochs must be a whole number or auto, not 3.5"),
        ("train.epochs=true", "train.epochs must be a whole number or auto, not True"),
        ("augment.enabled=1", "augment.enabled must be true or false, not 1"),
        ("optim.lr=fast", "optim.lr must be a number, not 'fast'"),
        ("optim.lr=-1", "optim.lr must be positive, not -1"),
        ("clip.fps=1e-310", "clip.fps must be in [0.01, 240], not 1e-310"),
        ("audio.seconds=7200", "audio.seconds must be in [0, 3600], not 7200"),
        ("augment.crop_area=[0.5]", "augment.crop_area must be a list of 2 values"),
        ("clip=3", "clip must be a mapping"),
        ("seed", "is not of the form key=value"),
        ("seed={", "is not valid YAML"),
        ("seed.low=3", "seed must be a whole number"),
    ],
)
def test_mistakes_name_the_key_and_what_is_allowed(override, message):
    with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace("?", r"\?").replace("(", r"\(")):
        load_config(Config, overrides=[override])


@pytest.mark.parametrize(
    ("text", "overrides", "source"),
    [
        ("optim: {lrr: 1}", [], "FILE: unknown key optim.lrr"),
        ("optim: {lrr: 1}", ["seed=3"], "FILE: unknown key optim.lrr"),
        ("seed: 3", ["optim.lrr=1"], "command line: unknown key optim.lrr"),
        ("optim: {lr: -1}", ["optim.warmup_steps=3"], "FILE: optim.lr must be positive"),
        ("optim: {lr: 1}", ["optim.lr=-1"], "command line: optim.lr must be positive"),
        ("data: {order: glob}", ["optim.lr=-1"], "FILE: data.order must be one of"),
        ("seed: 3", ["optim.lr"], "command line: 'optim.lr' is not of the form key=value"),
        ("seed: 3", ["seed.low=3"], "command line: 'seed.low=3': seed is a single value"),
    ],
)
def test_a_mistake_is_said_to_be_in_the_file_or_on_the_command_line(tmp_path, text, overrides, source):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Config, path, overrides)
    assert str(caught.value).startswith(source.replace("FILE", str(path)))


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "3"])
def test_a_file_that_is_not_a_mapping_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(Config, path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(Config, tmp_path / "nowhere.yaml")


def test_nested_dataclasses_take_overrides():
    config = load_config(PrepareConfig, overrides=["storage.codec=jpeg", "storage.quality=5"])
    assert (config.storage.codec, config.storage.quality) == ("jpeg", 5)
    with pytest.raises(ConfigError, match=r"storage\.quality for jpeg must be in \[0, 31\], not 50"):
        load_config(PrepareConfig, overrides=["storage.codec=jpeg", "storage.quality=50"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1\nb: 2", "is not valid YAML: while parsing"),
        ("[" * 5000, "nested too deeply"),
        ("seed: 2001-99-99", "is not valid YAML: month"),
        ("seed: !!timestamp x", "is not valid YAML"),
        ("seed: " + "9" * 5000, "is not valid YAML"),
        ("sampler: {options: &o {a: *o}}", "holds more than 10,000 values, or a value that contains itself"),
        ("a: &a [x]\nb: &b [" + "*a, " * 200 + "]\nc: [" + "*b, " * 200 + "]", "holds more than 10,000 values"),
        ("a: &a {x: 1, y: 2}\nb: &b {<<: [" + "*a, " * 150 + "]}\nc: {<<: [" + "*b, " * 150 + "]}", "holds more than"),
        ("# " + "x" * 2**18, "is longer than 262,144 characters"),
        ("seed: 0x" + "f" * 5000, "seed must be a whole number that fits 64 bits, not a very long number"),
        ("run_dir: 0x" + "f" * 5000, "run_dir must be text, not a very long number"),
        ("sampler: {options: {a: 0x" + "f" * 5000 + "}}", "sampler.options must be a mapping of plain values"),
        ("optim: {lr: .inf}", "optim.lr must be a finite number, not inf"),
        ("audio: {mean_db: .nan}", "audio.mean_db must be a finite number, not nan"),
        ("optim: {lr: 1" + 400 * "0" + "}", "optim.lr must be a finite number"),
        ("run_dir: {a: " + "x" * 9000 + "}", r"run_dir must be text, not .*characters\)"),
        ('run_dir: "a\\0b"', "run_dir must be text without NUL"),
        ('run_dir: "\\ud800"', "run_dir must be text"),
        ('"a\\nb": 1', r"unknown key 'a\\nb'"),
    ],
)
def test_malicious_yaml_is_refused_in_one_short_line(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(Config, path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000


def test_an_override_within_an_empty_section_is_accepted(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data:\n")
    assert load_config(Config, path, ["data.path=x"]).data.path == "x"


def test_a_pipe_or_device_is_not_read_as_settings(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match=r"cannot read the configuration .*regular file"):
            load_config(Config, path)
