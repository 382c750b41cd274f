"""Training from an object store gives the losses of training from the disk, bit for bit."""

from __future__ import annotations

import train
from pipeline.demo.corpus import make_demo
from pipeline.prepare.run import prepare
from settings import Config, PrepareConfig, load_config
from tests.training.small_run import OVERRIDES, alone
from training.tracking.metrics import read_metrics

LOSSES = ("loss_v2a", "loss_a2v")


def losses(run_dir, *more):
    overrides = [*OVERRIDES, "data.threads=1", "train.threads=1", "train.batch_size=4"]
    overrides += [
        "train.steps=12",
        "train.log_every=1",
        "dictionary.size=8",
        "pool.size=20",
        "data.idle_priority=false",
    ]
    config = load_config(Config, None, [*overrides, f"run_dir={run_dir}", *more])
    assert train.train(config, alone(), resume="auto")
    return [tuple(line[name] for name in LOSSES) for line in read_metrics(run_dir / "metrics.jsonl")]


def test_losses_are_those_from_the_disk_despite_errors_and_a_full_cache(store, demo_shards, tmp_path):
    url = store.make_bucket() + "/shards"
    store.put_folder(demo_shards, url)
    data = ["data.split=train", f"data.path={demo_shards}"]
    expected = losses(tmp_path / "local", *data)
    assert len(expected) == 12
    store.faults.latency, store.faults.errors = 0.005, 0.05
    data = ["data.split=train", f"data.path={url}", f"data.cache_dir={tmp_path / 'cache'}"]
    assert losses(tmp_path / "ranges", *data, "data.cache_gb=0") == expected
    assert losses(tmp_path / "copies", *data) == expected
    secret = store.environment["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_losses_of_a_mix_with_a_stored_data_set_are_those_of_folders(store, demo_shards, tmp_path):
    make_demo(tmp_path / "videos", videos=10, seed=1)
    settings = load_config(PrepareConfig, None, ["storage.short_side=64", "storage.codec=jpeg"])
    prepare(tmp_path / "videos", tmp_path / "other", config=settings, workers=1)
    url = store.make_bucket() + "/shards"
    store.put_folder(demo_shards, url)
    found = []
    for place in (demo_shards, url):
        mix = f"{{one: {{path: '{tmp_path / 'other'}', weight: 1}}, two: {{path: '{place}', weight: 2, split: train}}}}"
        run = tmp_path / f"run {len(found)}"
        found.append(losses(run, f"data.mix={mix}", f"data.cache_dir={tmp_path / 'cache'}"))
    assert found[0] == found[1]
    assert len(found[0]) == 12
