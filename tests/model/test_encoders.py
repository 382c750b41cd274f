"""Backbones: shapes, weights exchanged with torchvision, and what each network can distinguish."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet18
from torchvision.models import video as torchvision_video

from model import AUDIO_ENCODERS, VIDEO_ENCODERS
from model.audio import ResNet1d18
from model.video import MotionStem

TORCHVISION = ["r2plus1d_18", "r3d_18", "mc3_18"]


@pytest.mark.parametrize("name", sorted(VIDEO_ENCODERS))
def test_video_backbones_give_the_feature_length_they_declare(name):
    network, features = VIDEO_ENCODERS[name]()
    assert network(torch.randn(2, 3, 8, 48, 48)).shape == (2, features)


def test_motion_stem_equals_one_convolution_of_frames_and_differences():
    torch.manual_seed(0)
    layer = MotionStem(6, 5, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False).double()
    video = torch.randn(2, 3, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    both = torch.cat([video, video - video.mean(dim=2, keepdim=True)], dim=1)
    expected = torch.nn.functional.conv3d(both, layer.weight, stride=(1, 2, 2), padding=(0, 1, 1))
    out, weights = layer(video), torch.randn_like(expected)
    torch.testing.assert_close(out, expected)
    inputs = [video, layer.weight]
    for ours, theirs in zip(*(torch.autograd.grad(y, inputs, weights) for y in (out, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", sorted(AUDIO_ENCODERS))
@pytest.mark.parametrize("n_mels", [40, 80])
def test_audio_backbones_take_any_number_of_mel_bands(name, n_mels):
    network, features = AUDIO_ENCODERS[name](n_mels)
    assert network(torch.randn(2, 1, n_mels, 101)).shape == (2, features)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_weights_load_with_nothing_left_over_but_fc(name):
    original = getattr(torchvision_video, name)(weights=None).eval()
    network, _ = VIDEO_ENCODERS[name]()
    left = network.load_state_dict(original.state_dict(), strict=False)
    assert left.missing_keys == []
    assert left.unexpected_keys == ["fc.weight", "fc.bias"]
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(original.fc(network.eval()(clip)), original(clip))


@pytest.mark.parametrize("name", TORCHVISION)
def test_our_video_weights_load_in_unmodified_torchvision(name):
    network, _ = VIDEO_ENCODERS[name]()
    left = getattr(torchvision_video, name)(weights=None).load_state_dict(network.state_dict(), strict=False)
    assert left.unexpected_keys == []
    assert left.missing_keys == ["fc.weight", "fc.bias"]


def test_audio_resnet18_is_torchvisions_except_for_the_first_convolution():
    network, _ = AUDIO_ENCODERS["resnet18"](80)
    theirs, ours = resnet18(weights=None).state_dict(), network.state_dict()
    assert [k for k in theirs if k not in ours] == ["fc.weight", "fc.bias"]
    assert [k for k in ours if ours[k].shape != theirs[k].shape] == ["conv1.weight"]
    assert ours["conv1.weight"].shape == (64, 1, 7, 7)


def test_resnet1d_is_resnet18_with_one_dimension_fewer():
    theirs, ours = resnet18(weights=None).state_dict(), ResNet1d18(n_mels=80).state_dict()
    assert sorted(ours) == sorted(k for k in theirs if not k.startswith("fc."))
    for name, tensor in ours.items():
        expected = theirs[name].shape[:-1] if theirs[name].ndim == 4 else theirs[name].shape
        if name != "conv1.weight":
            assert tensor.shape == expected, name
    assert ours["conv1.weight"].shape == (64, 80, 7)


def test_resnet1d_convolves_over_time_and_not_over_mel_bands():
    """Delaying the sound far from the borders does not change the mean features; moving it to other bands does."""
    network = ResNet1d18(n_mels=16).eval()
    sound = torch.zeros(1, 1, 16, 512)
    sound[..., 5, 200:210] = 1
    with torch.no_grad():
        delayed = network(torch.roll(sound, 32, dims=3))
        higher = network(torch.roll(sound, 4, dims=2))
        torch.testing.assert_close(delayed, network(sound))
        assert not torch.allclose(higher, network(sound), rtol=1e-2)


@pytest.mark.parametrize("name", sorted(VIDEO_ENCODERS))
def test_video_backbones_see_the_order_of_frames(name):
    torch.manual_seed(0)
    network = VIDEO_ENCODERS[name]()[0].eval()
    clip = torch.randn(1, 3, 8, 32, 32).cumsum(dim=2)
    with torch.no_grad():
        assert not torch.allclose(network(clip), network(clip.flip(2)), rtol=1e-2)
