"""The dataset-scaling benchmark makes a larger manifest that refers to the same shards."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.tools.scale.node import measure_node
from benchmarks.tools.scale.synthetic import source_name, synthesise
from pipeline.load.sets import select_split
from pipeline.loader import make_loader
from pipeline.shards.manifest import Manifest


def test_a_synthetic_data_set_opens_and_repeats_the_clips_of_the_real_one(corpus, tmp_path: Path) -> None:
    target = tmp_path / "synthetic"
    synthesise(corpus.jpeg, target, samples=50, shards=5)
    dataset = Manifest.open(target)
    assert (len(dataset), len(dataset.shards)) == (50, 5)
    assert np.bincount(dataset.shard).tolist() == [10] * 5
    assert [dataset.source(row) for row in (0, 49)] == [source_name(0), source_name(49)]
    assert dataset.rows([source_name(0), source_name(31), "no", "z", ""]).tolist() == [0, 31, -1, -1, -1]
    assert dataset.rows([]).tolist() == []
    assert len(select_split(dataset, "train")) == 45
    configs = corpus.config("dali-jpeg", data={"path": str(target)}), corpus.config("dali-jpeg")
    made, real = (next(make_loader(config).uniform_clips(np.arange(4), clips=1)) for config in configs)
    assert torch.equal(made.video, real.video)


def test_the_processes_of_a_machine_are_measured_together(corpus, tmp_path: Path) -> None:
    synthesise(corpus.jpeg, tmp_path / "synthetic", samples=2000, shards=4)
    found = measure_node(tmp_path / "synthetic", processes=2, overrides=["data.split=train"])
    assert 0 < found["opening_cpu_seconds"] <= found["opening_seconds"]
    assert 0 <= found["opening_megabytes"] < 100
    assert found["step_plan_ms"] > 0
