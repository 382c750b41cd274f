"""The choice of the device that decodes, CPU or GPU."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import pytest
import torch

from pipeline.load import dali_probe
from pipeline.load.dali_graph import decoder_device
from pipeline.shards.codecs import CODECS
from settings import Config, DataConfig


@pytest.fixture(autouse=True)
def fresh_probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretends that libnvcuvid is installed, and clears the cached result of the probe."""
    monkeypatch.setattr(dali_probe.ctypes, "CDLL", lambda name: None)
    dali_probe._nvdec_works.cache_clear()
    yield
    dali_probe._nvdec_works.cache_clear()


@pytest.mark.parametrize(
    ("device", "codec", "vp9_decoder", "expected"),
    [
        ("cpu", "vp9", "nvdec", "cpu"),
        ("cpu", "jpeg", "nvdec", "cpu"),
        ("cuda", "jpeg", "cpu", "mixed"),
        ("cuda", "vp9", "cpu", "cpu"),
        ("cuda", "vp9", "nvdec", "mixed"),
    ],
)
def test_jpeg_is_decoded_on_the_device_of_the_batches_and_vp9_as_configured(
    monkeypatch: pytest.MonkeyPatch, device: str, codec: str, vp9_decoder: Literal["cpu", "nvdec"], expected: str
) -> None:
    monkeypatch.setattr(dali_probe, "decode_with_dali", lambda codec, *, gpu: None)
    config = Config(data=DataConfig(vp9_decoder=vp9_decoder))
    found = decoder_device(config=config, codec=CODECS[codec], shortest_side=144, device=torch.device(device))
    assert found == expected


@pytest.mark.parametrize(("side", "takes"), [(144, True), (128, True), (112, False)])
def test_nvdec_is_used_for_frames_that_it_can_decode(monkeypatch: pytest.MonkeyPatch, side: int, takes: bool) -> None:
    tried = []
    monkeypatch.setattr(dali_probe, "decode_with_dali", lambda codec, *, gpu: tried.append((codec, gpu)))
    assert dali_probe.nvdec_takes(side) == dali_probe.nvdec_takes(side) == takes
    assert tried == [("vp9", True)]


def test_frames_are_decoded_on_the_cpu_if_nvdec_does_not_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def decode(codec: str, *, gpu: bool) -> None:
        raise RuntimeError("Critical error in pipeline:\nVP9 is not supported")

    monkeypatch.setattr(dali_probe, "decode_with_dali", decode)
    with caplog.at_level(logging.WARNING):
        assert not dali_probe.nvdec_takes(144)
        assert not dali_probe.nvdec_takes(144)
    (record,) = caplog.records
    assert "decoding on the CPU, the rest on the GPU" in record.getMessage()
    assert "VP9 is not supported" in record.getMessage()
