"""train.py with run_dir at a URL: the same result as on a disk, from whichever machine it is resumed."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from common.stores import lease
from settings import Config, ConfigError, load_config
from tests.training.kill_and_resume import ROOT, TIMING
from tests.training.remote.test_mirror import save
from tests.training.small_run import OVERRIDES, alone
from training.remote import mirror
from training.remote.attach import remote_run
from training.remote.places import run_folder
from training.saving.files import CheckpointError
from training.tracking.metrics import read_metrics

SMALL = [
    *OVERRIDES,
    "data.threads=1",
    "train.threads=1",
    "train.batch_size=4",
    "train.steps=10",
    "train.log_every=2",
    "checkpoint.every_steps=3",
    "dictionary.size=8",
    "pool.size=20",
]
FINAL = "checkpoints/step-000000010.pt"


@pytest.fixture
def start(demo_shards, store, tmp_path):
    """Starts train.py on a machine, which is a folder for local copies."""

    def start(run_dir, *options, machine="one"):
        command = [sys.executable, "train.py", *options, *SMALL, f"data.path={demo_shards}", f"run_dir={run_dir}"]
        env = os.environ | store.environment | {"CMACC_SCRATCH": str(tmp_path / machine)}
        return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)

    return start


def end(process):
    """The exit status and what was said."""
    said = process.communicate(timeout=120)[1]
    return process.returncode, said


def weights(content):
    state = torch.load(io.BytesIO(content), weights_only=True)
    return dict(state["model"])


def losses(path):
    return [{k: v for k, v in line.items() if not TIMING.search(k)} for line in read_metrics(path)]


def test_a_kill_and_another_machine_do_not_change_the_run(start, store, tmp_path):
    status, said = end(start(tmp_path / "disk"))
    assert status == 0, said
    url = f"{store.make_bucket()}/runs/a"
    store.faults.errors, store.faults.latency = 0.05, 0.02
    process = start(url, "--resume", "auto", machine="first")
    limit = time.monotonic() + 100
    while not any(name.endswith(".sha256") for name in store.objects(f"{url}/checkpoints")):
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    shutil.rmtree(tmp_path / "first")
    store.restart()
    # The lease of the killed process expires; a test need not wait for that.
    store.delete(f"{url}/run.lease")
    status, said = end(start(url, "--resume", "auto", machine="last"))
    assert status == 0, said
    assert "copying the run from s3://" in said
    stored = store.objects(url)
    expected, found = weights((tmp_path / "disk" / FINAL).read_bytes()), weights(stored[FINAL])
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    (tmp_path / "metrics.jsonl").write_bytes(stored["metrics.jsonl"])
    assert losses(tmp_path / "metrics.jsonl") == losses(tmp_path / "disk" / "metrics.jsonl")
    assert {"config.yaml", "environment.json", "report.html", f"{FINAL}.sha256"} <= stored.keys()
    assert "run.lease" not in stored
    secret = store.environment["AWS_SECRET_ACCESS_KEY"].encode()
    assert not any(secret in content for content in stored.values())
    assert secret.decode() not in said


def test_a_password_in_the_url_is_refused_and_not_repeated(start):
    status, said = end(start("s3://user:hunter22@bucket/run"))
    assert status == 2
    assert "holds a user name or a password" in said
    assert "hunter22" not in said


@pytest.fixture
def config(store, tmp_path):
    def config(run_dir, *overrides):
        return load_config(Config, overrides=[f"run_dir={run_dir}", f"checkpoint.scratch={tmp_path}/one", *overrides])

    return config


def test_an_outage_until_the_end_is_said_and_mended_by_the_next_start(store, config, monkeypatch):
    monkeypatch.setattr(mirror, "PAUSE_SECONDS", 0.1)
    here = config(f"{store.make_bucket()}/runs/a", "checkpoint.upload_seconds=0.5")
    with remote_run(here, alone(), resume="auto") as remote:
        store.faults.denied = True
        for step in (10, 20):
            save(run_folder(here), step)
        words = rf"cannot copy checkpoints/step-000000020.pt, checkpoints/step-000000010.pt.* to {remote.url} within "
        words += rf"0.5 s \(checkpoint.upload_seconds\); all files are in {run_folder(here)}: run the same command"
        with pytest.raises(CheckpointError, match=words):
            remote.finish()
        store.faults.denied = False
    with remote_run(here, alone(), resume="auto") as remote:
        remote.finish()
    assert "checkpoints/step-000000020.pt.sha256" in store.objects(here.run_dir)


@pytest.mark.parametrize(
    ("run_dir", "words"),
    [
        ("s3://no-such-bucket/run", "s3://no-such-bucket/run.* is in no bucket that exists"),
        ("nosuch://bucket/run", "nosuch:// is no kind of URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence(config, run_dir, words):
    with pytest.raises(ConfigError, match=words), remote_run(config(run_dir), alone(), resume="auto"):
        pass


def test_denied_access_is_one_sentence(store, config):
    here = config(f"{store.make_bucket()}/runs/a")
    store.faults.denied = True
    with pytest.raises(ConfigError, match="is denied"), remote_run(here, alone(), resume="auto"):
        pass


def test_two_runs_at_one_url_are_refused(store, config, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.1)
    here = config(f"{store.make_bucket()}/runs/a")
    elsewhere = config(here.run_dir, f"checkpoint.scratch={tmp_path}/two")
    refused = pytest.raises(ConfigError, match=r"is in use by process \d+ .*: wait until that run has ended")
    with remote_run(here, alone(), resume="auto") as remote:
        with refused, remote_run(elsewhere, alone(), resume="auto"):
            pass
        remote.finish()
    with remote_run(elsewhere, alone(), resume="auto"):
        pass


def test_a_local_folder_needs_no_store(tmp_path):
    assert run_folder(load_config(Config, overrides=[f"run_dir={tmp_path}/run"])) == tmp_path / "run"
    with remote_run(load_config(Config, overrides=[f"run_dir={tmp_path}/run"]), alone(), resume="never") as remote:
        assert remote is None
    assert not (tmp_path / "run").exists()
