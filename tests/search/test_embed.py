"""`search.embed` gives the vectors of evaluation and the same bytes after any interruption; it lists what it skips."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from common.finite import NotFiniteError
from evaluation.features import extract, unit_rows
from pipeline.demo.corpus import make_demo
from pipeline.load.dali_loader import DaliLoader
from pipeline.shards.manifest import Manifest
from search.embed import run as embed_run
from search.embed.__main__ import _place
from search.embed.run import Place, embed
from search.embed.store import EmbedError, Store
from search.embeddings import RowBatch, open_embeddings
from search.encoders import load_encoders
from settings import ConfigError
from settings.search import EmbedConfig
from tests.search.conftest import CONFIG, STEP, save_run

SETTINGS = EmbedConfig(part_rows=8, batch_size=4, clips=2, device="cpu")
WINDOWS = replace(SETTINGS, every=1.5, clips=1, part_rows=16)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(folder: Path) -> RowBatch:
    (batch,) = open_embeddings(folder).batches(size=10_000) if len(list(folder.glob("rows*"))) == 1 else [None]
    if batch is not None:
        return batch
    batches = list(open_embeddings(folder).batches())
    join = {name: [v for b in batches for v in getattr(b, name)] for name in ("sources", "labels")}
    arrays = {name: np.concatenate([getattr(b, name) for b in batches]) for name in ("starts", "ends")}
    by_modality = {
        name: {m: np.concatenate([getattr(b, name)[m] for b in batches]) for m in batches[0].vectors}
        for name in ("vectors", "present")
    }
    return RowBatch(first=0, **join, **arrays, **by_modality)


@pytest.fixture(scope="module")
def whole(run: Path, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The windows of 30 demo videos, embedded without an interruption; not to be changed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    embed(run, demo_shards, out, config=WINDOWS, npy=True)
    return out


def test_rows_of_files_are_the_embeddings_of_evaluation(run: Path, demo_shards: Path, tmp_path: Path) -> None:
    meta = embed(run, demo_shards, tmp_path / "out", config=SETTINGS)
    data = CONFIG.data.without_split(path=str(demo_shards), threads=1)
    loader = DaliLoader(config=replace(CONFIG, data=data), batch_size=6)
    model = load_encoders(run).model
    wanted = extract({"model": model}, loader.uniform_clips(loader.ids, clips=2), loader.ids)["model"].embedding
    rows = rows_of(tmp_path / "out")
    for modality in ("video", "audio"):
        np.testing.assert_allclose(rows.vectors[modality], unit_rows(wanted[modality]), atol=1e-5)
        assert rows.present[modality].all()
    names = {column: loader.dataset.label_names(column) for column in ("kind", "speed", "split")}
    codes = {column: loader.dataset.labels(column) for column in names}
    assert rows.sources == [loader.dataset.source(i) for i in range(30)]
    assert rows.labels == [{column: names[column][codes[column][i]] for column in names} for i in range(30)]
    np.testing.assert_array_equal(rows.ends, loader.dataset.seconds)
    assert meta is not None
    assert (meta["rows"], meta["parts"], meta["every"], meta["model"]["step"]) == (30, 4, None, STEP)


def test_windows_have_the_vectors_of_their_own_clips(run: Path, demo_shards: Path, whole: Path) -> None:
    """4 s in windows of 1.5 s: two whole ones, and a rest of 1 s that is more than half a window."""
    rows = rows_of(whole)
    assert rows.sources[:4] == ["00000.mp4"] * 3 + ["00001.mp4"]
    assert rows.starts[:4].tolist() == [0, 1.5, 3.0, 0]
    assert rows.ends[:4].tolist() == [1.5, 3.0, 4.0, 1.5]
    np.testing.assert_array_equal(np.load(whole / "video.npy"), rows.vectors["video"])
    np.testing.assert_allclose(np.linalg.norm(rows.vectors["audio"], axis=1), 1, atol=1e-6)
    # Clips of 0.4 s at 10 fps: the middle one of [1.5, 3) starts at frame 15 + (15 - 4) / 2, rounded up.
    data = CONFIG.data.without_split(path=str(demo_shards), threads=1)
    loader = DaliLoader(config=replace(CONFIG, data=data), batch_size=1)
    plan = loader.planner.windows(np.array([0]), np.array([1.5]), np.array([3.0]), clips=1)
    assert plan.start_frame.tolist() == [21]
    (batch,) = loader.carry_out(plan)
    wanted = load_encoders(run).model.query["video"](batch.video).embedding
    np.testing.assert_allclose(rows.vectors["video"][1], wanted.detach().numpy()[0], atol=1e-5)


class Killed(BaseException):
    pass


def test_interruptions_do_not_change_a_byte(
    run: Path, demo_shards: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt ends after a part, once with the next one half written."""
    out, write = tmp_path / "out", Store.write

    def write_one(self: Store, part: object) -> None:
        if getattr(self, "written", False):
            (out / f".rows-{part.number:05d}.parquet.1.tmp").write_bytes(b"half")
            raise Killed
        self.written = True
        write(self, part)

    monkeypatch.setattr(Store, "write", write_one)
    for attempt in range(5):
        with pytest.raises(Killed):
            embed(run, demo_shards, out, config=WINDOWS)
        assert len(list(out.glob("rows-*.parquet"))) == attempt + 1
        assert not (out / "embeddings.json").exists()
    embed(run, demo_shards, out, config=WINDOWS, npy=True)
    assert content(out) == content(whole)


def test_several_processes_make_the_same_bytes(
    run: Path, demo_shards: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three, one ends early and another never starts: rank 0 makes their parts."""
    out, claim = tmp_path / "out", Store.claim
    assert len(list(whole.glob("rows-*.parquet"))) == 6
    with monkeypatch.context() as patch:
        patch.setattr(Store, "claim", lambda self, number: number in (1, 4) and claim(self, number))
        assert embed(run, demo_shards, out, config=WINDOWS, place=Place(rank=1, size=3)) is None
    assert sorted(path.name for path in out.glob("rows-*")) == ["rows-00001.parquet", "rows-00004.parquet"]
    embed(run, demo_shards, out, config=WINDOWS, npy=True, place=Place(rank=0, size=3))
    assert content(out) == content(whole)


def test_a_part_that_another_process_works_on_cannot_be_claimed(tmp_path: Path) -> None:
    meta = {"model": {"dim": 4, "modalities": ["video"]}}
    store = Store(tmp_path, parts=3, meta=meta)
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX, 1, 1); print(); input()"
    line = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "\n"
        assert [store.claim(number) for number in range(3)] == [True, False, True]
        other.kill()
        other.wait()
    assert store.claim(1)
    store.close()


def test_other_settings_and_models_are_refused_by_name(
    run: Path, demo_shards: Path, whole: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(whole, tmp_path / "out")
    with pytest.raises(EmbedError, match=r"every: 1\.5 there, 2\.0 now"):
        embed(run, demo_shards, out, config=replace(WINDOWS, every=2.0))
    other = save_run(tmp_path / "other", scale=1.5)
    with pytest.raises(EmbedError, match=r"model\.fingerprint: '\w+' there, '\w+' now"):
        embed(other, demo_shards, out, config=WINDOWS)
    assert content(out) == content(whole)
    embed(run, demo_shards, out, config=replace(WINDOWS, memory_mb=999))
    assert content(out) == content(whole)


def test_unreadable_samples_are_listed_and_the_others_keep_their_vectors(
    run: Path, demo_shards: Path, whole: Path, tmp_path: Path
) -> None:
    shards = shutil.copytree(demo_shards, tmp_path / "shards")
    data = Manifest.open(shards)
    for sample in (3, 4, 29):
        path = shards / data.shards[data.shard[sample]]
        content = bytearray(path.read_bytes())
        first = int(data.video_offset[sample])
        content[first : first + 20_000] = bytes(20_000)
        path.write_bytes(content)
    meta = embed(run, shards, tmp_path / "out", config=WINDOWS)
    assert meta is not None
    unreadable = open_embeddings(tmp_path / "out").unreadable()
    # Samples 4 and 5 share no part with each other's last windows; each part lists what it met.
    bad = {entry["source"] for entry in unreadable}
    assert {"00003.mp4", "00004.mp4", "00029.mp4"} <= bad <= {f"{n:05d}.mp4" for n in (3, 4, 5, 29)}
    assert all(entry["reason"] for entry in unreadable)
    rows, all_rows = rows_of(tmp_path / "out"), rows_of(whole)
    kept = {(source, start): row for row, (source, start) in enumerate(zip(rows.sources, rows.starts, strict=True))}
    places = [kept.get(key) for key in zip(all_rows.sources, all_rows.starts, strict=True)]
    assert {source for source, place in zip(all_rows.sources, places, strict=True) if place is None} == bad
    found = [place for place in places if place is not None]
    for modality in ("video", "audio"):
        wanted = all_rows.vectors[modality][[place is not None for place in places]]
        np.testing.assert_array_equal(rows.vectors[modality][found], wanted)


def test_embeddings_that_are_not_finite_are_an_error(demo_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFiniteError, match=r"embeddings are not finite for 00000\.mp4"):
        embed(save_run(tmp_path / "run", scale=1e20), demo_shards, tmp_path / "out", config=SETTINGS)
    assert not list((tmp_path / "out").glob("rows-*"))


def test_streams_that_are_not_asked_for_are_not_there(run: Path, demo_shards: Path, tmp_path: Path) -> None:
    embed(run, demo_shards, tmp_path / "out", config=replace(SETTINGS, streams="audio"))
    rows = rows_of(tmp_path / "out")
    assert (list(rows.vectors), len(rows.sources)) == (["audio"], 30)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six demo videos, some of them in a folder, without a stream, or not readable; with odd names."""
    folder = tmp_path_factory.mktemp("videos")
    make_demo(folder / "demo", videos=6, seed=0)
    src = folder / "src"
    (src / "ü folder").mkdir(parents=True)
    demo = sorted((folder / "demo").glob("*.mp4"))
    shutil.copy(demo[0], src / "a\n\x1b[31m.mp4")
    shutil.copy(demo[1], os.fsencode(src) + b"/b\xff.mp4")
    shutil.copy(demo[2], src / "ü folder" / "c.mp4")
    os.symlink(demo[3], src / "link.mp4")
    without(demo[4], src / "silent.mp4", "audio")
    without(demo[5], src / "sound.mp4", "video")
    (src / "empty.mp4").touch()
    (src / "noise.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    (src / "cut.mp4").write_bytes(demo[5].read_bytes()[:9000])
    os.symlink("nowhere", src / "dangling.mp4")
    os.symlink(".", src / "loop")
    os.mkfifo(src / "pipe.mp4")
    (src / "directory.mp4").mkdir()
    (src / "notes.txt").write_text("no video")
    return folder


def without(source: Path, target: Path, kind: str) -> None:
    """Copies a file without its streams of a kind."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        streams = {s.index: made.add_stream_from_template(s) for s in given.streams if s.type != kind}
        for packet in given.demux([s for s in given.streams if s.index in streams]):
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                made.mux(packet)


FOLDER = EmbedConfig(part_files=5, batch_size=4, clips=2, device="cpu")


def test_a_folder_of_videos_gives_the_rows_of_its_files_and_lists_the_others(
    run: Path, videos: Path, demo_shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    embed(run, videos / "src", out, config=FOLDER)
    rows = rows_of(out)
    assert rows.sources == ["a\n\x1b[31m.mp4", "b\\xff.mp4", "link.mp4", "silent.mp4", "sound.mp4", "ü folder/c.mp4"]
    assert rows.labels == [{"label": None}] * 5 + [{"label": "ü folder"}]
    assert rows.present["video"].tolist() == [True, True, True, True, False, True]
    assert rows.present["audio"].tolist() == [True, True, True, False, True, True]
    reasons = {entry["source"]: entry["reason"] for entry in open_embeddings(out).unreadable()}
    assert sorted(reasons) == ["cut.mp4", "dangling.mp4", "directory.mp4", "empty.mp4", "noise.mkv", "pipe.mp4"]
    assert reasons["empty.mp4"] == "empty file"
    assert reasons["pipe.mp4"] == "not a file: a named pipe"
    assert not list(out.glob(".*"))
    # The first videos of the demo corpus are the same for any size of it.
    embed(run, demo_shards, tmp_path / "shards", config=SETTINGS)
    prepared = rows_of(tmp_path / "shards")
    pairs = {"video": ([0, 1, 2, 3, 5], [0, 1, 3, 4, 2]), "audio": ([0, 1, 2, 4, 5], [0, 1, 3, 5, 2])}
    for modality, (here, there) in pairs.items():
        cosines = (rows.vectors[modality][here] * prepared.vectors[modality][there]).sum(axis=1)
        assert np.median(cosines) > 0.99


def test_an_interrupted_folder_of_videos_resumes_with_the_same_bytes(
    run: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt is killed between decoding and writing, and leaves its shards behind."""
    config, whole, out = replace(FOLDER, streams="video", part_files=2), tmp_path / "whole", tmp_path / "out"
    src = tmp_path / "src"
    src.mkdir()
    for name in ("00000.mp4", "00001.mp4", "00002.mp4"):
        shutil.copy2(videos / "demo" / name, src)
    embed(run, src, whole, config=config)
    scratch = out / ".part-00000" / "video"
    scratch.mkdir(parents=True)
    (scratch / "rest.tar").write_bytes(b"rest")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", lambda self, part: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            embed(run, src, out, config=config)
    embed(run, src, out, config=config)
    assert content(out) == content(whole)


def test_labels_of_a_folder_come_from_a_list(run: Path, videos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path,colour\n00000.mp4,red\n00002.mp4,blue\n00003.mp4,\n00004.mp4,red\n00005.mp4,red\n")
    embed(run, videos / "demo", tmp_path / "out", config=replace(FOLDER, streams="audio", clips=1), labels=labels)
    colours = ["red", None, "blue", None, "red", "red"]
    assert rows_of(tmp_path / "out").labels == [{"colour": colour} for colour in colours]


def test_folders_without_videos_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "notes.txt").write_text("no video")
    with pytest.raises(EmbedError, match=r"holds neither prepared data nor a file .*; it holds 1 \.txt"):
        embed(run, tmp_path / "src", tmp_path / "out", config=FOLDER)


def test_the_description_names_no_time_and_no_machine(whole: Path) -> None:
    meta = json.loads((whole / "embeddings.json").read_text())
    keys = {"format", "model", "every", "source", "labels", "parts", "settings", "versions"}
    assert set(meta) == keys | {"rows", "unreadable", "part_sha256"}
    assert set(meta["versions"]) == set(embed_run.PACKAGES)


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORLD_SIZE", "0"), ("RANK", "1"), ("RANK", "-1"), ("LOCAL_RANK", "x"), ("LOCAL_WORLD_SIZE", "0")],
)
def test_an_impossible_place_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"torchrun's environment variables .*{name}"):
        _place()
