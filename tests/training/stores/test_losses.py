"""Training from an object store gives the losses of training from the disk, bit for bit."""

from __future__ import annotations

import train
from settings import Config, load_config
from tests.training.small_run import OVERRIDES, alone
from training.tracking.metrics import read_metrics

LOSSES = ("loss_v2a", "loss_a2v")


def losses(run_dir, path, *more):
    overrides = [*OVERRIDES, "data.split=train", "data.threads=1", "train.threads=1", "train.batch_size=4"]
    overrides += [
        "train.steps=12",
        "train.log_every=1",
        "dictionary.size=8",
        "pool.size=20",
        "data.idle_priority=false",
    ]
    config = load_config(Config, None, [*overrides, f"data.path={path}", f"run_dir={run_dir}", *more])
    assert train.train(config, alone(), resume="auto")
    return [tuple(line[name] for name in LOSSES) for line in read_metrics(run_dir / "metrics.jsonl")]


def test_losses_are_those_from_the_disk_despite_errors_and_a_full_cache(store, demo_shards, tmp_path):
    url = store.make_bucket() + "/shards"
    store.put_folder(demo_shards, url)
    expected = losses(tmp_path / "local", demo_shards)
    assert len(expected) == 12
    store.faults.latency, store.faults.errors = 0.005, 0.05
    cache = [f"data.cache_dir={tmp_path / 'cache'}"]
    assert losses(tmp_path / "ranges", url, *cache, "data.cache_gb=0") == expected
    assert losses(tmp_path / "copies", url, *cache) == expected
    secret = store.environment["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]
