"""SRC and OUT at URLs give the same bytes as folders of this machine, whatever fails or kills a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.labels import attach_anywhere
from pipeline.prepare import anywhere
from pipeline.prepare.anywhere import prepare_anywhere
from pipeline.prepare.records import PrepareError
from pipeline.shards.manifest import Manifest
from settings import PrepareConfig, load_config

ROOT = Path(__file__).resolve().parents[4]
SETTINGS = ["storage.short_side=32", "storage.codec=jpeg", "storage.fps=5", "shard_samples=2", "min_seconds=0.5"]


def prepared(src, out, **options):
    config = load_config(PrepareConfig, overrides=SETTINGS)
    defaults = {"work": None, "part": (0, 1), "workers": 1}
    return prepare_anywhere(src, out, config=config, **(defaults | options))


def on_disk(folder):
    """All files of OUT but those that name SRC."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return without_sources(found)


def without_sources(files):
    assert json.loads(files["sources.json"])["sources"][0]["paths"]
    return {
        # Rejected files are noted in the order in which their workers end.
        name: sorted(content.splitlines()) if name.endswith(".rejected") else content
        for name, content in files.items()
        if name != "sources.json"
    }


def test_a_store_gives_the_bytes_of_a_disk(store, src, tmp_path):
    url, folder = src
    prepared(folder, tmp_path / "out")
    store.faults.errors, store.faults.latency = 0.05, 0.001
    summary = prepared(url, url.parent / "out")
    expected, found = on_disk(tmp_path / "out"), without_sources(store.objects(url.parent / "out"))
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []
    assert summary.totals.samples == 7
    assert summary.totals.shards == 4
    assert summary.rejected == {"not a media file": 1, "empty file": 1}
    assert summary.skipped == {".txt": 1}
    # Nothing large stays here.
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.suffix in (".tar", ".mp4")]


def test_parts_on_several_machines_share_no_disk(store, src, tmp_path, monkeypatch):
    url, folder = src
    for part in range(2):
        # On one side only SRC is in the store, on the other only OUT.
        prepared(url, tmp_path / "out", part=(part, 2))
        monkeypatch.setenv("CMACC_SCRATCH", str(tmp_path / f"machine {part}"))
        prepared(folder, url.parent / "out", part=(part, 2))
    assert without_sources(store.objects(url.parent / "out")) == on_disk(tmp_path / "out")


def test_new_replaced_and_removed_files_are_followed(store, src, tmp_path, monkeypatch):
    url, folder = src
    out = url.parent / "out"
    prepared(url, out)
    content = (folder / "dog/0.mp4").read_bytes()
    store.put(url / "dog/9.mp4", content)
    store.delete(url / "dog/2.mp4")
    monkeypatch.setenv("CMACC_SCRATCH", str(tmp_path / "another machine"))
    summary = prepared(url, out)
    assert (summary.prepared, summary.already_prepared) == (1, 6)
    assert summary.gone == ["dog/2.mp4"]
    summary = prepared(url, out, sync=True)
    assert summary.removed == 1
    store_files = store.objects(out)
    for name, content in store_files.items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    manifest = Manifest.open(tmp_path / "copy")
    names = sorted(manifest.source(number) for number in range(len(manifest)))
    assert names == ["Vögel & Co/1.mp4", "Vögel & Co/3.mp4", "Vögel & Co/5.mp4"] + [
        f"dog/{number}.mp4" for number in (0, 4, 6, 9)
    ]
    assert (
        len([name for name in store_files if name.startswith("manifest/") and name.endswith("source_bytes.npy")]) == 1
    )


def test_the_manifest_comes_last(store, src):
    url = src[0]
    prepared(url, url.parent / "out")
    written = [request.path.partition("/out/")[2] for request in store.requests if request.method == "PUT"]
    order = [written.index(name) for name in ("shard-000000.tar", "index/shard-000000.sha256")]
    order += [written.index("index/shard-000000.rows"), written.index("manifest/meta.json")]
    assert order == sorted(order)
    assert all(name.startswith(".staging") for name in written[written.index("manifest/meta.json") + 1 :])


def test_labels_are_attached_in_a_store(store, src, tmp_path):
    url, folder = src
    out, rows = url.parent / "out", "path,kind\ndog/0.mp4,one\ndog/2.mp4,two\n"
    (tmp_path / "labels.csv").write_text(rows)
    for place in (tmp_path / "out", out):
        prepared(folder, place)
        attach_anywhere(place, tmp_path / "labels.csv", may_miss=True)
    found = without_sources(store.objects(out))
    assert found == on_disk(tmp_path / "out")
    assert b"two" in found["labels.jsonl"]


def command(src, out, work):
    return [sys.executable, "-m", "pipeline.prepare", str(src), str(out), *SETTINGS, "--workers=1", f"--work={work}"]


def test_kills_and_lost_machines_change_nothing(store, src, tmp_path):
    url, folder = src
    out = url.parent / "out"
    prepared(folder, tmp_path / "out")
    for number, moment in enumerate(("sources.json", "shard-000000.tar", "shard-000002.tar", "manifest/")):
        work = tmp_path / f"work {number // 2}"  # every second time another machine
        process = subprocess.Popen(
            command(url, out, work),
            cwd=ROOT,
            env=os.environ | store.environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        limit = time.monotonic() + 60
        while not any(name.startswith(moment) for name in store.objects(out)) and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        store.delete(out / ".staging/part.lease")  # which would expire after a minute
        store.restart()
    prepared(url, out, work=tmp_path / "work 1")
    assert without_sources(store.objects(out)) == on_disk(tmp_path / "out")


def test_one_process_works_on_a_part(store, src, tmp_path, monkeypatch):
    url = src[0]
    from common.stores import lease

    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.1)
    with anywhere.RemoteOut(url.parent / "out", tmp_path / "work", part=(0, 1)):
        with pytest.raises(PrepareError, match="is in use by another process"):
            prepared(url, url.parent / "out", work=tmp_path / "work")
        with pytest.raises(PrepareError, match=r"is in use by process \d+"):
            prepared(url, url.parent / "out", work=tmp_path / "elsewhere")


def test_what_cannot_be_used_is_one_sentence(store, src, tmp_path):
    url = src[0]
    with pytest.raises(PrepareError, match=r"SRC must be a folder of videos, but s3://.*/nothing does not exist"):
        prepared(url.parent / "nothing", tmp_path / "out")
    with pytest.raises(PrepareError, match="must not be SRC"):
        prepared(url, url)
    with pytest.raises(PrepareError, match="--work is for an OUT that is a URL"):
        prepared(url, tmp_path / "out", work=tmp_path / "work")
    store.faults.denied = True
    with pytest.raises(PrepareError, match="is denied"):
        prepared(url, url.parent / "out")


def test_a_shard_that_another_machine_has_written_meanwhile_stays(store, src, tmp_path):
    url, folder = src
    out = url.parent / "out"
    prepared(folder, out, work=tmp_path / "work")
    before = store.objects(out)
    # What a machine had packed, but not copied, before it was lost for a while.
    (tmp_path / "work/part/shard-000000.tar").write_bytes(b"of other samples")
    (tmp_path / "work/part/index/shard-000000.rows").write_bytes(b"")
    prepared(folder, out, work=tmp_path / "work")
    assert store.objects(out) == before


def test_an_index_that_vanishes_from_the_store_and_returns_is_read_again(src, tmp_path):
    index = src[0].parent / "out/index/shard-000009.rows"
    with anywhere.RemoteOut(index.parent.parent, tmp_path / "a", part=(0, 1)) as remote:
        for _ in range(2):
            index.write_bytes(b"rows")
            remote.pull()
            assert (remote.folder / "index/shard-000009.rows").read_bytes() == b"rows"
            index.unlink()
            remote.pull()
            assert not (remote.folder / "index/shard-000009.rows").exists()
        index.write_bytes(b"rows")
        remote.push()
        assert index.read_bytes() == b"rows"


def test_of_two_that_begin_with_other_settings_one_is_refused(store, src, tmp_path):
    out = src[0].parent / "out"
    first, second = (anywhere.RemoteOut(out, tmp_path / name, part=(i, 2)) for i, name in enumerate("ab"))
    with first, second:
        for number, remote in enumerate((first, second)):
            remote.pull()
            (remote.folder / "recipe.json").write_text(str(number))
        first.push()
        with pytest.raises(PrepareError, match=r"another machine has just begun to prepare .* with other settings"):
            second.push()
    assert store.objects(out)["recipe.json"] == b"0"


def test_a_file_that_may_not_be_read_is_rejected_and_tried_again(store, src, tmp_path):
    url = src[0]
    store.faults.denied, store.faults.only = True, lambda request: request.path.endswith("/dog/4.mp4")
    assert prepared(url, tmp_path / "out").rejected["cannot be read"] == 1
    store.faults.denied = False
    assert prepared(url, tmp_path / "out").prepared == 1


def test_a_store_that_does_not_answer_ends_the_run_not_the_files(store, src, tmp_path, monkeypatch):
    url, folder = src
    from common.stores import retries

    out = url.parent / "out"
    prepared(url, out)
    monkeypatch.setattr(retries, "RETRY_SECONDS", 1.0)
    store.put(url / "dog/9.mp4", (folder / "dog/0.mp4").read_bytes())
    store.faults.errors, store.faults.only = 1.0, lambda request: request.method == "PUT" and ".tar" in request.path
    with pytest.raises(PrepareError, match=r"cannot write s3://.*tar"):
        prepared(url, out)
    store.faults.errors = 0.0
    assert prepared(url, out).totals.samples == 8
