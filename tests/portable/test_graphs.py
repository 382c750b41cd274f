"""Exported graphs of the encoders give the run's own features, at any size."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.features import extract
from model import AUDIO_ENCODERS, VIDEO_ENCODERS, build_model
from model.encoder import CrossModalModel
from pipeline.batch import Batch
from pipeline.load.log_mel import LogMelRunner
from pipeline.load.resampling import Resampler
from pipeline.loader import make_loader
from portable.encoder import PortableEncoder, portable_encoder
from portable.graphs import TIME, ExportError, raw_clips, require_equal, run_onnx, run_pt2, to_onnx, to_pt2, trace
from settings import Config, ModelConfig, load_config

ENCODERS = [*(("video", name) for name in VIDEO_ENCODERS), *(("audio", name) for name in AUDIO_ENCODERS)]
QUICK = [
    ("video", "tiny"),
    ("video", "r2plus1d_18"),
    ("audio", "tiny"),
    ("audio", "resnet1d_18"),
    ("audio", "vit_tiny"),
]
ALL = bool(os.environ.get("CMACC_ALL_ENCODERS"))
"""Whether to test all encoders, of which the transformers take minutes, and not only QUICK."""
SIZES = {"video": [(1, 1), (3, 20)], "audio": [(1, 100), (3, 6401)]}
"""Numbers of clips, and of their frames or PCM samples."""


@dataclass(frozen=True)
class Clips:
    """Clips of the demo corpus, as the loader got and as it made them."""

    config: Config
    raw: dict[str, torch.Tensor]
    batch: Batch


@pytest.fixture(scope="module")
def clips(demo_shards) -> Clips:
    config = load_config(Config, overrides=[f"data.path={demo_shards}", "clip.size=48", "clip.frames=8"])
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        resample, transform = Resampler.submit, LogMelRunner.submit

        def see_frames(self, windows, plan):
            seen["video"] = torch.from_numpy(np.stack(windows))
            return resample(self, windows, plan)

        def see_pcm(self, inputs):
            seen["audio"] = torch.from_numpy(inputs["pcm"].copy())
            return transform(self, inputs)

        patch.setattr(Resampler, "submit", see_frames)
        patch.setattr(LogMelRunner, "submit", see_pcm)
        loader = make_loader(config, device="cpu", batch_size=6)
        (batch,) = loader.uniform_clips(np.arange(6), clips=1)
    assert seen["video"].shape[2:] == (64, 64, 3)  # larger than clip.size
    return Clips(config, seen, batch)


def trained_like(config: Config) -> CrossModalModel:
    """A model whose BatchNorm statistics differ from their initial values."""
    model = build_model(config.model, audio=config.audio, seed=3)
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # torch-private: base class of all BatchNorms
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize(("modality", "name"), [encoder for encoder in ENCODERS if ALL or encoder in QUICK])
def test_graphs_give_the_features_of_the_run_and_take_any_size(clips, modality, name):
    config = replace(clips.config, model=replace(ModelConfig(video="tiny", audio="tiny", dim=8), **{modality: name}))
    model = trained_like(config)
    ids = clips.batch.ids.numpy()
    features = extract({"run": model}, [clips.batch], ids)["run"]
    expected = {"embedding": features.embedding[modality], "features": features.pooled[modality]}
    expected = {kind: torch.from_numpy(values) for kind, values in expected.items()}
    encoder = portable_encoder(model, config, modality)
    graph = trace(encoder, config, modality)
    runs = partial(run_pt2, to_pt2(graph)), partial(run_onnx, to_onnx(graph))
    for run in runs:
        require_equal(run(clips.raw[modality]), expected, name)
    for count, length in SIZES[modality] if TIME[modality] in graph.dynamic else []:
        raw = raw_clips(config, modality, clips=count, length=length)
        for run in runs:
            require_equal(run(raw), encoder(raw), f"{name} for {length}")
    if name in ("tiny", "r2plus1d_18", "resnet18", "resnet1d_18"):
        assert graph.dynamic[:2] == {"video": ("batch", "frames"), "audio": ("batch", "samples")}[modality]
    norm = run(clips.raw[modality])["embedding"].norm(dim=1)
    torch.testing.assert_close(norm, torch.ones(len(norm)))


class FixedLength(nn.Module):
    """An encoder with a position embedding for each of 8 frames."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.zeros(8))

    def forward(self, frames: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = frames.float().mean(dim=(2, 3, 4)) + self.places
        return {"embedding": rows, "features": rows}


def test_an_encoder_with_a_fixed_number_of_frames_is_exported_with_it():
    config = load_config(Config, overrides=["clip.size=16", "clip.frames=8"])
    encoder = FixedLength().eval().requires_grad_(False)
    graph = trace(encoder, config, "video")
    assert graph.dynamic == ("batch", "height", "width")
    raw = raw_clips(config, "video", clips=3)
    require_equal(run_onnx(to_onnx(graph), raw), encoder(raw), "video.onnx")


def test_frames_so_small_that_the_last_maps_are_one_pixel_are_exported_with_the_runs_number_of_frames():
    overrides = ["model.video=tiny", "model.audio=tiny", "clip.size=16", "clip.frames=4"]
    config = load_config(Config, overrides=overrides)
    encoder = portable_encoder(trained_like(config), config, "video")
    graph = trace(encoder, config, "video")
    raw = raw_clips(config, "video", clips=3)
    require_equal(run_pt2(to_pt2(graph), raw), encoder(raw), "video.pt2")


def test_graphs_hold_no_path_of_this_machine_and_are_the_same_again():
    config = Config(model=ModelConfig(video="tiny", audio="tiny", dim=8))
    model = trained_like(config)
    first, second = (trace(portable_encoder(model, config, "audio"), config, "audio") for _ in range(2))
    for write in (to_pt2, to_onnx):
        content = write(first)
        assert content == write(second)
        assert b"/portable/" not in content


def test_other_outputs_than_the_runs_are_refused():
    rows = torch.ones(2, 3)
    with pytest.raises(ExportError, match=r"the embedding of video.pt2 differs by 0\.001 from that of the run"):
        require_equal({"embedding": rows + 1e-3}, {"embedding": rows}, "video.pt2")
    with pytest.raises(ExportError, match="differs by nan"):
        require_equal({"embedding": rows * torch.nan}, {"embedding": rows}, "video.pt2")


def test_an_encoder_that_cannot_be_traced_is_named():
    class Unstable(PortableEncoder):
        def forward(self, raw: torch.Tensor) -> dict[str, torch.Tensor]:
            raise NotImplementedError("no such operator")

    config = Config(model=ModelConfig(video="tiny", audio="tiny"))
    portable = portable_encoder(trained_like(config), config, "audio")
    with pytest.raises(ExportError, match=r"cannot trace the audio encoder: .*no such operator"):
        trace(Unstable(inputs=portable.inputs, encoder=portable.encoder), config, "audio")
