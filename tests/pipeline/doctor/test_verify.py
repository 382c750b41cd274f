"""`python -m pipeline.doctor SHARDS --verify` names what is damaged, and its advice repairs it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.demo.corpus import make_demo
from pipeline.doctor.__main__ import main
from pipeline.prepare.run import prepare
from pipeline.shards.manifest import Manifest
from settings import PrepareConfig, load_config
from tests.pipeline.shards.formats import format_1


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


class Prepared:
    """Five videos in three shards."""

    def __init__(self, folder: Path) -> None:
        self.videos, self.out = folder / "videos", folder / "out"
        make_demo(self.videos, videos=5, seed=0)
        self.prepare()

    def prepare(self) -> None:
        overrides = ["storage.codec=jpeg", "storage.short_side=32", "max_seconds=0.9", "shard_samples=2"]
        prepare(self.videos, self.out, config=load_config(PrepareConfig, overrides=overrides), workers=1)

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    return Prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def intact(prepared):
    """The prepared files, restored after the test."""
    files = prepared.files()
    yield files
    shutil.rmtree(prepared.out)
    for name, data in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)


def test_an_intact_data_set_is_said_to_be_intact(prepared, intact, capsys):
    assert main([str(prepared.out), "--verify"]) == 0
    assert capsys.readouterr().out.startswith("5 samples in 3 shards, 0.00 GB: nothing is damaged")


def test_damaged_samples_and_files_are_named_and_prepared_again_as_advised(prepared, intact, capsys):
    manifest, out = Manifest.open(prepared.out), prepared.out
    numbers = manifest.shard.tolist()
    first, last = numbers.index(0), numbers.index(2)
    flip(out / "shard-000000.tar", int(manifest.video_offset[first]) + 40)
    flip(out / "shard-000000.tar", 3)
    flip(out / "shard-000002.tar", int(manifest.audio_offset[last] + 2 * 4096 + 5))
    (out / "shard-000001.tar").unlink()
    assert main([str(out), "--verify"]) == 1
    said = capsys.readouterr().out
    one, other = manifest.source(first), manifest.source(last)
    assert f"damaged: {out}/shard-000000.tar: sample {first} ({one}): frame 0 differs from its checksum\n" in said
    assert f"damaged: {out}/shard-000001.tar: it is missing\n" in said
    assert f"shard-000002.tar: sample {last} ({other}): block of sound 1 differs from its checksum\n" in said
    assert "3 damaged files, 2 damaged samples" in said
    for path in re.search(r"^  rm -f (.*)$", said, re.MULTILINE)[1].split():
        Path(path).unlink()
    prepared.prepare()
    assert prepared.files() == intact
    assert main([str(out), "--verify"]) == 0


@pytest.mark.parametrize("name", ["source_bytes.npy", "frame_offsets.npy", "meta.json"])
def test_a_damaged_manifest_is_named_and_rebuilt(prepared, intact, capsys, name):
    path = next((prepared.out / "manifest").rglob(name))
    flip(path, path.stat().st_size - 5)
    assert main([str(prepared.out), "--verify"]) == 1
    said = capsys.readouterr().out
    assert str(path) in said
    assert "delete the folder manifest and run pipeline.prepare again" in said
    prepared.prepare()  # even if the folder is not deleted
    assert prepared.files() == intact


def test_a_damaged_index_is_named_and_never_becomes_a_manifest(prepared, intact, capsys):
    path = prepared.out / "index" / "shard-000001.rows"
    flip(path, path.read_bytes().index(b".mp4"))
    assert main([str(prepared.out), "--verify"]) == 1
    assert f"damaged: {path}: cannot be read (its content differs from its checksum)" in capsys.readouterr().out
    prepared.prepare()
    assert sorted(file.name for file in (prepared.out / "damaged").iterdir())[0] == "shard-000001.0.rows"
    shutil.rmtree(prepared.out / "damaged")
    assert prepared.files() == intact


def test_data_of_format_1_is_said_to_have_no_checksums(tmp_path, capsys):
    folder = format_1(tmp_path, "vp9")
    assert main([str(folder), "--verify"]) == 0
    assert "3 of 3 samples were prepared in format 1, which has no checksums" in capsys.readouterr().out
    manifest = Manifest.open(folder)
    flip(folder / "shard-000000.tar", int(manifest.video_offset[np.argmin(manifest.shard)]) + 32)
    assert main([str(folder), "--verify"]) == 1
    assert "there is no VP9 video where the manifest says" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--verify"], ["shards"]])
def test_the_folder_and_the_option_belong_together(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "give both: SHARDS --verify" in capsys.readouterr().err
