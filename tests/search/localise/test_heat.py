"""The feature map is the one that the encoder averages, and heat maps put its places where they are in the frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model import VIDEO_ENCODERS, build_model
from model.encoder import Encoder
from model.heads import LinearHead
from pipeline.demo.scene import HEIGHT, WIDTH, render, shape_positions
from search.localise.feature_map import MapReader
from search.localise.heat import Localiser, grid_shape, heat_maps
from search.localise.score import Scenes
from settings import ClipConfig, Config, ConfigError, ModelConfig


@pytest.mark.parametrize("name", sorted(VIDEO_ENCODERS.keys() - {"mvit_v2_s"}))
def test_projections_of_a_linear_head_average_to_that_of_the_clip(name: str):
    config = Config(clip=ClipConfig(frames=8, size=64), model=ModelConfig(video=name, audio="tiny", head="linear"))
    encoder = build_model(config.model, audio=config.audio, seed=0).eval().query["video"]
    encoder.head = LinearHead(features=encoder.head.last.in_features, hidden=0, dim=16, batchnorm=False)
    clips = torch.randn(2, 3, 8, 64, 64)
    places = MapReader(encoder, config)(clips)
    assert places.shape[0] == 2
    assert places.shape[2] * places.shape[3] > 1
    with torch.no_grad():
        torch.testing.assert_close(
            F.normalize(places.mean(dim=(1, 2, 3)), dim=1), encoder(clips).embedding, rtol=1e-3, atol=1e-4
        )


def test_an_encoder_with_a_class_token_is_refused():
    config = Config(clip=ClipConfig(frames=4, size=64), model=ModelConfig(video="mvit_v2_s", audio="tiny"))
    with pytest.raises(ConfigError, match=r"model.video=mvit_v2_s .* does not average a map of several places"):
        Localiser(build_model(config.model, audio=config.audio, seed=0).eval(), config)


class ChannelsLast(nn.Module):
    """Ends like a Swin transformer: tokens [B, T, H, W, C] are normalised, then averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv3d(3, 6, (2, 8, 8), (2, 8, 8))
        self.norm = nn.LayerNorm(6)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.norm(self.patches(video).movedim(1, -1)).mean(dim=(1, 2, 3))


class ClassToken(nn.Module):
    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return video.mean(dim=(2, 3, 4)).exp()


def test_tokens_with_channels_last_are_read_and_other_networks_refused():
    config = Config(clip=ClipConfig(frames=4, size=32))
    head = LinearHead(features=6, hidden=0, dim=4, batchnorm=False)
    places = MapReader(Encoder(backbone=ChannelsLast().eval(), head=head), config)(torch.randn(1, 3, 4, 32, 32))
    assert places.shape == (1, 2, 4, 4, 4)
    head = LinearHead(features=3, hidden=0, dim=4, batchnorm=False)
    with pytest.raises(ConfigError, match=r"model.video=.* does not average a map of several places"):
        MapReader(Encoder(backbone=ClassToken(), head=head), config)


def test_a_map_of_a_single_place_is_refused():
    config = Config(clip=ClipConfig(frames=4, size=16), model=ModelConfig(video="tiny", audio="tiny", dim=8))
    model = build_model(config.model, audio=config.audio, seed=0).eval()
    with pytest.raises(ConfigError, match=r"clip.size=16 does not average a map of several places"):
        Localiser(model, config)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (1, 2), (3, 3)])
def test_heat_lies_where_the_hot_place_of_the_map_is(row: int, column: int):
    sounds = F.normalize(torch.tensor([[1.0, 2.0, 0.0]]), dim=1)
    plain, mirrored = torch.zeros(1, 2, 4, 4, 3), torch.zeros(1, 2, 4, 4, 3)
    plain[0, 1, row, column] = sounds[0]
    heat = heat_maps((plain, mirrored), sounds, rows=30, columns=40)
    assert heat.shape == (1, 2, 30, 40)
    assert not heat[0, 0].any()
    # Place i of a map with stride s belongs to pixel i * s: here to i / 4 of the frame.
    y, x = np.unravel_index(heat[0, 1].argmax(), (30, 40))
    assert (y + 0.5) / 30 == pytest.approx(row / 4, abs=0.04)
    assert (x + 0.5) / 40 == pytest.approx(column / 4, abs=0.04)
    flipped = heat_maps((mirrored, plain), sounds, rows=30, columns=40)
    np.testing.assert_allclose(flipped, heat[..., ::-1], atol=1e-6)


@pytest.mark.parametrize(("size", "shape"), [((1920, 1080), (22, 40)), ((80, 80), (40, 40)), ((100, 4000), (40, 2))])
def test_the_grid_has_the_shape_of_the_frame(size: tuple[int, int], shape: tuple[int, int]):
    assert grid_shape(*size) == shape


def test_known_positions_are_those_of_the_rendered_shape():
    frames, _, _ = render(0, 3, (5, 7))
    times = np.array([0.0, 1.6, 3.2])
    centres, radius = shape_positions(3, (5, 7), times)
    still = np.median(frames.astype(float), axis=0)
    for time, (x, y) in zip(times, centres, strict=True):
        moved = np.abs(frames[round(25 * time)] - still).sum(axis=2) > 60
        rows, columns = np.nonzero(moved)
        assert np.hypot(columns.mean() - x, rows.mean() - y) < radius / 3


def test_a_hit_is_a_point_within_the_shape():
    scenes = Scenes(centres=np.array([[[30.0, 40.0], [90.0, 40.0]]]), radii=np.array([20.0]))
    assert scenes.hits(np.array([[[49.0, 40.0], [90.0, 61.0]]])).tolist() == [0.5]
    assert scenes.covered()[0] == pytest.approx(np.pi * 20**2 / (WIDTH * HEIGHT), rel=0.02)
