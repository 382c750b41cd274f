"""--dry-run reports what a run needs and writes nothing."""

from __future__ import annotations

import contextlib
import io
import re
import sys

import pytest

import train
from settings import Config, load_config
from tests.training.distributed import processes
from tests.training.small_run import OVERRIDES, alone
from training.checkpoint import CheckpointStore, saved_bytes
from training.distributed import World
from training.dry_run import FIRST_ID, dry_run, fill_with_random_keys


def arguments(shards, run_dir, *more):
    small = ["train.batch_size=4", "data.threads=1", "train.threads=1", f"data.path={shards}", f"run_dir={run_dir}"]
    return [*OVERRIDES, *small, *more]


def lines_of(text):
    return dict(line.split(maxsplit=1) for line in text.splitlines())


def test_reports_what_a_run_needs_and_writes_nothing(demo_shards, tmp_path, monkeypatch, capsys):
    more = arguments(demo_shards, tmp_path / "run", "train.steps=9", "sampler.name=kmeanspp")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "--dry-run", *more])
    assert train.main() == 0
    lines = lines_of(capsys.readouterr().out)
    assert {"processes", "parameters", "dictionaries", "checkpoint", "data", "memory", "throughput", "loss"} == set(
        lines
    )
    assert lines["processes"] == "1 on cpu, fp32, 4 of 4 clips each"
    assert lines["data"] == "30 samples, 7 steps per epoch, 9 steps in total"
    assert float(re.search(r"peak ([\d.]+) GiB resident", lines["memory"])[1]) > 0.1
    assert float(re.match(r"([\d.]+) clips/s", lines["throughput"])[1]) > 0
    assert list(tmp_path.iterdir()) == []


def test_selects_from_a_pool_that_is_full(demo_shards, tmp_path):
    config = load_config(Config, overrides=arguments(demo_shards, tmp_path, "pool.source=epoch"))
    _, learner, _ = train.build(config, alone())
    fill_with_random_keys(learner, seed=0)
    for active in learner.active.values():
        assert (active.pool.ids >= FIRST_ID).all()
        assert (active.ids >= FIRST_ID).all()


def test_the_size_of_a_checkpoint_is_that_of_the_file(tmp_path, demo_shards):
    config = load_config(Config, overrides=arguments(demo_shards, tmp_path))
    _, learner, _ = train.build(config, alone())
    store = CheckpointStore(tmp_path, keep=1)
    store.save(learner.state_dict(), step=1)
    store.wait()
    assert saved_bytes(learner.state_dict()) == pytest.approx(store.newest().stat().st_size, rel=0.02)


def dry_run_on(rank, size, overrides):
    config, world = load_config(Config, overrides=overrides), alone()
    world = World(rank=rank, size=size, local_rank=rank, local_size=size, device=world.device)
    loader, learner, _ = train.build(config, world)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        dry_run(config, world, loader=loader, learner=learner)
    return text.getvalue()


def test_several_processes_are_measured_together_and_only_one_prints(demo_shards, tmp_path):
    first, second = processes.run(dry_run_on, 2, tmp_path, arguments(demo_shards, tmp_path / "run"))
    lines = lines_of(first)
    assert lines["processes"] == "2 on cpu, fp32, 2 of 4 clips each"
    assert "(the largest of 2)" in lines["memory"]
    assert second == ""
    assert not (tmp_path / "run").exists()
