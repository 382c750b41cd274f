"""Video and audio transformers: positions, sizes, normalisation, layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision.models import video as torchvision_video

from common.normalisation import VIDEO_MEAN, VIDEO_STD
from model import AUDIO_ENCODERS, VIDEO_ENCODERS
from model.audio_transformer import PATCH, Block, grid_positions
from model.layers import layers
from model.video_transformers import INPUT, Renormalise

VIDEO = sorted(INPUT)
BACKBONES = {("video", name): VIDEO_ENCODERS[name] for name in VIDEO_ENCODERS}
BACKBONES |= {("audio", name): lambda build=build: build(80) for name, build in AUDIO_ENCODERS.items()}


@pytest.fixture(scope="module", params=VIDEO)
def network(request):
    torch.manual_seed(0)
    return VIDEO_ENCODERS[request.param]()[0].eval()


@pytest.mark.parametrize("name", VIDEO)
def test_torchvisions_weights_load_with_nothing_left_over_but_the_classifier(name):
    original = getattr(torchvision_video, name)(weights=None)
    left = VIDEO_ENCODERS[name]()[0].load_state_dict(original.state_dict(), strict=False)
    assert left.missing_keys == []
    assert {key.partition(".")[0] for key in left.unexpected_keys} == {"head"}


@pytest.mark.parametrize("size", [(1, 16), (5, 65), (8, 112)], ids=str)
def test_video_transformers_take_clips_of_any_size(network, size):
    with torch.no_grad():
        features = network(torch.randn(2, 3, size[0], size[1], size[1]))
    assert features.shape == (2, 768)
    assert not torch.allclose(features[0], features[1])


def test_video_transformers_draw_no_random_numbers_in_training(network):
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.train()(clips), network(clips))
    network.eval()


def test_frames_are_converted_to_the_normalisation_of_the_weights():
    mean, std = INPUT["swin3d_t"]
    rgb = torch.rand(2, 3, 2, 4, 4)

    def normalised(mean, std):
        return (rgb - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(3, 1, 1, 1)

    convert = Renormalise(mean, std)
    torch.testing.assert_close(convert(normalised(VIDEO_MEAN, VIDEO_STD)), normalised(mean, std), rtol=1e-5, atol=1e-5)
    assert convert.state_dict() == {}


def test_a_block_is_torchs_layer():
    theirs = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    block = Block(dim=16, heads=2)
    state = theirs.state_dict()
    attention = {"self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "projection."}
    for old, new in attention.items():
        state = {name.replace(old, new): value for name, value in state.items()}
    block.load_state_dict(state)
    tokens = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(tokens), theirs(tokens))


def test_positions_are_sines_and_cosines_of_row_and_column():
    rows, columns, dim = 3, 4, 16
    found = grid_positions(rows, columns, dim=dim).view(rows, columns, dim)
    for row in range(rows):
        for column in range(columns):
            expected = []
            for place in (row, column):
                angles = [place / 10000 ** (4 * i / dim) for i in range(dim // 4)]
                expected += [*map(math.sin, angles), *map(math.cos, angles)]
            torch.testing.assert_close(found[row, column], torch.tensor(expected))
    assert len(found.view(-1, dim).unique(dim=0)) == rows * columns


def test_a_spectrogram_is_padded_with_the_mean_level_to_whole_patches():
    torch.manual_seed(0)
    vit = AUDIO_ENCODERS["vit_tiny"](40)[0].eval()
    audio = torch.randn(2, 1, 40, 101)
    padded = torch.zeros(2, 1, 48, 112)
    padded[:, :, :40, :101] = audio
    assert (PATCH, 48 % PATCH, 112 % PATCH) == (16, 0, 0)
    with torch.no_grad():
        assert torch.equal(vit(audio), vit(padded))


def test_the_spectrogram_transformer_sees_where_a_sound_is_in_time_and_frequency():
    torch.manual_seed(0)
    vit = AUDIO_ENCODERS["vit_tiny"](80)[0].eval()
    sound = torch.zeros(1, 1, 80, 160)
    sound[..., 5:9, 20:30] = 3
    with torch.no_grad():
        here, later, higher = vit(sound), vit(torch.roll(sound, 64, dims=3)), vit(torch.roll(sound, 32, dims=2))
    assert not torch.allclose(here, later, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(here, higher, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(later, higher, rtol=1e-3, atol=1e-4)


def test_the_spectrogram_transformers_have_the_sizes_of_deit():
    millions = {}
    for name in ("vit_tiny", "vit_small"):
        millions[name] = sum(p.numel() for p in AUDIO_ENCODERS[name](80)[0].parameters()) / 1e6
    assert millions == pytest.approx({"vit_tiny": 5.4, "vit_small": 21.4}, rel=0.01)


@pytest.mark.parametrize("key", sorted(BACKBONES), ids="-".join)
def test_the_layers_of_every_backbone_hold_each_parameter_once(key):
    network, _ = BACKBONES[key]()
    found = [p for layer in layers(network) for part in layer.parts for p in part.parameters()]
    assert sorted(map(id, found)) == sorted(map(id, network.parameters()))
    assert len({layer.name for layer in layers(network)}) == len(layers(network))


@pytest.mark.parametrize(
    ("key", "first", "count"),
    [
        (("video", "r2plus1d_18"), ["stem", "layer1"], 5),
        (("audio", "resnet18"), ["conv1", "layer1"], 5),
        (("video", "tiny"), ["stem", "stage1"], 4),
        (("video", "mvit_v2_s"), ["conv_proj", "blocks.0"], 17),
        (("video", "swin3d_t"), ["patch_embed", "features.0.0"], 16),
        (("audio", "vit_tiny"), ["patches", "blocks.0"], 13),
    ],
    ids=str,
)
def test_layers_are_stages_of_resnets_and_blocks_of_transformers(key, first, count):
    found = layers(BACKBONES[key]()[0])
    assert [layer.name for layer in found[:2]] == first
    assert len(found) == count
