"""Damaged, foreign and diverged checkpoints never replace good ones; a run folder has one owner."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import zipfile

import pytest
import torch

from settings import ConfigError
from tests.training.small_run import alone
from training import checkpoint
from training.checkpoint import CheckpointError, CheckpointStore, find, load_model
from training.resume import claim, find_resume_checkpoint
from training.saving.contents import peek
from training.saving.files import checksum_path, sha256


def state(value=0.0, in_a_row=0):
    return {"model": {"weight": torch.full((3,), value)}, "guard": {"in_a_row": torch.tensor(in_a_row)}}


def store_with(folder, steps, keep=10):
    store = CheckpointStore(folder, keep=keep)
    for step in steps:
        store.save(state(step), step=step)
    store.wait()
    return store


def damage(path):
    path.write_bytes(path.read_bytes()[:-7])


def names(folder):
    return [path.name for path in sorted(folder.glob("step-*")) if not path.name.endswith(".sha256")]


def resume_from(folder, resume="auto"):
    return find_resume_checkpoint(resume=resume, store=CheckpointStore(folder, keep=2), world=alone())


def test_a_damaged_checkpoint_is_set_aside_and_does_not_count_among_those_to_keep(tmp_path, caplog):
    store = store_with(tmp_path, [1, 2, 3], keep=2)
    damage(tmp_path / "step-000000003.pt")
    store.save(state(), step=4)
    store.wait()
    assert names(tmp_path) == ["step-000000002.pt", "step-000000003.pt.damaged", "step-000000004.pt"]
    assert "step-000000003.pt is damaged" in caplog.text
    assert checksum_path(tmp_path / "step-000000003.pt.damaged").is_file()


def test_names_that_are_no_steps_are_ignored(tmp_path):
    store = store_with(tmp_path, [7], keep=1)
    foreign = ["step-abc.pt", "step--00000009.pt", "step-9.pt", f"step-{10**30}.pt", "step-000000009.pt~", "latest"]
    for name in [*foreign, ".step-000000009.pt.1.tmp"]:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "step-000000099.pt").write_bytes((tmp_path / "step-000000007.pt").read_bytes())
    checksum_path(tmp_path / "step-000000099.pt").write_text(checksum_path(tmp_path / "step-000000007.pt").read_text())
    assert resume_from(tmp_path).name == "step-000000007.pt"
    store.save(state(), step=8)
    store.wait()
    assert {"step-000000008.pt", "step-000000099.pt", *foreign} <= {path.name for path in tmp_path.iterdir()}


def test_auto_stops_if_no_checkpoint_is_whole_also_the_second_time(tmp_path):
    store_with(tmp_path, [1, 2])
    damage(tmp_path / "step-000000001.pt")
    damage(tmp_path / "step-000000002.pt")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"none of the checkpoints in .* can be used") as caught:
            resume_from(tmp_path)
        assert "step-000000001.pt" in str(caught.value)
        assert "step-000000002.pt" in str(caught.value)


def test_a_diverged_run_keeps_and_resumes_from_its_last_finite_checkpoint(tmp_path, caplog):
    store = store_with(tmp_path, [1], keep=1)
    store.save(state(float("nan")), step=2)
    store.wait()
    assert "the weights or the optimiser state are not finite" in caplog.text
    store.save(state(in_a_row=3), step=3, prune=False)
    store.wait()
    assert names(tmp_path) == ["step-000000001.pt", "step-000000003.pt"]
    assert resume_from(tmp_path).name == "step-000000001.pt"


def test_a_full_disk_at_the_end_names_the_newest_usable_checkpoint(tmp_path, monkeypatch):
    store = store_with(tmp_path, [1])
    monkeypatch.setattr(checkpoint, "RETRY_SECONDS", (0.0, 0.0))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    store.save(state(), step=2)
    with pytest.raises(CheckpointError, match=r"step-000000002.pt could not be written \(.*: 3\): .*No space") as e:
        store.finish()
    assert "the newest usable checkpoint is" in str(e.value)
    assert "step-000000001.pt" in str(e.value)
    monkeypatch.undo()
    store.save(state(), step=3)
    store.finish()
    assert not store.wants_retry


def test_an_explicit_earlier_checkpoint_sets_the_later_ones_aside(tmp_path):
    store_with(tmp_path, [1, 2, 3])
    assert resume_from(tmp_path, str(tmp_path / "step-000000001.pt")).name == "step-000000001.pt"
    assert names(tmp_path) == ["step-000000001.pt", "step-000000002.pt.superseded", "step-000000003.pt.superseded"]


def test_evaluation_chooses_a_whole_checkpoint_and_renames_nothing(tmp_path):
    store_with(tmp_path / "checkpoints", [1, 2])
    damage(tmp_path / "checkpoints" / "step-000000002.pt")
    assert find(tmp_path).name == "step-000000001.pt"
    assert "step-000000002.pt" in names(tmp_path / "checkpoints")


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", "checkpoints/step-000000001.pt.damaged"])
def test_without_resume_a_folder_with_anything_of_a_run_is_refused(tmp_path, name):
    (tmp_path / "checkpoints").mkdir()
    with claim(tmp_path, alone(), resume="never"):
        pass
    (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match="already holds a run"), claim(tmp_path, alone(), resume="never"):
        pass


def test_a_run_folder_has_one_owner_who_is_named_and_whose_death_frees_it(tmp_path, monkeypatch):
    script = (
        "import fcntl, os, sys, time; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(f, 2); "
        "os.write(f, f'process {os.getpid()} on here'.encode()); print('held', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr("training.saving.lock._PATIENCE", 0.0)
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run.lock")], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        used = f"in use by process {other.pid} on here"
        with pytest.raises(ConfigError, match=used), claim(tmp_path, alone(), resume="auto"):
            pass
    finally:
        other.kill()
        other.communicate()
    with claim(tmp_path, alone(), resume="auto"):
        assert f"process {os.getpid()} on" in (tmp_path / "run.lock").read_text()


def test_without_locks_on_the_file_system_a_warning_says_so(tmp_path, monkeypatch, caplog):
    def unsupported(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with claim(tmp_path, alone(), resume="auto"):
        assert "cannot be locked (No locks available)" in caplog.text


def test_a_checkpoint_that_claims_more_than_its_size_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "step-000000001.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(CheckpointError, match="its parts claim 10000000 bytes"):
        peek(path)


def test_a_checkpoint_of_an_absurd_model_is_refused_before_it_is_allocated(tmp_path):
    path = tmp_path / "step-000000001.pt"
    config = {"model": {"dim": 10**12, "video": "tiny", "audio": "tiny"}}
    torch.save({"format": 1, "config": config, "model": {"a": torch.zeros(1)}}, path)
    with open(path, "rb") as file:
        checksum_path(path).write_text(sha256(file))
    with pytest.raises(CheckpointError, match="holds no model that fits its configuration"):
        load_model(path)
