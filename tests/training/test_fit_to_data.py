"""Runs whose settings are `auto`: what is saved, how they resume, and what is said before and during them."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest
import torch

import train
from common.files import file_sha256
from pipeline.loader import make_loader
from pipeline.plan.order import VERSION, keeps_order
from settings import Config, ConfigError, load_config, to_dict
from settings.recipe import auto_keys
from tests.training import kill_and_resume as kills
from tests.training.distributed import processes
from tests.training.small_run import OVERRIDES, alone
from training.checkpoint import find, load_model, read
from training.distributed import World
from training.resume import fit_to_data, load_resume_state
from training.saving.files import checksum_path
from training.tracking.metrics import read_metrics

CHOSEN = ("train.batch_size", "pool.size", "dictionary.size", "train.epochs", "optim.warmup_steps")
AUTO = [
    *OVERRIDES,
    "train.steps=6",
    "train.log_every=1",
    "checkpoint.every_steps=3",
    "data.threads=1",
    "train.threads=1",
]
AUTO += [f"{key}=auto" for key in CHOSEN]


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["train.py", *AUTO, *arguments])
    return train.main()


@pytest.fixture(scope="module")
def finished(demo_shards, tmp_path_factory):
    """A run of six steps with settings that are auto, on 30 samples."""
    run_dir = tmp_path_factory.mktemp("auto") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run_main(monkeypatch, f"data.path={demo_shards}", f"run_dir={run_dir}") == 0
    return run_dir


def test_everything_that_reads_a_run_sees_the_numbers(finished):
    config = load_config(Config, finished / "config.yaml")
    assert auto_keys(config) == []
    assert (config.train.batch_size, config.pool.size, config.dictionary.size, config.train.epochs) == (8, 60, 8, 2)
    state = read(find(finished))
    assert state["config"] == to_dict(config)
    assert state["samples"] == 30
    assert load_model(finished)[0] == config


def test_what_was_warned_of_before_the_first_step_stays_with_the_run(
    finished, demo_shards, tmp_path, monkeypatch, caplog
):
    assert json.loads((finished / "environment.json").read_text())["warnings"] == []
    run_dir = tmp_path / "run"
    where = [f"data.path={demo_shards}", f"run_dir={run_dir}"]
    assert run_main(monkeypatch, *where, "train.batch_size=16", "train.steps=2") == 0
    said = json.loads((run_dir / "environment.json").read_text())["warnings"]
    assert said == [record.getMessage() for record in caplog.records if record.name == "training.resume"]
    assert said[0].startswith("train.batch_size=16 is more than half of the 30 samples")
    assert said[0].partition(",")[0] in (run_dir / "report.html").read_text()


def test_every_selection_finds_what_it_is_asked_for_and_the_rate_ends_low(finished):
    lines = read_metrics(finished / "metrics.jsonl")
    assert [line["video/selected"] for line in lines] == [8] * 6
    assert [line["audio/missing"] for line in lines] == [0] * 6
    assert lines[-1]["lr"] < 0.1 * 0.01


def test_a_resumed_run_keeps_its_values_and_ends_with_the_same_bits(
    finished, demo_shards, tmp_path, monkeypatch, capsys
):
    where = [f"data.path={demo_shards}", f"run_dir={tmp_path / 'run'}", "--resume", "auto"]
    assert run_main(monkeypatch, *where) == 0
    table = capsys.readouterr().err
    assert "settings chosen for 30 samples and 1 process(es) on cpu:" in table
    assert re.search(r"pool.size +60  two rows per sample hold the newest key of each", table)
    for path in (tmp_path / "run" / "checkpoints").glob("step-000000006.*"):
        path.unlink()
    monkeypatch.setattr("settings.recipe.LARGEST_BATCH", {"cpu": 4})  # another machine would choose another batch
    assert run_main(monkeypatch, *where) == 0
    resumed = capsys.readouterr().err
    assert re.search(r"train.batch_size +8  as when this run started", resumed)
    assert "step 3 of 6" in resumed
    assert kills.differences(finished, tmp_path / "run") == []


def test_a_resumed_run_says_what_a_new_one_would_have_if_the_data_grew(finished, demo_shards, caplog):
    config = load_config(Config, None, [*AUTO, f"run_dir={finished}"])
    fitted = fit_to_data(config, alone(), samples=40, resume="auto")
    assert fitted == load_config(Config, finished / "config.yaml", ["data.path=''"])
    assert "a new run would have pool.size=80 dictionary.size=16" in caplog.text
    state = {"fingerprint": "another", "samples": 40, "device": alone().device}
    with pytest.raises(ConfigError, match=r"the manifests differ; 30 samples then, 40 now\)"):
        load_resume_state(find(finished), fitted, **state)


def test_a_checkpoint_of_another_order_is_refused_unless_the_order_is_the_same(finished):
    path = find(finished)
    state = torch.load(path, weights_only=True)
    assert state.pop("order") == VERSION  # a checkpoint of the first version names none
    older = finished.parent / "older.pt"
    torch.save(state, older)
    checksum_path(older).write_text(f"{file_sha256(older)}  {older.name}\n")
    config = load_config(Config, finished / "config.yaml", [])
    known = {"fingerprint": state["data"], "device": alone().device}
    assert load_resume_state(older, config, samples=30, **known)["step"] == 6
    with pytest.raises(
        ConfigError, match=r"older.pt was written by another version .* 70,000 samples in another order"
    ):
        load_resume_state(older, config, samples=70_000, **known)
    assert load_resume_state(path, config, samples=70_000, **known)["step"] == 6
    assert [keeps_order(1, samples=30, order=order) for order in ("global", "shards")] == [True, False]
    assert not keeps_order(VERSION + 1, samples=30, order="global")


@pytest.mark.parametrize("kind", ["folder", "checkpoint"])
def test_a_run_that_is_resumed_by_its_path_gives_its_values(finished, tmp_path, kind):
    path = finished if kind == "folder" else find(finished)
    config = load_config(Config, None, [*AUTO, f"run_dir={tmp_path}"])
    fitted = fit_to_data(config, alone(), samples=5000, resume=str(path))
    assert (fitted.train.batch_size, fitted.pool.size) == (8, 60)
    assert fit_to_data(config, alone(), samples=5000, resume="auto").train.batch_size == 32


def test_a_run_that_would_learn_nothing_ends_before_it_writes(demo_shards, tmp_path, monkeypatch, capsys, caplog):
    where = [f"data.path={demo_shards}", f"run_dir={tmp_path / 'run'}", "dictionary.size=200"]
    assert run_main(monkeypatch, *where, "optim.warmup_steps=9") == 2
    error = capsys.readouterr().err
    assert "no negative can be selected" in error
    assert "optim.warmup_steps=9 is not shorter than the run" in error  # all faults are named at once
    assert not (tmp_path / "run").exists()
    assert run_main(monkeypatch, *where[:1], f"run_dir={tmp_path / 'run'}", "--dry-run", "optim.warmup_steps=6") == 0
    assert "optim.warmup_steps=6 is not shorter than the run, which has 6 steps" in caplog.text


def test_a_run_that_has_progressed_is_not_refused(finished, caplog):
    config = load_config(Config, None, [*AUTO, f"run_dir={finished}", "dictionary.size=200"])
    assert fit_to_data(config, alone(), samples=30, resume="auto").dictionary.size == 200
    assert "no negative can be selected" in caplog.text


def test_a_selection_that_finds_too_little_is_said_once(demo_shards, tmp_path, caplog):
    sizes = ["train.batch_size=8", "pool.size=24", "pool.source=epoch", "dictionary.size=28", "train.steps=6"]
    config = load_config(Config, None, [*OVERRIDES, *sizes, f"data.path={demo_shards}", f"run_dir={tmp_path / 'run'}"])
    with caplog.at_level(logging.WARNING):
        assert train.train(config, alone(), resume="never")
    said = [text for text in caplog.messages if "the selection of" in text]
    assert len(said) == 1
    assert "of 8, because the other candidates were in the batch" in said[0]
    assert "dictionary.size=8 leaves enough" in said[0]


def test_a_loader_of_its_own_needs_a_number(demo_shards):
    with pytest.raises(ConfigError, match=r"train.batch_size=auto: set it to a number"):
        make_loader(load_config(Config, None, [f"data.path={demo_shards}", "train.batch_size=auto"]))


def fit_on(rank, size, run_dir):
    world = World(rank=rank, size=size, local_rank=rank, local_size=size, device=alone().device)
    config = load_config(Config, None, [*AUTO, f"run_dir={run_dir}"])
    return to_dict(fit_to_data(config, world, samples=1000 + 500 * rank, resume="never"))


def test_all_processes_have_the_values_of_the_first(tmp_path):
    first, second = processes.run(fit_on, 2, tmp_path, str(tmp_path / "run"))
    assert first == second
    assert first["pool"]["size"] == 2000
