"""Checkpoints are written atomically, verified before use, and hold only tensors and plain values."""

from __future__ import annotations

import errno
import pickle

import pytest
import torch

from settings import ConfigError, to_dict
from tests.training.small_run import new_learner, small_config
from training import checkpoint
from training.checkpoint import CheckpointError, CheckpointStore, find, load_model, read, require_same_config
from training.saving.files import sha256


def saved(folder, steps, **kwargs):
    store = CheckpointStore(folder, keep=kwargs.pop("keep", 10), **kwargs)
    for step in steps:
        store.save({"value": torch.full((3,), float(step))}, step=step)
    store.wait()
    return store


def test_round_trip(tmp_path):
    store = saved(tmp_path, [5])
    state = read(store.newest())
    assert state["step"] == 5
    assert torch.equal(state["value"], torch.full((3,), 5.0))


def test_keeps_the_newest_and_the_milestones(tmp_path):
    saved(tmp_path, [10, 20, 30, 40, 50], keep=2, milestone_every=20)
    assert [path.name for path in sorted(tmp_path.glob("*.pt"))] == [f"step-{step:09d}.pt" for step in (20, 40, 50)]
    assert len(list(tmp_path.glob("*.sha256"))) == 3


def test_state_is_copied_when_saved_not_when_written(tmp_path):
    store, value = CheckpointStore(tmp_path, keep=1), torch.zeros(3)
    store.save({"value": value}, step=1)
    value.fill_(7)
    store.wait()
    assert torch.equal(read(store.newest())["value"], torch.zeros(3))


@pytest.mark.parametrize("damage", ["truncate", "flip", "no checksum"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(tmp_path, caplog, damage):
    store = saved(tmp_path, [1, 2])
    newest = store.newest()
    if damage == "truncate":
        newest.write_bytes(newest.read_bytes()[:-10])
    elif damage == "flip":
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    else:
        newest.with_name(newest.name + ".sha256").unlink()
    assert store.newest().name == "step-000000001.pt"
    assert newest.name in caplog.text
    with pytest.raises(CheckpointError, match=newest.name):
        read(newest)


def test_an_interrupted_write_leaves_nothing_that_is_read(tmp_path):
    store = saved(tmp_path, [1])
    (tmp_path / ".step-000000002.pt.123.tmp").write_bytes(b"half a checkpoint")
    assert store.newest().name == "step-000000001.pt"


def test_a_full_disk_is_reported_and_the_last_good_checkpoint_stays(tmp_path, caplog, monkeypatch):
    store = saved(tmp_path, [1])

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    store.save({"value": torch.zeros(1)}, step=2)
    store.wait()
    assert "No space left" in caplog.text
    assert store.newest().name == "step-000000001.pt"
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_malicious_pickle_executes_nothing(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "step-000000001.pt"
    torch.save({"format": 1, "step": 1, "attack": Attack()}, path, pickle_module=pickle)
    with open(path, "rb") as file:
        digest = sha256(file)
    (tmp_path / "step-000000001.pt.sha256").write_text(digest)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(path)
    assert not (tmp_path / "owned").exists()


def test_an_unknown_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    store = saved(tmp_path, [1])
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 99"):
        read(store.newest())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([1], "has format None"),
        ({"format": [1]}, r"has format \[1\]"),
        ({"format": 1}, "must be a mapping, not None"),
        ({"format": 1, "config": {"seed": "x"}}, "seed must be a whole number"),
        ({"format": 1, "config": {"model": {"video": "viny"}}}, "step-000000001.pt: model.video='viny' is not known"),
        ({"format": 1, "config": {}}, "holds no model that fits its configuration"),
        ({"format": 1, "config": {}, "model": {"a": torch.zeros(1)}}, "holds no model that fits its configuration"),
    ],
)
def test_a_checkpoint_of_another_program_is_refused_in_one_line(tmp_path, state, message):
    path = tmp_path / "step-000000001.pt"
    torch.save(state, path)
    with open(path, "rb") as file:
        (tmp_path / "step-000000001.pt.sha256").write_text(sha256(file))
    with pytest.raises((CheckpointError, ConfigError), match=message) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_model_and_config_can_be_loaded(tmp_path, config):
    learner = new_learner(config)
    store = CheckpointStore(tmp_path / "checkpoints", keep=1)
    store.save({"config": to_dict(config), "data": "data", **learner.state_dict()}, step=3)
    store.wait()
    loaded_config, model = load_model(tmp_path)
    assert loaded_config == config
    for name, value in model.state_dict().items():
        assert torch.equal(value, learner.model.state_dict()[name]), name


def test_a_folder_without_checkpoint_is_explained(tmp_path):
    with pytest.raises(CheckpointError, match="give a run folder"):
        find(tmp_path / "nothing")


def test_changed_settings_are_listed_key_by_key(tmp_path, config):
    changed = small_config("optim.lr=0.5", "loss.temperature=0.3", "train.log_every=3", "run_dir=elsewhere")
    with pytest.raises(ConfigError) as caught:
        require_same_config(to_dict(config), changed, tmp_path)
    assert "optim.lr: 0.01 in the checkpoint, 0.5 now" in str(caught.value)
    assert "loss.temperature" in str(caught.value)
    assert "log_every" not in str(caught.value)
    require_same_config(to_dict(config), small_config("run_dir=elsewhere", "data.threads=3"), tmp_path)


def test_a_checkpoint_from_before_a_setting_existed_was_made_with_its_default(tmp_path):
    saved = to_dict(small_config())
    del saved["clip"]["per_sample"], saved["audio_augment"]
    require_same_config(saved, small_config(), tmp_path)
    with pytest.raises(ConfigError, match=r"clip.per_sample: 1 in the checkpoint, 2 now"):
        require_same_config(saved, small_config("clip.per_sample=2"), tmp_path)
    with pytest.raises(ConfigError, match=r"audio_augment.mix: 0.0 in the checkpoint, 0.3 now"):
        require_same_config(saved, small_config("audio_augment.mix=0.3"), tmp_path)
