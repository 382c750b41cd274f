"""A run on partly damaged data continues, counts and lists the bad samples, and stops if there are too many."""

from __future__ import annotations

import json
import shutil

import pytest

import train
from pipeline.plan.bad_samples import TooManyBadSamples
from pipeline.shards.manifest import Manifest
from settings import Config, load_config
from tests.training import kill_and_resume as kills
from tests.training.small_run import OVERRIDES, alone
from training.checkpoint import find
from training.tracking.metrics import read_metrics


@pytest.fixture(scope="module")
def damaged(demo_shards, tmp_path_factory):
    """The demo shards with samples 3 and 11 damaged, so that they cannot be parsed."""
    folder = tmp_path_factory.mktemp("damaged") / "shards"
    shutil.copytree(demo_shards, folder)
    manifest = Manifest.open(folder)
    for i in (3, 11):
        with (folder / manifest.shards[manifest.shard[i]]).open("r+b") as shard:
            begin, end = int(manifest.frame_start[i]), int(manifest.frame_start[i + 1]) - 1
            for offset in manifest.frame_offsets[begin:end].tolist():
                shard.seek(int(manifest.video_offset[i]) + offset)
                shard.write(b"\0\0\0\0")
    return folder


def arguments(damaged, *more):
    small = ["data.threads=1", "train.threads=1", "train.batch_size=4", "train.steps=8", "train.log_every=2"]
    sizes = ["checkpoint.every_steps=3", "dictionary.size=8", "pool.size=20"]
    return [*OVERRIDES, *small, *sizes, f"data.path={damaged}", *more]


def config(damaged, run_dir, *more):
    return load_config(Config, overrides=arguments(damaged, f"run_dir={run_dir}", *more))


def test_bad_samples_are_counted_and_listed_and_a_resumed_run_ends_with_the_same_bits(damaged, tmp_path):
    run_dir = tmp_path / "run"
    assert train.train(config(damaged, run_dir, "data.max_bad_fraction=0.1"), alone(), resume="never")
    counts = [line["bad_samples"] for line in read_metrics(run_dir / "metrics.jsonl")]
    assert counts == sorted(counts)
    assert counts[-1] == 2
    listed = [json.loads(line) for line in (run_dir / "bad_samples.jsonl").read_text().splitlines()]
    assert {one["sample"] for one in listed} == {3, 11}
    assert all(one["source"] and one["file"] and one["reason"] for one in listed)

    shutil.copytree(run_dir, tmp_path / "again")
    find(tmp_path / "again").unlink()
    # The limit may change when a run is resumed.
    more = config(damaged, tmp_path / "again", "data.max_bad_fraction=0.2")
    assert train.train(more, alone(), resume="auto")
    assert kills.differences(run_dir, tmp_path / "again") == ["/config/data/max_bad_fraction: 0.1 and 0.2"]


def test_too_many_bad_samples_end_the_run_with_their_list(damaged, tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(TooManyBadSamples, match=r"2 of 30 samples .*max_bad_fraction=0.04 allows 1"):
        train.train(config(damaged, run_dir, "data.max_bad_fraction=0.04"), alone(), resume="never")
    assert len((run_dir / "bad_samples.jsonl").read_text().splitlines()) == 2


def test_the_limit_ends_all_ranks_and_the_message_is_printed(damaged, tmp_path):
    process = kills.start(tmp_path / "run", arguments(damaged, "data.max_bad_fraction=0.0"), processes=2)
    assert process.wait(timeout=120) != 0
    log = (tmp_path / "run").with_suffix(".log").read_text(errors="replace")
    assert "train.py: 1 of 30 samples cannot be read or decoded, and data.max_bad_fraction=0 allows 0:" in log
    assert (tmp_path / "run" / "bad_samples.jsonl").is_file()
