"""The reader printed in docs/format.md reads prepared data; the tables of that page are complete."""

from __future__ import annotations

import io
import json
import re
import tarfile
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline.demo.corpus import make_demo
from pipeline.prepare.records import index_records
from pipeline.prepare.run import prepare
from settings import PrepareConfig, load_config

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
(READER,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
FIRST, COUNT = 11, 3


@pytest.fixture(scope="module", params=["vp9", "jpeg"])
def folder(request, tmp_path_factory) -> Path:
    """Five videos, two per shard; the labels of one are unknown."""
    folder = tmp_path_factory.mktemp(request.param)
    make_demo(folder / "videos", videos=5, seed=0)
    labels = folder / "labels.csv"
    lines = (folder / "videos" / "labels.csv").read_text().splitlines()
    labels.write_text("\n".join(lines[:-1]) + "\n")
    overrides = [f"storage.codec={request.param}", "storage.short_side=64", "storage.gop=8", "shard_samples=2"]
    prepare(
        folder / "videos",
        folder / "shards",
        config=load_config(PrepareConfig, overrides=overrides),
        labels_path=labels,
        workers=1,
    )
    return folder


@pytest.fixture
def shards(folder):
    """The printed reader, which has nothing but the page's text to know the format from."""
    names: dict[str, type] = {}
    exec(READER, names)
    return names["Shards"](str(folder / "shards"))


def _decoded(data: bytes, codec: str) -> list[np.ndarray]:
    if codec == "jpeg":
        images = [b"\xff\xd8" + image for image in data.split(b"\xff\xd8")[1:]]
        return [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in images]
    with av.open(io.BytesIO(data), format="ivf") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def _source_frames(path: Path, *, height: int, width: int, fps: float) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        frames = [(frame.time, frame) for frame in container.decode(video=0)]
    seconds = [(FIRST + step) / fps for step in range(COUNT)]
    shown = [max((time, number) for number, (time, _) in enumerate(frames) if time <= s + 1e-6)[1] for s in seconds]
    return [frames[n][1].to_image().resize((width, height), Image.Resampling.BILINEAR) for n in shown]


def test_the_printed_reader_finds_the_frames(folder, shards):
    meta, arrays = shards.meta, shards.arrays
    for i in range(meta["samples"]):
        data, drop = shards.frames(i, FIRST, COUNT)
        frames = _decoded(data, meta["storage"]["codec"])[drop:]
        assert len(frames) == COUNT
        height, width = int(arrays["height"][i]), int(arrays["width"][i])
        source = folder / "videos" / shards.text("source", i)
        wanted = _source_frames(source, height=height, width=width, fps=meta["storage"]["fps"])
        assert {frame.shape for frame in frames} == {(height, width, 3)}
        errors = [[np.abs(frame.astype(float) - np.asarray(other)).mean() for other in wanted] for frame in frames]
        assert np.argmin(errors, axis=1).tolist() == list(range(COUNT))


def test_the_printed_reader_finds_the_sound_and_the_labels(folder, shards):
    known = {}
    for path in sorted((folder / "shards").glob("*.tar")):
        with tarfile.open(path) as archive:
            members = {member.name: archive.extractfile(member).read() for member in archive}
        for name in members:
            if name.endswith(".json"):
                facts = json.loads(members[name])
                known[facts["source"]] = facts, members[name.replace(".json", ".wav")]
    for i in range(shards.meta["samples"]):
        facts, sound = known[shards.text("source", i)]
        with wave.open(io.BytesIO(sound)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, facts["sample_rate"])
            stored = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        assert len(stored) == facts["audio_samples"] == round(facts["frames"] / facts["fps"] * facts["sample_rate"])
        assert np.array_equal(shards.pcm(i, 1000, 500), stored[1000:1500])
        for column, name in enumerate(shards.meta["label_columns"]):
            code = int(shards.arrays[f"label{column}"][i])
            assert (shards.text(f"label{column}_names", code) if code >= 0 else None) == facts["labels"].get(name)


def _table(head: str) -> dict[str, list[str]]:
    """The rows of the table that begins with this cell, by the names in their first cell."""
    body = TEXT.partition(f"\n| {head} |")[2].partition("\n\n")[0]
    rows = {}
    for line in body.splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        rows |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells[1:])
    return rows


def test_every_array_is_listed_with_its_type_and_shape(shards):
    listed, arrays = _table("array"), shards.arrays
    assert {re.sub(r"^label\d+", "label{c}", name) for name in arrays} == set(listed)
    for name, array in arrays.items():
        column = re.match(r"label\d+|", name)[0]
        dtype, shape, _ = listed[name.replace(column, "label{c}", 1) if column else name]
        values = len(arrays[f"{column}_names_start"]) - 1 if column else 0
        length = shape.strip("[]").replace("label{c}", column) + ("]" if shape.endswith("]]") else "")
        known = {**arrays, "n": shards.meta["samples"], "values": values}
        assert (array.dtype, array.shape) == (np.dtype(dtype), (eval(length, {}, known),)), name


def test_every_key_is_listed(folder, shards):
    assert set(_table("key of `meta.json`")) == set(shards.meta)
    with tarfile.open(folder / "shards" / "shard-000000.tar") as archive:
        names = archive.getnames()
        facts = json.load(archive.extractfile(names[3]))
    suffix = {"vp9": "ivf", "jpeg": "mjpeg"}[shards.meta["storage"]["codec"]]
    assert [name.partition(".")[2] for name in names] == [suffix, "wav", "crc32c", "json"] * 2
    assert set(_table("key")) == set(facts)
    row = next(index_records(folder / "shards" / "index" / "shard-000000.rows"))
    assert set(row) == {*facts, "key", "size", "mtime_ns", "video_offset", "audio_offset", "checksum_offset"}
    assert names[0].startswith(row["key"] + ".")
