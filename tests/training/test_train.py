"""train.py as users start it: it leaves a run folder, and kills and restarts do not change the run."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys

import pytest

import train
from sampler import SAMPLERS
from settings import Config, load_config
from tests.training import kill_and_resume as kills
from tests.training.small_run import OVERRIDES, alone
from training.nonfinite import TrainingError
from training.tracking.metrics import read_metrics

SMALL = [
    *OVERRIDES,
    "data.split=train",
    "data.threads=1",
    "train.threads=1",
    "train.batch_size=4",
    "train.steps=14",
    "train.log_every=2",
    "checkpoint.every_steps=3",
    "dictionary.size=8",
    "pool.size=20",
]

# Early moments, because the runs are so short that on a fast machine they would end before a later one.
MOMENTS = {"spread": 0.05, "starting": 2.0}


def arguments(shards, *more):
    return [*SMALL, f"data.path={shards}", *more]


@pytest.fixture(scope="module")
def undisturbed(demo_shards, tmp_path_factory):
    """An uninterrupted run in its own process: with a different number of threads the last bits may differ."""
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    kills.finish(kills.start(run_dir, arguments(demo_shards)), run_dir)
    return run_dir


def test_a_run_leaves_config_environment_metrics_and_checkpoints(undisturbed):
    assert load_config(Config, undisturbed / "config.yaml").train.steps == 14
    assert {"command", "commit", "versions", "cpu"} <= json.loads((undisturbed / "environment.json").read_text()).keys()
    lines = read_metrics(undisturbed / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 14]
    wanted = {"loss_v2a", "loss_a2v", "retrieval_v2a", "retrieval_a2v", "lr", "samples_per_second", "data_wait"}
    assert wanted | {"video/seconds", "audio/distinct_ids"} <= lines[0].keys()
    assert [path.name for path in sorted((undisturbed / "checkpoints").glob("*.pt"))] == [
        "step-000000012.pt",
        "step-000000014.pt",
    ]
    assert list((undisturbed / "tensorboard").glob("events*"))
    assert '"Steps":[{"text":"14","note":"of 14"' in (undisturbed / "report.html").read_text()


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_trains(demo_shards, tmp_path, name):
    overrides = arguments(demo_shards, f"run_dir={tmp_path / 'run'}", f"sampler.name={name}", "train.steps=4")
    assert train.train(load_config(Config, overrides=overrides), alone(), resume="never")
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["loss"] == pytest.approx(last["loss_v2a"] + last["loss_a2v"])
    assert last["video/distinct_ids"] == 8


def test_the_dictionaries_are_measured_regularly(demo_shards, tmp_path):
    # A low learning rate: at that of the other tests, training on so few clips is erratic, and what later batches have
    # left of a selection might cover nothing.
    more = ("optim.lr=1e-6", "monitor.dictionary_every=3", "monitor.label=kind", f"run_dir={tmp_path / 'run'}")
    more = arguments(demo_shards, *more)
    assert train.train(load_config(Config, overrides=more), alone(), resume="never")
    measured = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "video/phi" in line]
    assert [line["step"] for line in measured] == [3, 6, 9, 12]
    for modality in ("video", "audio"):
        assert all(0 < line[f"{modality}/phi"] < 2 for line in measured)
        assert all(0 <= line[f"{modality}/near_duplicates"] <= 1 for line in measured)
        assert all(1 <= line[f"{modality}/distinct_classes"] <= 8 for line in measured)


def test_a_pool_is_redrawn_only_every_refresh_every_epochs(demo_shards, tmp_path, monkeypatch):
    drawn = []
    fill = train.Learner.fill

    def spy(learner, batches, *, epoch):
        drawn.append(epoch)
        return fill(learner, batches, epoch=epoch)

    monkeypatch.setattr(train.Learner, "fill", spy)
    more = ("pool.source=epoch", "pool.refresh_every=2", f"run_dir={tmp_path / 'run'}")
    assert train.train(load_config(Config, overrides=arguments(demo_shards, *more)), alone(), resume="never")
    epochs = {line["epoch"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")}
    assert {0, 1, 2} <= epochs
    assert drawn == [epoch for epoch in sorted(epochs) if epoch % 2 == 0]


# With these seeds, kills hit training, the writing of a checkpoint, and the start of a run.
@pytest.mark.parametrize(
    ("more", "seed"),
    [(["pool.source=stream"], 0), (["pool.source=epoch"], 1), (["pool.source=epoch", "pool.refresh_every=2"], 2)],
)
def test_a_run_killed_twice_ends_with_the_same_bits(demo_shards, tmp_path, more, seed):
    more = arguments(demo_shards, *more)
    kills.finish(kills.start(tmp_path / "left-alone", more), tmp_path / "left-alone")
    assert kills.run_with_kills(tmp_path / "killed", more, kills=2, seed=seed, **MOMENTS)
    assert kills.differences(tmp_path / "left-alone", tmp_path / "killed") == []


def test_sigterm_saves_the_run_and_it_can_be_resumed(demo_shards, tmp_path, undisturbed):
    run_dir = tmp_path / "stopped"
    process = kills.start(run_dir, arguments(demo_shards))
    while len(read_metrics(run_dir / "metrics.jsonl")) < 2:
        assert process.poll() is None, run_dir.with_suffix(".log").read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert "stopped at step" in run_dir.with_suffix(".log").read_text()
    kills.finish(kills.start(run_dir, arguments(demo_shards)), run_dir)
    assert kills.differences(undisturbed, run_dir) == []


def test_a_run_whose_rank_was_killed_and_restarted_ends_with_the_same_bits(demo_shards, tmp_path):
    kills.finish(kills.start(tmp_path / "left-alone", arguments(demo_shards), processes=2), tmp_path / "left-alone")
    how = {"kills": 1, "processes": 2, "seed": 2} | MOMENTS
    hits = kills.run_with_rank_kills(tmp_path / "killed", arguments(demo_shards), **how)
    assert len(hits) == 1
    assert kills.differences(tmp_path / "left-alone", tmp_path / "killed") == []


def run_train(*more):
    return subprocess.run(
        [sys.executable, "train.py", *more], cwd=kills.ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["optim.lrr=1"], "unknown key optim.lrr; did you mean lr?"),
        (["data.path=nowhere"], "nowhere"),
        (["train.batch_size=1000"], "train.batch_size=1000 is larger than the data set"),
        (["sampler.name=kmeans"], "sampler.name='kmeans' is not known"),
        (["model.video=resnet"], "model.video='resnet' is not known"),
        (["model.init=nowhere"], "model.init='nowhere' is neither a run folder with checkpoints"),
        (["optim.freeze=[video.tail]"], "optim.freeze: 'video.tail' is no part of a model"),
        (["--resume", "nowhere.pt"], "no checkpoint at nowhere.pt"),
    ],
)
def test_user_errors_end_with_one_line(demo_shards, tmp_path, more, message):
    result = run_train(*arguments(demo_shards, f"run_dir={tmp_path / 'run'}", *more))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_that_holds_a_run_is_not_overwritten(demo_shards, undisturbed):
    result = run_train(*arguments(demo_shards, f"run_dir={undisturbed}"))
    assert result.returncode == 2
    assert "resume with --resume auto" in result.stderr


def test_a_run_is_not_resumed_with_different_settings(demo_shards, undisturbed):
    result = run_train(*arguments(demo_shards, f"run_dir={undisturbed}", "--resume", "auto", "optim.lr=0.5"))
    assert result.returncode == 2
    assert "optim.lr: 0.01 in the checkpoint, 0.5 now" in result.stderr


@pytest.mark.parametrize("error", [None, TrainingError("no good"), MemoryError(), ValueError("unforeseen")])
def test_only_a_run_that_ends_without_an_error_leaves_the_process_group(demo_shards, tmp_path, monkeypatch, error):
    left = []

    def run(*args, **kwargs):
        if error is not None:
            raise error
        return True

    monkeypatch.setattr(train, "train", run)
    monkeypatch.setattr(train.distributed, "stop", lambda: left.append(True))
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments(demo_shards, f"run_dir={tmp_path}")])
    with contextlib.suppress(ValueError):
        assert train.main() == (0 if error is None else 2)
    assert left == [True] * (error is None)
