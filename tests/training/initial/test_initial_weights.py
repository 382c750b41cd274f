"""model.init: what a run can start from, what it takes, and what is refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import video as torchvision_video

from export import export
from model.encoder import build_model
from portable.describe import Origin
from settings import Config, ConfigError, load_config, to_dict
from tests.training.small_run import alone, small_config
from training.checkpoint import CheckpointError, CheckpointStore, find, read
from training.initial.sources import check_sources
from training.initial.weights import initial_weights


def other_model(config):
    """A model with other weights and statistics than those that `config` starts from."""
    model = build_model(config.model, audio=config.audio, seed=99)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    return model.eval()


def make_run(folder, config, model=None):
    model = model or other_model(config)
    store = CheckpointStore(folder / "checkpoints", keep=1)
    store.save({"config": to_dict(config), "model": model.state_dict()}, step=7)
    store.wait()
    return model


def started(config, resume="never"):
    weights = initial_weights(config, alone(), resume=resume)
    model = build_model(config.model, audio=config.audio, seed=config.seed)
    weights.give_to(model)
    return model, weights


ORIGIN = Origin(run="run", checkpoint="step-000000007.pt")


def equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("form", ["run", "checkpoint", "exported"])
def test_both_encoders_start_from_a_run_a_checkpoint_or_an_exported_folder(tmp_path, form):
    config = small_config()
    before, path = make_run(tmp_path / "run", config), tmp_path / "run"
    if form == "checkpoint":
        path = find(path)
    elif form != "run":
        path = tmp_path / "out"
        export(before, config, path, origin=ORIGIN, onnx=False)
    model, weights = started(small_config(f"model.init={path}", f"run_dir={tmp_path / 'new'}"))
    fresh = build_model(config.model, audio=config.audio, seed=config.seed)
    for modality in ("video", "audio"):
        assert equal(model.query[modality].backbone, before.query[modality].backbone)
        head = before if form in ("run", "checkpoint") else fresh
        assert equal(model.query[modality].head, head.query[modality].head)
        assert equal(model.key[modality], model.query[modality])
        record = next(record for record in weights.origin if record["encoder"] == modality)
        assert record["sha256"] == hashlib.sha256(Path(record["path"]).read_bytes()).hexdigest()


def test_both_encoders_come_from_one_reading_of_a_run_that_may_be_saving_another_checkpoint(tmp_path, monkeypatch):
    make_run(tmp_path / "run", small_config())
    found = []
    monkeypatch.setattr("training.initial.weights.find", lambda path: found.append(find(path)) or found[-1])
    _, weights = started(small_config(f"model.init={tmp_path / 'run'}"))
    assert [record["path"] for record in weights.origin] == [str(path) for path in found * 2]


def test_with_crossing_heads_each_momentum_head_starts_as_the_one_that_it_follows(tmp_path):
    make_run(tmp_path / "run", small_config())
    model, _ = started(small_config(f"model.init={tmp_path / 'run'}", "model.cross_modal_fc=true"))
    assert equal(model.key["video"].head, model.query["audio"].head)
    assert not equal(model.key["video"].head, model.query["video"].head)


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18", "mc3_18", "mvit_v2_s", "swin3d_t"])
def test_the_video_encoder_starts_from_torchvisions_file(tmp_path, name):
    torch.manual_seed(3)
    theirs = getattr(torchvision_video, name)(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth", _use_new_zipfile_serialization=name != "r3d_18")
    model, weights = started(small_config(f"model.video={name}", f"model.init_video={tmp_path / 'weights.pth'}"))
    assert list(weights.encoders) == ["video"]
    left = theirs.load_state_dict(model.key["video"].backbone.state_dict(), strict=False)
    assert {key.partition(".")[0] for key in left.missing_keys} <= {"fc", "head"}
    state = torch.load(tmp_path / "weights.pth", weights_only=True)
    for key, value in model.query["video"].backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_a_setting_of_one_encoder_takes_precedence(tmp_path):
    config = small_config()
    both, audio = make_run(tmp_path / "both", config), build_model(config.model, audio=config.audio, seed=5)
    save_file(audio.query["audio"].backbone.state_dict(), tmp_path / "a.safetensors")
    overrides = [f"model.init={tmp_path / 'both'}", f"model.init_audio={tmp_path / 'a.safetensors'}"]
    model, _ = started(small_config(*overrides))
    assert equal(model.query["video"], both.query["video"])
    assert equal(model.query["audio"].backbone, audio.query["audio"].backbone)


def test_counters_of_batchnorm_may_be_missing_as_in_old_files(tmp_path):
    state = torchvision_video.r3d_18(weights=None).state_dict()
    torch.save({n: t for n, t in state.items() if "num_batches" not in n}, tmp_path / "w.pth")
    model, _ = started(small_config("model.video=r3d_18", f"model.init_video={tmp_path / 'w.pth'}"))
    assert torch.equal(model.key["video"].backbone.stem[0].weight, state["stem.0.weight"])


def spoiled(**changes):
    state = build_model(small_config().model, audio=small_config().audio, seed=0).query["video"].backbone.state_dict()
    for name, value in changes.items():
        key = {"weight": "stage1.0.weight", "more": "stage9.weight", "variance": "stem.1.running_var"}[name]
        if value is None:
            del state[key]
        else:
            state[key] = (
                value if isinstance(value, torch.Tensor) else torch.full_like(state["stem.1.running_var"], value)
            )
    return state


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (spoiled(weight=None), "w.pth' does not hold weights of tiny: it lacks backbone.stage1.0.weight"),
        (spoiled(more=torch.zeros(2)), "it has, unlike the network, backbone.stage9.weight"),
        (spoiled(weight=torch.zeros(2, 3)), r"stage1.0.weight is float32 \[2, 3\], but the network's is float32 \[64"),
        (spoiled(variance=float("nan")), "backbone.stem.1.running_var is not finite"),
        ({}, "it lacks backbone.stem.0.weight, .* and \\d+ more tensors"),
        ([1, 2], "it is no mapping of names to tensors"),
        ({"state_dict": {}, "epoch": 3}, "it is no mapping of names to tensors"),
        (torch.zeros(3), "it is no mapping of names to tensors"),
        (b"nothing of the kind", r"w.pth' cannot be read as weights: it is damaged, or holds more than tensors"),
        ({"hook": Path("/")}, r"cannot be read as weights"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_sentence(tmp_path, contents, message):
    path = tmp_path / "w.pth"
    path.write_bytes(contents) if isinstance(contents, bytes) else torch.save(contents, path)
    with pytest.raises(ConfigError, match=message) as caught:
        initial_weights(small_config(f"model.init_video={path}"), alone(), resume="never")
    assert "model.init_video=" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_another_architecture_or_head_is_refused_with_what_to_set(tmp_path):
    config = small_config()
    model = make_run(tmp_path / "run", config)
    export(model, config, tmp_path / "out", origin=ORIGIN, onnx=False)
    for path in (tmp_path / "run", tmp_path / "out"):
        with pytest.raises(ConfigError, match=r"architecture 'tiny', but this run has model.audio=resnet18: set that"):
            started(small_config(f"model.init={path}", "model.audio=resnet18"))
    with pytest.raises(
        ConfigError, match=r"another video head than this run \(set model.head, dim.*head.last.weight is"
    ):
        started(small_config(f"model.init={tmp_path / 'run'}", "model.dim=32"))
    started(small_config(f"model.init={tmp_path / 'out'}", "model.dim=32"))
    with pytest.raises(ConfigError, match=r"holds a single encoder: name it with model.init_video or model.init_audio"):
        started(small_config(f"model.init={tmp_path / 'out' / 'video.safetensors'}"))
    with pytest.raises(ConfigError, match="does not hold weights of tiny: it lacks"):
        started(small_config(f"model.init_audio={tmp_path / 'out' / 'video.safetensors'}"))


def test_a_damaged_or_missing_checkpoint_is_named(tmp_path):
    make_run(tmp_path / "run", small_config())
    path = find(tmp_path / "run")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"(?s)model.init=.*none of the checkpoints .*step-000000007.pt is damaged"
    ):
        started(small_config(f"model.init={tmp_path / 'run'}"))


@pytest.mark.parametrize(
    "description",
    ["{}", "[", '{"video": 3}', '{"video": {"architecture": "tiny", "files": {"safetensors": "../x"}}}'],
)
def test_a_description_that_export_did_not_write_is_refused(tmp_path, description):
    (tmp_path / "config.json").write_text(description)
    with pytest.raises(ConfigError, match=r"config.json there does not describe the video encoder .* export the run"):
        check_sources(small_config(f"model.init={tmp_path}"))


def test_a_missing_path_is_refused_without_torch_or_data(tmp_path):
    with pytest.raises(ConfigError, match=r"model.init_audio='.*nowhere' is neither a run folder .* nor a file"):
        check_sources(small_config(f"model.init_audio={tmp_path / 'nowhere'}"))


def test_an_audio_encoder_of_other_spectrograms_is_warned_of(tmp_path, caplog):
    make_run(tmp_path / "run", small_config())
    started(small_config(f"model.init={tmp_path / 'run'}", "audio.hop=200", "audio.seconds=2"))
    assert "trained on other spectrograms: audio.hop=160 there, 200 here" in caplog.text
    assert "audio.seconds" not in caplog.text


def test_random_weights_need_no_file():
    assert initial_weights(small_config(), alone(), resume="never") is None


def run_arguments(shards, run_dir, *more):
    small = ["train.batch_size=4", "train.log_every=2", "dictionary.size=8", "pool.size=20", "checkpoint.every_steps=2"]
    return [*small, "data.threads=1", f"data.path={shards}", f"run_dir={run_dir}", *more]


def test_a_run_starts_from_a_run_records_it_and_resumes_without_the_file(demo_shards, tmp_path):
    import train

    before = make_run(tmp_path / "before", small_config())
    first = run_arguments(demo_shards, tmp_path / "run", f"model.init={tmp_path / 'before'}", "optim.lr=1e-12")
    first += ["optim.freeze=[video]", "train.steps=6"]

    def train_until(stop):
        record = train.Run.record

        def stopping(run, *args, **kwargs):
            record(run, *args, **kwargs)
            run._preemption.signal = signal.SIGTERM if run.step == stop < 6 else 0

        train.Run.record = stopping
        try:
            return train.train(small_config(*first), alone(), resume="auto")
        finally:
            train.Run.record = record

    assert not train_until(2)
    (tmp_path / "before").rename(tmp_path / "moved")
    assert train_until(6)
    state = read(find(tmp_path / "run"))
    assert state["step"] == 6
    kept = {name: value for name, value in state["model"].items() if name.startswith(("query.video", "key.video"))}
    expected = before.state_dict()
    for name, value in kept.items():
        assert torch.equal(value, expected[name.replace("key.", "query.")]), name
    (origin, _) = state["origin"]
    assert origin["path"] == str(tmp_path / "before" / "checkpoints" / "step-000000007.pt")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["initial_weights"][0] == origin
    assert load_config(Config, tmp_path / "run" / "config.yaml").model.init == str(tmp_path / "before")
