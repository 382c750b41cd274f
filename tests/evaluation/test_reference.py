"""torchvision's Kinetics weights as a row of their own."""

from __future__ import annotations

from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import WeightsEnum
from torchvision.models.video import r2plus1d_18, r3d_18

from evaluation.features import extract
from evaluation.reference import reference_model
from model import build_model
from pipeline.batch import Batch
from settings import AudioConfig, ConfigError, ModelConfig


@pytest.fixture(scope="module")
def model():
    return build_model(ModelConfig(video="r3d_18", audio="tiny", dim=8), audio=AudioConfig(), seed=0).eval()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_features_are_those_of_torchvisions_network_and_there_are_none_for_audio(model, tmp_path, suffix):
    torch.manual_seed(0)
    theirs = r3d_18(weights=None).eval()
    path = tmp_path / f"r3d_18{suffix}"
    if suffix == ".pth":
        torch.save(theirs.state_dict(), path)
    else:
        save_file(theirs.state_dict(), path)
    reference = reference_model(model, architecture="r3d_18", weights=str(path))
    batch = Batch(torch.randn(1, 3, 4, 32, 32), torch.randn(1, 1, 80, 20), torch.tensor([0]), torch.zeros(1))
    features = extract({"ours": model, "reference": reference}, [batch], torch.tensor([0]).numpy())
    assert list(features["ours"].pooled) == ["video", "audio"]
    assert list(features["reference"].pooled) == ["video"]
    with torch.no_grad():
        logits = theirs.fc(torch.from_numpy(features["reference"].pooled["video"]))
        torch.testing.assert_close(logits, theirs(batch.video), rtol=1e-4, atol=1e-5)


def test_the_checkpoints_own_encoders_are_left_alone(model, tmp_path):
    before = model.query["video"].backbone.stem[0].weight.clone()
    torch.save(r3d_18(weights=None).state_dict(), tmp_path / "w.pth")
    reference_model(model, architecture="r3d_18", weights=str(tmp_path / "w.pth"))
    assert torch.equal(model.query["video"].backbone.stem[0].weight, before)
    assert "audio" in model.query


def test_weights_of_another_architecture_are_refused(model, tmp_path):
    torch.save(r2plus1d_18(weights=None).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="does not hold weights of r3d_18"):
        reference_model(model, architecture="r3d_18", weights=str(tmp_path / "w.pth"))


def test_an_architecture_that_torchvision_lacks_is_refused(model):
    with pytest.raises(ConfigError, match=r"one of mc3_18, mvit_v2_s, r2plus1d_18, r3d_18, swin3d_t, not tiny"):
        reference_model(model, architecture="tiny", weights="torchvision")


def test_without_a_network_the_error_says_which_file_to_fetch(model, monkeypatch):
    def fail(self, *args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fail)
    with pytest.raises(ConfigError, match=r"could not download https://\S+r3d_18\S+\.pth .* reference=FILE"):
        reference_model(model, architecture="r3d_18", weights="torchvision")


def test_a_file_that_is_no_weights_is_named(model, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match=r"w\.pth' cannot be read as weights"):
        reference_model(model, architecture="r3d_18", weights=str(tmp_path / "w.pth"))
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        reference_model(model, architecture="r3d_18", weights=str(tmp_path / "absent.pth"))
