"""A folder that export.py wrote tells what it holds, works in other environments, and reaches the Hub and back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from safetensors.torch import load_file
from torch import nn
from torchvision.models import video as torchvision_video

import export
from common import environment
from common.normalisation import VIDEO_MEAN, VIDEO_STD
from model import build_model
from model.video import input_normalisation
from portable.encoder import portable_encoder
from portable.graphs import require_equal
from settings import ClipConfig, Config, DataConfig, ModelConfig, TrainConfig, to_dict
from tests.portable.stub_hub import COMMIT, stub_hub
from training.checkpoint import CheckpointStore
from training.encode import use_channels_last

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/export.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
CONFIG = Config(
    data=DataConfig(path="/home/somebody/videos"),
    clip=ClipConfig(frames=4, size=32),
    model=ModelConfig(video="tiny", audio="tiny", dim=8),
    train=TrainConfig(batch_size=16),
)
RESULT = {
    "title": "retrieval",
    "caption": "40 test samples",
    "checkpoint": "runs/mine/checkpoints/step-000000003.pt",
    "rows": [{"encoder": "pre-trained", "R@1": 0.25, "R@1_interval": [0.1, 0.4]}, {"encoder": "a|b", "R@1": 0.1}],
    "notes": ["A single sample changes R@1 by 0.025."],
}
ISOLATED = """
import json, sys
refused = set(json.loads(sys.stdin.readline()))
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in refused else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
names = {}
exec(sys.stdin.read(), names)
"""
"""Runs a program as if the packages on its first line of input were not installed."""


def save_run(folder: Path, config: Config) -> nn.Module:
    """Writes a run folder with one checkpoint; returns its model."""
    model = build_model(config.model, audio=config.audio, seed=0).eval()
    use_channels_last(model)
    store = CheckpointStore(folder / "checkpoints", keep=1)
    state = {"config": to_dict(config), "model": model.state_dict(), "data": "f1ngerpr1nt", "samples": 200}
    store.save(state, step=12)
    store.wait()
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(model, folder) of a run with one evaluation, exported by the command."""
    run = tmp_path_factory.mktemp("runs") / "mine"
    model = save_run(run, CONFIG)
    (run / "evaluation-retrieval.json").write_text(json.dumps(RESULT))
    out = run.parent / "out"
    assert export.main([str(run), str(out), "--licence", "mit"]) == 0
    return model, out


def test_the_folder_holds_graphs_weights_a_description_and_a_card(exported):
    model, out = exported
    kinds = (".pt2", ".onnx", ".safetensors")
    names = {f"{modality}{suffix}" for modality in ("video", "audio") for suffix in kinds}
    assert {path.name for path in out.iterdir()} == names | {"config.json", "README.md"}
    weights = load_file(out / "video.safetensors")
    assert torch.equal(weights["stem.0.weight"], model.query["video"].backbone.stem[0].weight)
    about = json.loads((out / "config.json").read_text())
    assert about["video"]["input"]["shape"] == ["batch", "frames", "height", "width", 3]
    assert (about["audio"]["input"]["shape"], about["audio"]["input"]["samples"]) == (["batch", "samples"], 6400)
    assert about["video"]["outputs"]["embedding"]["shape"] == ["batch", 8]
    assert about["run"] == {"step": 12, "clips_seen": 192, "samples": 200, "fingerprint": "f1ngerpr1nt", "seed": 0}
    assert "somebody" not in (out / "config.json").read_text()


def test_the_card_is_made_from_the_run(exported):
    text = (exported[1] / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "mit"
    assert yaml.safe_load(head)["tags"][-1] == "onnx"
    for part in (
        "# Video and audio encoders of mine\n",
        "| data set | 200 samples, fingerprint `f1ngerpr1nt` |",
        "| clips seen | 192 |",
        "| encoder | R@1 |\n|---|---|\n| pre-trained | 0.250 [0.100, 0.400] |\n| a&#124;b | 0.100 |",
        "- A single sample changes R@1 by 0.025.",
        "This table is about step-000000003.pt, but the exported encoders are those of step-000000012.pt.",
        "clips of 4 frames at 10 frames per second and on 0.4 s of mono sound at 16000 Hz",
        "Training ended before each sample had been seen once.",
    ):
        assert part in body
    assert "somebody" not in text


def test_an_export_without_onnx_removes_older_onnx_files_and_says_that_nothing_was_measured(tmp_path):
    save_run(tmp_path / "run", CONFIG)
    out = tmp_path / "out"
    out.mkdir()
    (out / "video.onnx").write_text("of other weights")
    assert export.main([str(tmp_path / "run"), str(out), "--no-onnx"]) == 0
    assert not list(out.glob("*.onnx"))
    card = (out / "README.md").read_text()
    assert "how good these encoders are has not been measured" in card
    assert "No licence was given" in card
    assert "license" not in card.split("---\n")[1]


def refused_for(package: str) -> list[str]:
    """The importable names that are installed here but that an environment with this package alone lacks."""
    needed, queue = set(), [package]
    while queue:
        name = canonicalize_name(queue.pop())
        if name in needed:
            continue
        needed.add(name)
        try:
            wanted = map(Requirement, requires(name) or [])
        except PackageNotFoundError:  # for another platform
            continue
        queue += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    owners = packages_distributions().items()
    return [module for module, owner in owners if not {canonicalize_name(name) for name in owner} & needed]


def run_alone(package: str, code: str, folder: Path) -> None:
    """Runs code in a process that can import the standard library, this package and what it requires."""
    refused = refused_for(package)
    assert {"torchvision", "safetensors", "yaml"} <= set(refused)
    code = f"{code}\nimport sys\nassert not set(sys.modules) & {{'model', 'portable', 'settings', 'pipeline'}}\n"
    without_numpy = "ignore:Failed to initialize NumPy:UserWarning"  # torch itself says so when it is imported
    line = [sys.executable, "-I", "-W", "error", "-W", without_numpy, "-c", ISOLATED]
    done = subprocess.run(line, input=json.dumps(refused) + "\n" + code, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_printed_lines_for_torch_work_with_torch_alone(exported, tmp_path):
    model, out = exported
    (tmp_path / "OUT").symlink_to(out)
    (block,) = (block for block in BLOCKS if "frames = torch.randint" in block)
    assert len(block.splitlines()) <= 10
    code = block.replace("path/to/this/repository", str(ROOT))
    code += "\ntorch.save({'frames': frames, 'pcm': pcm, 'video': video, 'audio': audio}, 'found.pt')"
    run_alone("torch", code, tmp_path)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for modality, raw in (("video", "frames"), ("audio", "pcm")):
        require_equal(found[modality], own_outputs(model, modality, found[raw]), modality)


def test_the_printed_lines_for_onnx_work_with_onnxruntime_alone(exported, tmp_path):
    model, out = exported
    (tmp_path / "OUT").symlink_to(out)
    (block,) = (block for block in BLOCKS if "import onnxruntime" in block)
    assert len(block.splitlines()) <= 10
    kept = (
        "frames=frames, pcm=pcm, video=video, video_features=video_features, audio=audio, audio_features=audio_features"
    )
    run_alone("onnxruntime", f"{block}\nnp.savez('found.npz', {kept})", tmp_path)
    found = {name: torch.from_numpy(values) for name, values in np.load(tmp_path / "found.npz").items()}
    for modality, raw in (("video", "frames"), ("audio", "pcm")):
        outputs = {"embedding": found[modality], "features": found[f"{modality}_features"]}
        require_equal(outputs, own_outputs(model, modality, found[raw]), modality)


def own_outputs(model: nn.Module, modality: str, raw: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        out = model.query[modality](portable_encoder(model, CONFIG, modality).inputs(raw))
    return {"embedding": out.embedding, "features": out.features}


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18", "mc3_18"])
def test_torchvisions_networks_load_the_weights_and_give_the_same_features(tmp_path, name):
    config = ModelConfig(video=name, audio="tiny", dim=8)
    model = build_model(config, audio=CONFIG.audio, seed=3).eval()
    use_channels_last(model)
    (tmp_path / "video.safetensors").write_bytes(export.weights_of(model.query["video"].backbone))
    (block,) = (block for block in BLOCKS if "torchvision.models.video.r2plus1d_18" in block)
    network = getattr(torchvision_video, name)(weights=None)
    network.fc = nn.Identity()
    assert "network.fc = torch.nn.Identity()" in block
    network.load_state_dict(load_file(tmp_path / "video.safetensors"), strict=True)
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(clip), model.query["video"](clip).features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mvit_v2_s", "swin3d_t"])
def test_torchvisions_transformers_load_the_weights_and_take_frames_as_the_description_says(tmp_path, name):
    config = Config(clip=CONFIG.clip, model=ModelConfig(video=name, audio="tiny", dim=8))
    model = build_model(config.model, audio=config.audio, seed=3).eval()
    (tmp_path / "video.safetensors").write_bytes(export.weights_of(model.query["video"].backbone))
    network = getattr(torchvision_video, name)(weights=None)
    network.head = nn.Identity()
    network.load_state_dict(load_file(tmp_path / "video.safetensors"), strict=True)
    frames = torch.rand(1, 3, 8, 64, 64)
    if name == "mvit_v2_s":  # torchvision's takes the size that it is built for, which is 16 frames of 224 x 224 pixels
        network.pos_encoding.temporal_size, network.pos_encoding.spatial_size = 4, (16, 16)

    def normalised(mean, std):
        return (frames - torch.tensor(mean).view(3, 1, 1, 1)) / torch.tensor(std).view(3, 1, 1, 1)

    mean, std = input_normalisation(name)
    with torch.no_grad():
        expected = network.eval()(normalised(mean, std))
        found = model.query["video"](normalised(VIDEO_MEAN, VIDEO_STD)).features
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


PUSH_AND_PULL = """
import sys
from pathlib import Path
import hubconf
from portable.hub import HubError, push
try:
    files = ["video.pt2", "audio.pt2", "config.json", "README.md"]
    print(push(Path(sys.argv[1]), "me/mine", private=True, files=files))
except HubError as error:
    sys.exit(str(error))
print(sorted(hubconf.encoders(repo_id="me/mine")))
"""


@pytest.mark.parametrize("refuse", [False, True])
def test_a_folder_is_pushed_to_the_hub_and_loaded_from_it(exported, tmp_path, refuse):
    with stub_hub(refuse=refuse) as hub:
        hub.files["video.onnx"] = b"of other weights"
        own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
        line = [sys.executable, "-c", PUSH_AND_PULL, str(exported[1])]
        done = subprocess.run(line, env=os.environ | own, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "hf_secret" not in done.stdout + done.stderr
    assert "Bearer hf_secret" in hub.tokens
    if refuse:
        assert done.returncode == 1
        assert "cannot upload to me/mine" in done.stderr
        assert "this token may not write" in done.stderr
        return
    assert done.stdout.splitlines() == [f"{hub.url}/me/mine/commit/{COMMIT}", "['audio', 'video']"], done.stderr
    assert hub.created[0]["visibility"] == "private"
    assert sorted(hub.files) == ["README.md", "audio.pt2", "config.json", "video.pt2"]
    assert hub.files["video.pt2"] == (exported[1] / "video.pt2").read_bytes()


def test_missing_packages_are_named_with_what_installs_them(monkeypatch, capsys, tmp_path):
    save_run(tmp_path / "run", CONFIG)
    monkeypatch.setattr(environment, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    assert export.main([str(tmp_path / "run"), str(tmp_path / "out")]) == 2
    assert "needs onnxscript: pip install -r requirements-export.txt, or export without ONNX files: --no-onnx" in (
        capsys.readouterr().err
    )


def test_the_hub_function_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"video\.pt2 and no .*audio\.pt2: write them by python export\.py"):
        torch.hub.load(str(ROOT), "encoders", source="local", folder=str(tmp_path))
    with pytest.raises(ValueError, match="either folder or repo_id"):
        torch.hub.load(str(ROOT), "encoders", source="local")


def test_files_that_are_not_from_an_export_are_not_replaced(tmp_path, capsys):
    save_run(tmp_path / "run", CONFIG)
    (tmp_path / "README.md").write_text("mine")
    assert export.main([str(tmp_path / "run"), str(tmp_path), "--no-onnx"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'README.md'}: this file is not from an export and would be overwritten: choose another" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "run"]
    assert (tmp_path / "README.md").read_text() == "mine"
    assert export.main([str(tmp_path / "run"), str(tmp_path / "README.md"), "--no-onnx"]) == 2
    assert f"{tmp_path / 'README.md'}: this is not a folder" in capsys.readouterr().err


def test_an_error_names_a_folder_that_is_not_a_run(tmp_path, capsys):
    assert export.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert f"export.py: no checkpoint at {tmp_path}" in capsys.readouterr().err
