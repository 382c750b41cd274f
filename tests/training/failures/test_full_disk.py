"""A run continues on a full disk, which these tests imitate with the kernel's limit on file sizes."""

from __future__ import annotations

import contextlib
import resource
import threading

import torch

from training.checkpoint import CheckpointStore
from training.tracking.metrics import MetricsWriter, read_metrics


@contextlib.contextmanager
def room_for(size):
    """Limits each file that this process writes to `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_does_not_fit_is_reported_and_the_last_good_one_is_kept(tmp_path, caplog):
    store = CheckpointStore(tmp_path, keep=1)
    store.save({"value": torch.zeros(10)}, step=1)
    store.wait()
    with room_for(100_000):
        # torch.save fails in the middle of the second tensor.
        store.save({"one": torch.zeros(20_000), "other": torch.zeros(20_000)}, step=2)
        store.wait()
    assert "could not write the checkpoint" in caplog.text
    assert "training continues" in caplog.text
    assert not list(tmp_path.glob(".*.tmp"))
    assert store.newest().name == "step-000000001.pt"
    store.save({"value": torch.zeros(10)}, step=3)
    store.wait()
    assert store.newest().name == "step-000000003.pt"


def test_metrics_that_do_not_fit_are_dropped_and_later_ones_are_written(tmp_path, caplog, monkeypatch):
    # TensorBoard's writer thread dies of the failed write, which is expected here.
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    before = set(threading.enumerate())
    writer = MetricsWriter(tmp_path, start_step=0)
    (tensorboard_thread,) = set(threading.enumerate()) - before
    writer.write(0, {"loss": 1.0})
    with room_for(40):  # One line (25 bytes) fits, two do not.
        writer.write(1, {"loss": 2.0})
        tensorboard_thread.join(timeout=60)
        writer.write(2, {"loss": 2.0})
    writer.write(3, {"loss": 3.0})
    writer.close()
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 3]
    assert "could not write a line of" in caplog.text
    assert "cannot write TensorBoard's file" in caplog.text
