"""The scaling benchmark as it would run on GPUs."""

from __future__ import annotations

import torch
import torch.distributed as dist

from benchmarks.scaling import Counter, random_batch
from tests.pretend_gpu import GPU, PretendGpu
from tests.training.small_run import small_config
from training.distributed import ALL_GATHER


def test_clips_from_memory_are_on_the_models_device():
    with PretendGpu():
        batch = random_batch(small_config(), 0, GPU)
        assert batch.video.is_cuda
        assert batch.audio.is_cuda
        assert not batch.ids.is_cuda


def test_the_collectives_of_torchs_synchronised_batchnorm_are_counted_separately(monkeypatch):
    for name in ("all_reduce", ALL_GATHER):
        monkeypatch.setattr(dist, name, lambda *args, **kwargs: None)
    counter = Counter()
    counter.install()
    # As torch/nn/modules/_functions.py calls them.
    getattr(dist, ALL_GATHER)(torch.empty(1, 14), torch.empty(7), None, async_op=False)
    dist.all_reduce(torch.empty(6), dist.ReduceOp.SUM, None, async_op=False)
    getattr(dist, ALL_GATHER)(torch.empty(8, 5), torch.empty(4, 5))
    assert counter.bytes == {
        "all-gather of BatchNorm statistics": 28,
        "all-reduce of BatchNorm statistics": 24,
        "all-gather of queries, keys and hidden": 80,
    }
