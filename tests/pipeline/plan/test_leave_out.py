"""Lists of samples to leave out: their forms, their mistakes, and what loaders make of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.loader import make_loader
from pipeline.plan.leave_out import find_left_out, read_leave_out
from pipeline.prepare.__main__ import main as prepare
from pipeline.shards.manifest import Manifest
from settings import Config, ConfigError, load_config


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("b/2.mp4\na.mp4\r\n\nb/2.mp4", ["b/2.mp4", "a.mp4"]),
        ("with, comma.mp4\n#20 clap.avi\n", ["with, comma.mp4", "#20 clap.avi"]),
        ('reason,source\r\nsilent,"a, b.mp4"\r\n"two\nlines",c.mp4\r\n', ["a, b.mp4", "c.mp4"]),
        ("\ufeffsource\nä.mp4\n", ["ä.mp4"]),
        ("source,reason\n", []),
    ],
)
def test_a_list_is_a_csv_file_or_has_one_source_per_line(tmp_path: Path, text: str, sources: list[str]):
    (tmp_path / "list").write_text(text, encoding="utf-8", newline="")
    assert read_leave_out(tmp_path / "list") == sources


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "cannot read the list of samples to leave out, .*list: No such file"),
        (b"\n\n", "names no sample to leave out: it must hold one source per line"),
        (b"\xff\xfe\x00", "neither a UTF-8 CSV file"),
        (b'source\n"open', "neither a UTF-8 CSV file"),
    ],
)
def test_a_list_that_cannot_be_used_is_an_error(tmp_path: Path, data: bytes | None, message: str):
    if data is not None:
        (tmp_path / "list").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_leave_out(tmp_path / "list")


def rows_of(known: str) -> Callable[[list[str]], np.ndarray]:
    return lambda sources: np.array([known.find(source) for source in sources], dtype=np.int64)


def test_unknown_sources_are_an_error_that_shows_three(tmp_path: Path):
    (tmp_path / "list").write_text("a\nx1\nx2\nx3\nx4\nx5\n")
    message = r"leaves out samples that data does not have: 'x1', 'x2', 'x3' and 2 more; remove"
    with pytest.raises(ConfigError, match=message):
        find_left_out(rows_of("ab"), tmp_path / "list", data="data")


def test_the_hash_depends_on_the_sources_alone(tmp_path: Path):
    hashes = []
    for text in ("b\na\n", "source,reason\na,silent\nb,static\n", "a\n"):
        (tmp_path / "list").write_text(text)
        hashes.append(find_left_out(rows_of("abc"), tmp_path / "list", data="data"))
    assert [rows.tolist() for rows, _ in hashes] == [[0, 1], [0, 1], [0]]
    assert hashes[0][1] == hashes[1][1] != hashes[2][1]


def config(shards: Path, *overrides: str) -> Config:
    small = ["clip.frames=4", "clip.size=32", "train.batch_size=4", "data.threads=1", f"data.path={shards}"]
    return load_config(Config, None, [*small, *overrides])


def test_left_out_samples_are_never_loaded_and_the_others_change_only_their_order(demo_shards: Path, tmp_path: Path):
    full = make_loader(config(demo_shards, "data.split=train"))
    names = [full.dataset.source(i) for i in (1, 2, 4)]  # sample 4 is in the test split
    (tmp_path / "list").write_text("\n".join(names))
    loader = make_loader(config(demo_shards, "data.split=train", f"data.leave_out={tmp_path / 'list'}"))
    assert loader.ids.tolist() == sorted(set(full.ids.tolist()) - {1, 2})
    assert loader.bad_samples.samples == len(loader.ids)
    clips = {int(i): video for batch in loader.epoch(0) for i, video in zip(batch.ids, batch.video, strict=True)}
    assert clips.keys() <= set(loader.ids.tolist())
    (same,) = full.clips(np.array([3]), epoch=0, purpose="train")
    (again,) = loader.clips(np.array([3]), epoch=0, purpose="train")
    assert np.array_equal(same.video, again.video)
    assert len(make_loader(Config(data=loader.config.data.without_split(), clip=loader.config.clip)).ids) == 30


def test_a_list_of_all_samples_leaves_too_few(demo_shards: Path, tmp_path: Path):
    loader = make_loader(config(demo_shards))
    (tmp_path / "list").write_text("\n".join(loader.dataset.source(i) for i in range(30)))
    with pytest.raises(ConfigError, match=r"larger than the data set, which has 0 samples: .* data.leave_out"):
        len(make_loader(config(demo_shards, f"data.leave_out={tmp_path / 'list'}")))


def test_prepare_skips_listed_files_and_removes_their_samples_with_sync(demo_shards: Path, tmp_path: Path, capsys):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    for number in range(4):
        (videos / f"{number:05d}.mp4").symlink_to(demo_shards.parent / "videos" / f"{number:05d}.mp4")
    (tmp_path / "list.csv").write_text("source,reason\n00001.mp4,silent\n")
    settings = ["storage.codec=jpeg", "storage.short_side=32", "--workers", "1"]

    def prepared(*arguments: str) -> list[str]:
        assert prepare([str(videos), str(out), *settings, *arguments]) == 0
        manifest = Manifest.open(out)
        return [manifest.source(i) for i in range(len(manifest))]

    assert prepared("--leave-out", str(tmp_path / "list.csv")) == ["00000.mp4", "00002.mp4", "00003.mp4"]
    (tmp_path / "list.csv").write_text("00002.mp4\n")
    assert len(prepared()) == 4
    assert prepared("--leave-out", str(tmp_path / "list.csv"), "--sync") == ["00000.mp4", "00001.mp4", "00003.mp4"]
    (tmp_path / "list.csv").write_text("00002.mp4\nnone.mp4\n")
    assert prepare([str(videos), str(out), *settings, "--leave-out", str(tmp_path / "list.csv")]) == 2
    assert re.search("leaves out samples that .*videos does not have: 'none.mp4'", capsys.readouterr().err)
