"""Per-layer probes: which layers there are, and that their features are those of the network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import evaluate
from evaluation.features import Features, extract
from evaluation.probes.layers import LayeredEncoder, LayeredModel, _columns, run_layers
from evaluation.task import Split, Task
from model import build_model
from pipeline.batch import Batch
from settings import AudioConfig, ModelConfig
from settings.evaluation import EvaluationConfig
from tests.evaluation.tiny import CONFIG

SWIN = {"patch_embed": 96}
for place, (blocks, width) in enumerate(zip((2, 2, 6, 2), (96, 192, 384, 768), strict=True)):
    SWIN |= {f"features.{2 * place}.{n}": width for n in range(blocks)}
    SWIN |= {f"features.{2 * place + 1}": 2 * width} if place < 3 else {}
MVIT = {"conv_proj": 96}
MVIT |= {f"blocks.{n}": 96 if n == 0 else 192 if n < 3 else 384 if n < 14 else 768 for n in range(16)}


def layered(modality, name):
    config = ModelConfig(**{"video": "tiny", "audio": "tiny", modality: name})
    return LayeredEncoder(build_model(config, audio=AudioConfig(), seed=0).eval().query[modality])


@pytest.mark.parametrize(
    ("modality", "name", "widths"),
    [
        ("video", "tiny", {"stem": 32, "stage1": 64, "stage2": 128, "stage3": 256}),
        ("video", "r3d_18", {"stem": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}),
        ("video", "swin3d_t", SWIN),
        ("video", "mvit_v2_s", MVIT),
        ("audio", "vit_tiny", {"patches": 192} | {f"blocks.{n}": 192 for n in range(12)}),
        ("audio", "tiny", {"layer 1": 32, "layer 2": 64, "layer 3": 128, "layer 4": 256}),
        ("audio", "resnet1d_18", {"conv1": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}),
    ],
)
def test_layers_are_the_stages_of_the_network_and_the_last_is_its_output(modality, name, widths):
    encoder = layered(modality, name)
    clips = torch.randn((2, 3, 4, 32, 32) if modality == "video" else (2, 1, 80, 51))
    with torch.no_grad():
        features = encoder(clips).features
        expected = encoder.backbone(clips)
    assert encoder.widths == widths
    assert features.shape == (2, sum(widths.values()))
    torch.testing.assert_close(features[:, -expected.shape[1] :], expected)
    assert not any(module._forward_pre_hooks for module in encoder.modules())


def test_the_features_of_a_layer_are_the_means_of_its_activations():
    encoder = layered("video", "tiny")
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        activations = encoder.backbone.stage1(encoder.backbone.stem(clips))
        torch.testing.assert_close(encoder(clips).features[:, 32:96], activations.mean(dim=(2, 3, 4)))


@pytest.mark.parametrize("slots", [1, 2])
def test_concatenated_clips_keep_the_columns_of_their_layer(slots):
    model = LayeredModel(build_model(CONFIG.model, audio=CONFIG.audio, seed=0).eval())
    batch = Batch(torch.randn(2, 3, 4, 32, 32), None, torch.tensor([5, 5]), torch.zeros(2, dtype=torch.float64))
    pooled = extract({"any": model}, [batch], np.array([5]), slots=slots)["any"].pooled["video"]
    encoder = model.query["video"]
    with torch.no_grad():
        each = encoder(batch.video).features[:, 32:96]
    columns = dict(_columns(encoder.widths, slots))["stage1"]
    expected = each.mean(dim=0, keepdim=True) if slots == 1 else each
    np.testing.assert_allclose(pooled[:, columns], expected.reshape(1, -1), rtol=1e-4, atol=1e-5)


def test_the_layer_that_holds_the_class_is_found():
    rng = np.random.default_rng(0)
    codes = np.arange(90) % 3
    x = rng.normal(size=(90, 480)).astype(np.float32)
    x[:, 40:43] += 9 * np.eye(3)[codes]  # in stage1, columns 32 to 95
    test = np.arange(90) >= 60
    task = Task(label="kind", codes=codes, split=Split(train=~test, test=test, origin="test"))
    model = LayeredModel(build_model(CONFIG.model, audio=CONFIG.audio, seed=0))
    model.query["video"].widths = {"stem": 32, "stage1": 64, "stage2": 128, "stage3": 256}
    rows = run_layers({"any": model}, {"any": Features(pooled={"video": x})}, task, EvaluationConfig(folds=2))
    accuracy = {row["layer"]: row["accuracy"] for row in rows[:-1]}
    assert accuracy["stage1"] > 0.9
    assert max(accuracy[layer] for layer in ("stem", "stage2", "stage3")) < 0.7
    assert rows[-1]["modality"] == "majority class"


def test_the_last_layer_has_the_accuracy_of_the_linear_protocol(run, shards, monkeypatch):
    monkeypatch.setattr("evaluation.probes.linear.CS", (0.01, 1.0))
    rows = {}
    for protocol in ("layers", "linear"):
        options = ["--data", str(shards), "clips=1", "folds=2", "device=cpu", "--label", "speed"]
        assert evaluate.main(["--checkpoint", str(run), "--protocol", protocol, *options]) == 0
        rows[protocol] = json.loads((run / f"evaluation-{protocol}-speed.json").read_text())["rows"]
    last = [row for row in rows["layers"] if row.get("layer") in ("stage3", "layer 4")]
    assert len(rows["layers"]) == 17
    assert [(row["accuracy"], row["C"]) for row in last] == [(row["accuracy"], row["C"]) for row in rows["linear"][:-1]]
