"""The dataset-scaling benchmark makes a larger manifest that refers to the same shards."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.dataset_scaling import synthesise
from pipeline.loader import make_loader
from pipeline.shards.manifest import Manifest


def test_a_synthetic_data_set_opens_and_repeats_the_clips_of_the_real_one(corpus, tmp_path: Path) -> None:
    target = tmp_path / "synthetic"
    synthesise(corpus.jpeg, target, samples=50, shards=5)
    dataset = Manifest.open(target)
    assert (len(dataset), len(dataset.shards)) == (50, 5)
    assert np.bincount(dataset.shard).tolist() == [10] * 5
    configs = corpus.config("dali-jpeg", data={"path": str(target)}), corpus.config("dali-jpeg")
    made, real = (next(make_loader(config).uniform_clips(np.arange(4), clips=1)) for config in configs)
    assert torch.equal(made.video, real.video)
