"""The folder of a run is copied to a store such that a machine without any of it can continue from there."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest

from common.stores import StoreError, location, retries
from settings import ConfigError
from training.remote import mirror as mirrors
from training.remote.fetch import fetch_run
from training.remote.mirror import Mirror
from training.saving.files import CheckpointError, file_name


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(mirrors, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(mirrors, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(retries, "RETRY_SECONDS", 2.0)


@pytest.fixture
def url(store):
    return location(store.make_bucket()) / "runs" / "one"


def save(folder, step, content=None, keep=2):
    """Does what CheckpointStore does, with any content."""
    folder = folder / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    content = content or f"checkpoint {step} ".encode() * 1000
    path = folder / file_name(step)
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    path.with_name(f".{path.name}.tmp").write_bytes(content)
    path.with_name(f".{path.name}.tmp").replace(path)
    for old in sorted(folder.glob("step-*.pt"))[:-keep]:
        old.unlink()
        old.with_name(f"{old.name}.sha256").unlink()


def begun(folder, url, **options):
    fetch_run(url, folder, resume="auto")
    mirror = Mirror(folder, url, **{"keep": 2, "lost": threading.Event(), **options})
    mirror.start()
    return mirror


def ended(mirror, seconds=30.0):
    mirror.finish()
    return mirror.wait(seconds)


def steps(store, url):
    found = store.objects(f"{url}/checkpoints")
    assert {f"{name}.sha256" for name in found if name.endswith(".pt")} == {n for n in found if n.endswith("sha256")}
    return [int(name[5:14]) for name in sorted(found) if name.endswith(".pt")]


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_everything_is_copied_and_old_checkpoints_are_removed(store, url, tmp_path):
    mirror = begun(tmp_path / "a", url, milestone_every=20)
    for step in (10, 20, 30, 40):
        (tmp_path / "a" / "metrics.jsonl").write_text(f'{{"step": {step}}}\n')
        save(tmp_path / "a", step)
        until(lambda step=step: step in mirror._steps)
    (tmp_path / "a" / "tensorboard").mkdir()
    (tmp_path / "a" / "tensorboard" / "events").write_bytes(b"events")
    (tmp_path / "a" / "run.lock").write_text("of this machine")
    assert ended(mirror)
    assert mirror.missing() == []
    assert steps(store, url) == [20, 30, 40]
    stored = store.objects(url)
    assert stored["metrics.jsonl"] == b'{"step": 40}\n'
    assert stored["tensorboard/events"] == b"events"
    assert "run.lock" not in stored


def test_the_metrics_are_there_before_the_checkpoint_is_complete(store, url, tmp_path):
    mirror = begun(tmp_path / "a", url)
    (tmp_path / "a" / "metrics.jsonl").write_text('{"step": 10}\n')
    save(tmp_path / "a", 10)
    assert ended(mirror)
    written = [request.path.rpartition("/")[2] for request in store.requests if request.method == "PUT"]
    assert written.index("metrics.jsonl") < written.index("step-000000010.pt")
    assert written.index("step-000000010.pt") < written.index("step-000000010.pt.sha256")


def test_a_checkpoint_that_is_saved_during_a_copy_is_copied_with_its_metrics(store, url, tmp_path, monkeypatch):
    metrics, copy_checkpoint = tmp_path / "metrics.jsonl", Mirror._copy_checkpoint

    def and_meanwhile(self, step):
        if step == 10:
            metrics.write_text("step 10\nstep 20\n")
            save(tmp_path, 20)
        copy_checkpoint(self, step)
        assert store.objects(url)["metrics.jsonl"].decode().endswith(f"step {step}\n")

    monkeypatch.setattr(Mirror, "_copy_checkpoint", and_meanwhile)
    metrics.write_text("step 10\n")
    save(tmp_path, 10)
    Mirror(tmp_path, url, keep=2, lost=threading.Event()).copy_now()
    assert steps(store, url) == [10, 20]


def test_another_machine_continues_from_the_store(store, url, tmp_path):
    mirror = begun(tmp_path / "a", url)
    (tmp_path / "a" / "config.yaml").write_text("seed: 1\n")
    for step in (10, 20):
        save(tmp_path / "a", step)
    assert ended(mirror)
    mirror = begun(tmp_path / "b", url)
    assert (tmp_path / "b" / "config.yaml").read_text() == "seed: 1\n"
    assert [path.name for path in (tmp_path / "b" / "checkpoints").glob("*.pt")] == ["step-000000020.pt"]
    for step in (30, 40):
        save(tmp_path / "b", step)
        until(lambda step=step: step in mirror._steps)
    assert ended(mirror)
    assert steps(store, url) == [30, 40]
    # The first machine takes what is newer, and does not copy its old checkpoints back.
    assert ended(begun(tmp_path / "a", url))
    assert (tmp_path / "a" / "checkpoints" / "step-000000040.pt").exists()
    assert steps(store, url) == [30, 40]


def test_a_kill_while_the_run_is_copied_here_loses_no_metrics(store, url, tmp_path):
    mirror = begun(tmp_path / "a", url)
    (tmp_path / "a" / "metrics.jsonl").write_text('{"step": 10}\n')
    save(tmp_path / "a", 10)
    assert ended(mirror)
    store.faults.denied, store.faults.only = True, lambda request: "metrics" in request.path
    with pytest.raises(StoreError):
        fetch_run(url, tmp_path / "b", resume="auto")
    store.faults.denied = False
    fetch_run(url, tmp_path / "b", resume="auto")
    assert (tmp_path / "b" / "metrics.jsonl").read_text() == '{"step": 10}\n'


def test_a_damaged_or_incomplete_checkpoint_in_the_store_is_passed_over(store, url, tmp_path, caplog):
    mirror = begun(tmp_path / "a", url)
    for step in (10, 20):
        save(tmp_path / "a", step)
    assert ended(mirror)
    store.put(f"{url}/checkpoints/step-000000030.pt", b"only half")
    store.put(f"{url}/checkpoints/step-000000020.pt", b"other bytes")
    fetch_run(url, tmp_path / "b", resume="auto")
    assert [path.name for path in (tmp_path / "b" / "checkpoints").glob("*.pt")] == ["step-000000010.pt"]
    assert f"{url}/checkpoints/step-000000020.pt is damaged" in caplog.text
    store.put(f"{url}/checkpoints/step-000000010.pt", b"other bytes")
    with pytest.raises(CheckpointError, match=rf"none of the checkpoints in {url} can be used"):
        fetch_run(url, tmp_path / "c", resume="auto")


def test_what_could_not_be_copied_is_copied_by_the_next_start(store, url, tmp_path):
    mirror = begun(tmp_path / "a", url)
    save(tmp_path / "a", 10)
    until(lambda: 10 in mirror._steps)
    store.faults.denied = True
    save(tmp_path / "a", 20)
    assert not ended(mirror, seconds=0.3)
    assert mirror.missing() == ["checkpoints/step-000000020.pt"]
    mirror._lost.set()
    assert mirror.wait(30)
    store.faults.denied = False
    assert ended(begun(tmp_path / "a", url))
    assert steps(store, url) == [10, 20]


def test_errors_stalls_and_an_outage_delay_the_copies_only(store, url, tmp_path, caplog):
    store.faults.errors, store.faults.latency = 0.2, 0.005
    mirror = begun(tmp_path / "a", url)
    save(tmp_path / "a", 10)
    until(lambda: 10 in mirror._steps)
    store.stop()
    save(tmp_path / "a", 20)
    until(lambda: "cannot copy the run" in caplog.text)
    assert str(tmp_path / "a") in caplog.text
    save(tmp_path / "a", 30)
    store.start()
    until(lambda: 30 in mirror._steps)
    assert ended(mirror)
    assert steps(store, url) == [20, 30]
    assert caplog.text.count("cannot copy the run") == 1


def test_an_outage_of_minutes_that_outlives_several_checkpoints(store, url, tmp_path):
    mirror = begun(tmp_path / "a", url)
    store.faults.denied = True
    for step in (10, 20, 30, 40, 50):
        save(tmp_path / "a", step)
        time.sleep(0.05)
    store.faults.denied = False
    assert ended(mirror)
    assert steps(store, url) == [40, 50]


def test_small_files_are_not_taken_for_copied_if_the_bucket_is_gone(url, tmp_path):
    mirror = Mirror(tmp_path, url, keep=2, lost=threading.Event())
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    mirror.url = location("s3://no-such-bucket/run")
    with pytest.raises(StoreError, match="is in no bucket that exists"):
        mirror.copy_now()
    assert mirror.missing() == ["metrics.jsonl"]


def test_a_new_run_is_refused_where_there_is_one(store, url, tmp_path):
    store.put(f"{url}/run_id", b"some")
    store.put(f"{url}/wandb_run_id", b"of a run that did not start")
    fetch_run(url, tmp_path / "a", resume="never")
    store.put(f"{url}/config.yaml", b"seed: 1\n")
    with pytest.raises(ConfigError, match=rf"{url} already holds a run \(up to config.yaml\): resume with --resume"):
        fetch_run(url, tmp_path / "b", resume="never")


def test_a_copy_of_an_earlier_run_at_the_same_url_is_kept_apart(store, url, tmp_path, caplog):
    mirror = begun(tmp_path / "a", url)
    save(tmp_path / "a", 90)
    assert ended(mirror)
    other = location(store.make_bucket())
    fetch_run(other, tmp_path / "a", resume="auto")
    assert not list((tmp_path / "a").glob("checkpoints/*"))
    assert (tmp_path / "a.earlier-1" / "checkpoints" / "step-000000090.pt").exists()
    assert "a.earlier-1" in caplog.text


def test_resuming_from_an_earlier_step_supersedes_the_later_ones(store, url, tmp_path):
    mirror = begun(tmp_path / "a", url, keep=3)
    for step in (10, 20, 30):
        save(tmp_path / "a", step, keep=3)
    assert ended(mirror)
    fetch_run(url, tmp_path / "b", resume=f"{tmp_path}/a/checkpoints/step-000000010.pt")
    assert [path.name for path in (tmp_path / "b" / "checkpoints").glob("*.pt")] == ["step-000000010.pt"]
    stored = store.objects(f"{url}/checkpoints")
    assert {"step-000000020.pt", "step-000000020.pt.sha256.superseded"} <= stored.keys()
    assert "step-000000020.pt.sha256" not in stored


def test_nothing_is_written_after_the_lease_was_lost(store, url, tmp_path):
    lost = threading.Event()
    mirror = begun(tmp_path / "a", url, lost=lost)
    lost.set()
    before = store.count("PUT")
    save(tmp_path / "a", 10)
    assert ended(mirror)
    assert store.count("PUT") == before
