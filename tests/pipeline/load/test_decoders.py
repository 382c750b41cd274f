"""Both decoders give the same batches for a plan, within tolerances; `GpuDecoder` runs with DALI's CPU operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.batch import VIDEO_STD
from pipeline.load import gpu_decoder
from pipeline.load.decoder import InFlight
from pipeline.load.gpu_decoder import GpuDecoder
from pipeline.loader import make_loader
from pipeline.plan.batch_plan import BatchPlan
from pipeline.shards.codecs import CODECS
from pipeline.shards.codecs.vp9 import Vp9


class OnCpu(Vp9):
    """VP9 that is always decoded on the CPU, regardless of the requested device."""

    def decode(self, *, device: str, frames: int, stride: int) -> object:
        return super().decode(device="cpu", frames=frames, stride=stride)


def test_the_gpu_decoder_agrees_with_the_cpu_loader(corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "vp9", OnCpu())
    # "mixed" skips `.gpu()`, which would need a GPU.
    monkeypatch.setattr(gpu_decoder, "decoder_device", lambda **_: "mixed")
    loader = make_loader(corpus.config("dali-vp9"))
    batches = list(loader.clips(np.arange(10), epoch=0, purpose="train"))
    decoder = GpuDecoder(
        config=loader.config, dataset=loader.dataset, stride=loader.planner.stride, device=torch.device("cpu"), batch=4
    )
    items = [loader._read(BatchPlan(batch.plan)) for batch in batches]
    for item in items:
        assert isinstance(item, InFlight)
        decoder.submit(item)
    # Results may be collected in any order.
    for item, expected in reversed(list(zip(items, batches, strict=True))):
        batch = decoder.result(item)
        assert torch.equal(batch.ids, expected.ids)
        assert batch.video.stride() == expected.video.stride()
        levels = 255 * (batch.video - expected.video).abs() * torch.tensor(VIDEO_STD).view(3, 1, 1, 1)
        assert levels.mean(dim=(1, 2, 3, 4)).max() < 3
        assert batch.audio.shape == expected.audio.shape
        assert loader.config.audio.std_db * (batch.audio - expected.audio).abs().mean() < 0.01
