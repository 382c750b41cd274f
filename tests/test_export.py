"""Exported encoders can be loaded by torchvision alone."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18
from torchvision.models import video as torchvision_video

from common.normalisation import VIDEO_MEAN, VIDEO_STD
from export import export, main
from model import build_model
from settings import Config, ModelConfig, to_dict
from training.checkpoint import CheckpointStore
from training.encode import use_channels_last


@pytest.fixture
def exported(tmp_path):
    """Exports a model whose BatchNorm statistics differ from their initial values."""

    def make(video: str, file_format: str = "torchvision"):
        config = Config(model=ModelConfig(video=video, audio="resnet18", dim=8))
        model = build_model(config.model, audio=config.audio, seed=3)
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # torch-private: base class of all BatchNorms
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        use_channels_last(model)
        about = export(model, config, tmp_path, file_format=file_format)
        return model.eval(), about, tmp_path

    return make


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18", "mc3_18"])
def test_torchvisions_video_networks_load_every_weight_and_give_the_same_features(exported, name):
    model, about, folder = exported(name)
    network = getattr(torchvision_video, name)(weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(torch.load(folder / about["video"]["file"], weights_only=True), strict=True)
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(clip), model.query["video"](clip).features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mvit_v2_s", "swin3d_t"])
def test_torchvisions_transformers_load_every_weight_and_take_frames_as_encoders_json_says(exported, name):
    model, about, folder = exported(name)
    network = getattr(torchvision_video, name)(weights=None)
    network.head = nn.Identity()
    network.load_state_dict(torch.load(folder / about["video"]["file"], weights_only=True), strict=True)
    frames = torch.rand(1, 3, 8, 64, 64)
    if name == "mvit_v2_s":  # torchvision's takes the size that it is built for, which is 16 frames of 224 x 224 pixels
        network.pos_encoding.temporal_size, network.pos_encoding.spatial_size = 4, (16, 16)

    def normalised(mean, std):
        return (frames - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(3, 1, 1, 1)

    with torch.no_grad():
        expected = network.eval()(normalised(about["video"]["mean"], about["video"]["std"]))
        found = model.query["video"](normalised(VIDEO_MEAN, VIDEO_STD)).features
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_torchvisions_network_may_keep_a_new_last_layer(exported):
    _, about, folder = exported("r3d_18")
    network = torchvision_video.r3d_18(weights=None, num_classes=7)
    state = torch.load(folder / about["video"]["file"], weights_only=True)
    left = network.load_state_dict(state, strict=False)
    assert left.missing_keys == ["fc.weight", "fc.bias"]
    assert left.unexpected_keys == []


def test_torchvisions_resnet18_loads_the_audio_encoder(exported):
    model, about, folder = exported("tiny", "safetensors")
    network = resnet18(weights=None)
    network.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.fc = nn.Identity()
    network.load_state_dict(load_file(folder / about["audio"]["file"]), strict=True)
    spectrogram = torch.randn(2, 1, 80, 51)
    with torch.no_grad():
        expected = model.query["audio"](spectrogram).features
        torch.testing.assert_close(network.eval()(spectrogram), expected, rtol=1e-4, atol=1e-5)


def test_both_formats_hold_the_same_weights(exported):
    exported("tiny", "torchvision")
    _, _, folder = exported("tiny", "safetensors")
    for modality in ("video", "audio"):
        pickled = torch.load(folder / f"{modality}.pth", weights_only=True)
        safe = load_file(folder / f"{modality}.safetensors")
        assert pickled.keys() == safe.keys()
        assert all(torch.equal(pickled[name], safe[name]) for name in safe)


def test_the_format_of_the_inputs_is_written_to_encoders_json(exported):
    _, about, folder = exported("tiny")
    assert json.loads((folder / "encoders.json").read_text()) == about
    assert about["video"]["mean"] == list(VIDEO_MEAN)
    assert about["video"]["frames"] == 16
    assert about["audio"]["seconds"] == 1.6
    assert about["audio"]["architecture"] == "resnet18"


def test_the_command_exports_a_run(tmp_path, capsys):
    config = Config(model=ModelConfig(video="tiny", audio="tiny", dim=8))
    model = build_model(config.model, audio=config.audio, seed=0)
    store = CheckpointStore(tmp_path / "run" / "checkpoints", keep=1)
    store.save({"config": to_dict(config), "model": model.state_dict()}, step=1)
    store.wait()
    assert main([str(tmp_path / "run"), str(tmp_path / "out"), "--format", "safetensors"]) == 0
    assert "video.safetensors: tiny" in capsys.readouterr().out
    weights = load_file(tmp_path / "out" / "video.safetensors")
    assert torch.equal(weights["stem.0.weight"], model.query["video"].backbone.stem[0].weight)


def test_an_error_names_a_folder_that_is_not_a_run(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert f"export.py: no checkpoint at {tmp_path}" in capsys.readouterr().err
