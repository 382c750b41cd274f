"""Compares resize, flip and colour on the CPU with the DALI operators that do the same on a GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType

from pipeline.batch import VIDEO_STD
from pipeline.load import resampling
from pipeline.load.cpu_threads import SingleThreadTorchPool
from pipeline.load.dali_graph import resampled, resampling_arguments
from pipeline.load.dali_runner import GraphRunner, as_tensor
from pipeline.load.resampling import Resampler
from pipeline.loader import make_loader
from pipeline.plan.clips import ClipPlan


def smooth_frames(count: int, height: int, width: int, *, seed: int) -> np.ndarray:
    """uint8 [count, height, width, 3], noise without its highest frequencies, to resemble natural images."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, height // 4, width // 4, 3), dtype=np.uint8)
    pictures = torch.from_numpy(noise).permute(0, 3, 1, 2).float()
    large = torch.nn.functional.interpolate(pictures, size=(height, width), mode="bicubic").clamp(0, 255)
    return large.permute(0, 2, 3, 1).byte().contiguous().numpy()


def training_plan(corpus, clips: int) -> ClipPlan:
    config = corpus.config("dali-vp9", augment={"hue": 20.0, "brightness": 0.3, "saturation": 0.3})
    return make_loader(config).planner.train(np.arange(clips), epoch=0, purpose="train")


def with_dali(frames: np.ndarray, plan: ClipPlan, size: int) -> torch.Tensor:
    def build() -> Pipeline:
        pipe = Pipeline(batch_size=len(plan), num_threads=1, device_id=None, prefetch_queue_depth=2)
        with pipe:
            pipe.set_outputs(resampled(fn.external_source(name="frames", dtype=DALIDataType.UINT8, ndim=4), size))
        return pipe

    arguments = resampling_arguments(plan, samples_per_clip=1)
    runner = GraphRunner(build, depth=2, convert=as_tensor)
    return runner.result(runner.submit({"frames": list(frames), **arguments}))


def windows(frames: np.ndarray, plan: ClipPlan) -> list[np.ndarray]:
    return [
        clip[:, top : top + height, left : left + width]
        for clip, (top, left, height, width) in zip(frames, plan.window.tolist(), strict=True)
    ]


@pytest.mark.parametrize("size", [32, 48, 112])
def test_the_resampler_agrees_with_the_dali_operators(corpus, size: int) -> None:
    plan = training_plan(corpus, 8)
    assert 0 < plan.flip.sum() < len(plan)
    height, width = (plan.window[:, :2] + plan.window[:, 2:]).max(axis=0) + 4
    frames = np.stack([smooth_frames(4, int(height), int(width), seed=b) for b in range(len(plan))])
    expected = with_dali(frames, plan, size)
    ours = Resampler(size=size, threads=SingleThreadTorchPool(2)).submit(windows(frames, plan), plan).result()
    assert ours.shape == expected.shape == (len(plan), 4, size, size, 3)
    levels = (ours - expected).abs() * 255 * torch.tensor(VIDEO_STD)
    assert float(levels.mean()) < 0.5
    # Ignore the edges, where DALI's filter reads pixels outside the crop.
    assert float(levels[:, :, 4:-4, 4:-4].max()) < 5


def test_a_clip_does_not_depend_on_its_batch(corpus) -> None:
    plan = training_plan(corpus, 8)
    height, width = (plan.window[:, :2] + plan.window[:, 2:]).max(axis=0)
    frames = np.stack([smooth_frames(3, int(height), int(width), seed=b) for b in range(len(plan))])
    resampler = Resampler(size=33, threads=SingleThreadTorchPool(2))
    together = resampler.submit(windows(frames, plan), plan).result()
    for b in range(len(plan)):
        alone = resampler.submit(windows(frames[b : b + 1], plan[b : b + 1]), plan[b : b + 1]).result()
        assert torch.equal(alone[0], together[b])


def test_pool_threads_use_one_core_each_and_other_threads_are_unaffected(
    corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    interpolate = resampling.interpolate

    def watched(*arguments, **keywords) -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return interpolate(*arguments, **keywords)

    monkeypatch.setattr(resampling, "interpolate", watched)
    plan = training_plan(corpus, 8)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        resampler = Resampler(size=8, threads=SingleThreadTorchPool(2))
        assert torch.get_num_threads() == 3
        torch.set_num_threads(4)
        frames = [np.zeros((1, 9, 9, 3), dtype=np.uint8) for _ in range(len(plan))]
        resampler.submit(frames, plan).result()
        assert seen == {1}
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)
