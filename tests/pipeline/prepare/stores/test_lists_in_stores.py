"""Published lists and windows of files in a store, prepared into a store, give the bytes of folders."""

from __future__ import annotations

import json

import pytest

from common.stores import location
from pipeline.prepare.anywhere import prepare_anywhere
from pipeline.prepare.segments.options import Annotations
from pipeline.shards.manifest import Manifest
from settings import PrepareConfig, load_config
from tests.pipeline.prepare.stores.test_stores import SETTINGS, on_disk, without_sources

LIST = "path,start,end,label\ndog/0.mp4,0,0.6,a\ndog/0.mp4,0.4,1,b\n3,0.2,1,c\ndog/broken.mp4,0,1,d\nabsent,0,1,e\n"
NAMES = ["Vögel & Co/3.mp4#t=0.2,1", "dog/0.mp4#t=0,0.6", "dog/0.mp4#t=0.4,1"]


def prepare(src, out, *, settings=(), **options):
    config = load_config(PrepareConfig, overrides=[*SETTINGS, *settings])
    return prepare_anywhere(src, out, config=config, **({"work": None, "part": (0, 1), "workers": 1} | options))


def names(out, tmp_path):
    manifest = Manifest.open(out, cache_dir=str(tmp_path / "cache"))
    return [manifest.source(number) for number in range(len(manifest))]


def test_segments_of_a_list_are_those_of_a_folder(store, src, tmp_path):
    url, folder = src
    out = url.parent / "out"
    (tmp_path / "list.csv").write_text(LIST)
    lists = {"annotations": Annotations(paths=(tmp_path / "list.csv",))}
    prepare(folder, tmp_path / "out", **lists)
    store.faults.errors = 0.05
    summary = prepare(url, out, **lists)
    assert summary.prepared == 3
    assert names(out, tmp_path) == NAMES
    found = without_sources(store.objects(out))
    assert found == on_disk(tmp_path / "out")
    assert json.loads(found["coverage.json"])[0]["cut"] == 3
    # Another row, on another machine: only its file is copied and decoded.
    store.requests.clear()
    (tmp_path / "list.csv").write_text(LIST + "dog/2.mp4,0,0.6,f\n")
    assert prepare(url, out, work=tmp_path / "another machine", **lists).prepared == 1
    assert store.count("GET", path="/dog/2.mp4")
    assert not store.count("GET", path="/dog/0.mp4")
    assert names(out, tmp_path) == [*NAMES, "dog/2.mp4#t=0,0.6"]


@pytest.mark.parametrize("parts", [1, 2])
def test_windows_are_those_of_a_folder(store, src, tmp_path, parts):
    url, folder = src
    out = url.parent / "out"
    for part in range(parts):
        prepare(folder, tmp_path / "out", settings=["windows=0.6"], part=(part, parts))
        prepare(url, out, settings=["windows=0.6"], part=(part, parts), work=tmp_path / f"machine {part}")
    assert without_sources(store.objects(out)) == on_disk(tmp_path / "out")
    found = names(location(out), tmp_path)
    assert len(found) == 14
    assert {"dog/0.mp4#t=0,0.6", "dog/0.mp4#t=0.6,1.2"} < set(found)
