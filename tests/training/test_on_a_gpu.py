"""The training step on tensors that pretend to be on a GPU: devices are not mixed, and only samplers wait."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves  # torch-private: nested states

from model.encoder import build_model
from tests.pretend_gpu import GPU, GpuTensor, PretendGpu, to_gpu
from tests.training.small_run import random_batch, small_config
from training.checkpoint import CheckpointStore, read
from training.distributed import World, mean_over_ranks
from training.step import Learner


def there(batch):
    return batch._replace(video=batch.video.as_subclass(GpuTensor), audio=batch.audio.as_subclass(GpuTensor))


def learner_on_gpu(monkeypatch, *overrides):
    # No stream exists to wait for; fp32, because autocast would warn that there is no GPU.
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: torch.cpu.current_stream())
    monkeypatch.setattr(torch.cpu.Stream, "synchronize", lambda stream: None, raising=False)
    config = small_config("train.precision=fp32", *overrides)
    model = to_gpu(build_model(config.model, audio=config.audio, seed=config.seed))
    world = World(rank=0, size=1, local_rank=0, local_size=1, device=GPU)
    learner = Learner(model=model, config=config, world=world, total_steps=20)
    learner.fill((there(random_batch(config, -n)) for n in range(1, 7)), epoch=0)
    return learner, config


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.parametrize(
    "overrides",
    [
        ["sampler.name=kmeanspp"],
        ["sampler.name=kmeanspp", "sampler.embedding=negative_gradient", "train.accumulate=2"],
        ["sampler.name=uniform", "clip.per_sample=2"],
        ["sampler.name=fifo", "train.recompute=true", "optim.name=sgd", "optim.clip_grad_norm=1"],
    ],
)
def test_a_step_does_not_mix_devices_and_its_checkpoint_is_on_the_cpu(monkeypatch, tmp_path, overrides):
    with PretendGpu():
        learner, config = learner_on_gpu(monkeypatch, *overrides)
        for step in range(2):
            numbers = mean_over_ranks(learner.step(there(random_batch(config, step)), step))
        assert numbers["skipped_steps"] == 0
        learner.diagnostics(None)
        store = CheckpointStore(tmp_path, keep=1)
        store.save(learner.state_dict(), step=2)
        store.wait()
    saved = [leaf for leaf in tree_leaves(read(store.newest())) if isinstance(leaf, torch.Tensor)]
    assert saved
    assert not any(isinstance(tensor, GpuTensor) for tensor in saved)


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_a_step_waits_only_for_values_that_the_sampler_needs(monkeypatch):
    with PretendGpu() as pretended:
        learner, config = learner_on_gpu(monkeypatch, "sampler.name=fifo")
        batch = there(random_batch(config, 0))
        pretended.waits.clear()
        learner.step(batch, 0)
    # The sampler needs the allowed rows, their number, and which clips are held already; nothing is copied to the host.
    assert set(pretended.waits) == {"__getitem__", "isin", "__int__"}
