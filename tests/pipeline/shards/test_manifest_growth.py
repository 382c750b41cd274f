"""The dataset-scaling benchmark makes a larger manifest that refers to the same shards."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.tools.synthetic import source_name, synthesise
from pipeline.load.clip_loader import select_split
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
