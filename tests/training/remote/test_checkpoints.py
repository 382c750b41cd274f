"""Checkpoints that a URL names, and results that are written beside them."""

from __future__ import annotations

import hashlib

import pytest
import torch

from common.stores import location
from common.stores.scratch import scratch_folder, written_to
from settings import Config, ConfigError, load_config
from tests.training.small_run import alone
from training.distributed import World
from training.remote import attach
from training.remote.attach import remote_run
from training.remote.checkpoints import copying_results, local_checkpoint, local_resume
from training.remote.places import run_folder
from training.saving.files import CheckpointError


@pytest.fixture
def run(store, tmp_path, monkeypatch):
    """The URL of a run with two checkpoints, which are no real ones."""
    monkeypatch.setenv("CMACC_SCRATCH", str(tmp_path / "scratch"))
    url = location(store.make_bucket()) / "runs" / "first"
    for step in (10, 20):
        content, name = b"step %d" % step, f"step-{step:09d}.pt"
        store.put(url / "checkpoints" / name, content)
        store.put(url / "checkpoints" / f"{name}.sha256", f"{hashlib.sha256(content).hexdigest()}  {name}".encode())
    store.put(url / "config.yaml", b"seed: 3\n")
    store.put(url / "evaluation-old.json", b"{}")
    return url


def test_a_run_folder_gives_its_newest_and_a_file_itself(run):
    newest = local_checkpoint(run)
    assert newest.read_bytes() == b"step 20"
    assert newest.parent.parent.name == "first"
    assert (newest.parent.parent / "config.yaml").read_text() == "seed: 3\n"
    assert local_checkpoint(run / "checkpoints" / "step-000000010.pt").read_bytes() == b"step 10"
    assert local_resume(str(run), alone()) == str(newest)
    assert local_resume("auto", alone()) == "auto"


def test_it_is_copied_once(store, run):
    local_checkpoint(run)
    before = store.count("GET", path="step-000000020.pt")
    local_checkpoint(run)
    assert store.count("GET", path="step-000000020.pt") == before + 1  # of its checksum


def test_without_a_checkpoint_there_is_one_sentence(run):
    with pytest.raises(CheckpointError, match=rf"no checkpoint at {run.parent}: give the URL of a run folder"):
        local_checkpoint(run.parent)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        local_checkpoint(run / "checkpoints" / "step-000000030.pt")
    with pytest.raises(ConfigError, match="holds a user name or a password"):
        local_resume("s3://me:hunter22@bucket/run", alone())


def test_results_are_copied_to_the_run(store, run):
    with copying_results(run) as checkpoint:
        (checkpoint.parent.parent / "evaluation-new.json").write_text("[1]")
    stored = store.objects(run)
    assert stored["evaluation-new.json"] == b"[1]"
    assert store.count("PUT", path="evaluation-old") == 0


def test_files_for_a_url_are_written_here_first(store, run, tmp_path):
    with written_to(run.parent / "export") as folder:
        for name in ("b.bin", "a.json"):
            (folder / name).write_text(name)
        (folder / ".hidden").write_text("")
    assert store.objects(run.parent / "export") == {"a.json": b"a.json", "b.bin": b"b.bin"}
    with written_to(tmp_path / "here") as folder:
        assert folder == tmp_path / "here"


def config(run, *overrides):
    return load_config(Config, overrides=[f"run_dir={run}", *overrides])


def test_each_machine_gets_the_checkpoint(run, tmp_path):
    here = config(run, f"checkpoint.scratch={tmp_path}/second")
    world = World(rank=8, size=16, local_rank=0, local_size=8, device=torch.device("cpu"))
    attach._share_checkpoint(here, run, world)
    assert [path.name for path in run_folder(here).glob("checkpoints/*.pt")] == ["step-000000020.pt"]


@pytest.mark.parametrize(
    ("url", "words"), [("hf://datasets/me/runs", "commit of its own"), ("https://host/runs", "to a web server")]
)
def test_places_where_files_cannot_change_are_refused(store, tmp_path, url, words):
    here = config(url, f"checkpoint.scratch={tmp_path}")
    refused = pytest.raises(ConfigError, match=f"{words}.*; give a folder on this machine or an s3:// URL")
    with refused, remote_run(here, alone(), resume="auto"):
        pass


def test_a_full_disk_for_local_copies_is_one_sentence(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.stores.paths.RemotePath.download", full)
    refused = pytest.raises(ConfigError, match=r"cannot write the local copy .*No space left.*checkpoint\.scratch")
    with refused, remote_run(config(run), alone(), resume="auto"):
        pass
    assert not (run / "run.lease").exists()


def test_one_place_for_each_url(tmp_path, monkeypatch):
    monkeypatch.setenv("CMACC_SCRATCH", str(tmp_path))
    first, second = (scratch_folder(location(f"s3://{name}/run"), "runs") for name in "ab")
    assert first != second
    assert first == scratch_folder(location("s3://a/run/"), "runs")
    assert first.is_relative_to(tmp_path)
