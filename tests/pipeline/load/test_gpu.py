"""Compares batches decoded on a GPU with those decoded on a CPU; skipped without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.batch import VIDEO_STD
from pipeline.loader import make_loader
from settings import Config

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CODECS = ["vp9", "jpeg"]
PATHS = [("vp9", "cpu"), ("vp9", "nvdec"), ("jpeg", "cpu")]
"""Tuples of codec and data.vp9_decoder."""


@pytest.fixture(scope="module")
def settings(corpus, prepared: Callable[..., Path]) -> Callable[[str, str], Config]:
    """Returns the settings for a codec and data.vp9_decoder; the corpus is prepared large enough for NVDEC."""
    storage = {"fps": 10.0, "short_side": 144, "gop": 8}
    paths = {codec: prepared(corpus.raw, corpus.labels, storage={**storage, "codec": codec}) for codec in CODECS}
    return lambda codec, decoder: corpus.config(
        f"dali-{codec}", data={"path": str(paths[codec]), "vp9_decoder": decoder}
    )


def assert_same_on_both(config: Config, ids: np.ndarray) -> None:
    pairs = [make_loader(config, device=device).clips(ids, epoch=0, purpose="train") for device in ("cpu", "cuda")]
    for cpu, gpu in zip(*pairs, strict=True):
        assert gpu.video.is_cuda
        assert gpu.audio.is_cuda
        assert gpu.video.stride() == cpu.video.stride()
        assert torch.equal(gpu.ids, cpu.ids)
        levels = 255 * (gpu.video.cpu() - cpu.video).abs() * torch.tensor(VIDEO_STD).view(3, 1, 1, 1)
        # Compare the mean of each clip: a wrong flip, crop or colour would be off by tens of levels.
        assert levels.mean(dim=(1, 2, 3, 4)).max() < 3
        assert config.audio.std_db * (gpu.audio.cpu() - cpu.audio).abs().mean() < 0.01


@pytest.mark.parametrize(("codec", "decoder"), PATHS)
def test_gpu_and_cpu_agree(settings: Callable[[str, str], Config], codec: str, decoder: str) -> None:
    assert_same_on_both(settings(codec, decoder), np.arange(10))


def test_frames_that_nvdec_pads_to_one_size_are_not_mixed_up(
    corpus, prepared: Callable[..., Path], video_writer: Callable[..., None], tmp_path: Path
) -> None:
    # DALI caches decoders by display size but looks them up by coded size.
    x, y = np.meshgrid(np.linspace(0, 255, 72), np.linspace(0, 255, 104))
    picture = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    for number, height in enumerate((104, 102, 100)):
        video_writer(tmp_path / f"{number}.mp4", iter([picture[:height]] * 40), np.zeros(32000), fps=20)
    path = prepared(tmp_path, storage={"fps": 10.0, "short_side": 144, "gop": 8})
    data = {"path": str(path), "vp9_decoder": "nvdec"}
    config = corpus.config("dali-vp9", data=data, augment={"enabled": False}, train={"batch_size": 3})
    assert make_loader(config).dataset.height.tolist() == [208, 204, 200]
    assert_same_on_both(config, np.array([0, 0, 0, 1, 2, 1, 2, 0, 1]))


@pytest.mark.parametrize(("codec", "decoder"), PATHS)
def test_a_freed_batch_is_not_overwritten_while_torch_reads_it(
    settings: Callable[[str, str], Config], codec: str, decoder: str
) -> None:
    loader, ids = make_loader(settings(codec, decoder), device="cuda"), np.arange(80) % 10
    sums: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    for late in sums:
        for batch in loader.clips(ids, epoch=0, purpose="train"):
            if late:
                # The GPU is delayed, so that the host runs batches ahead.
                torch.cuda._sleep(100_000_000)  # torch-private: no public call delays a GPU
            sums[late].append(torch.stack([batch.video.double().sum(), batch.audio.double().sum()]))
            if not late:
                torch.cuda.synchronize()
    assert torch.equal(torch.stack(sums[True]), torch.stack(sums[False]))
