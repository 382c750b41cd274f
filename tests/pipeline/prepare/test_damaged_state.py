"""State on disk that was edited, truncated or written by another program is refused with a one-line message."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.plan.clips import ClipPlanner
from pipeline.prepare.labels import Labels
from pipeline.prepare.publish import publish
from pipeline.prepare.records import PrepareError
from pipeline.prepare.staging import Staging
from pipeline.shards.codecs import CODECS
from pipeline.shards.manifest import Manifest, ManifestError
from pipeline.shards.manifest_writer import write_manifest
from pipeline.shards.reader import ShardError, ShardReader
from pipeline.shards.tar_writer import RowError, write_shard
from settings import Config, PrepareConfig, StorageConfig, from_dict
from tests.pipeline.shards.formats import reseal

FACTS = {
    **{"source": "a.mp4", "labels": {"kind": "x"}, "flags": {}, "seconds": 0.2, "frame_bytes": [5, 6]},
    **{"video_offset": 512, "audio_offset": -1, "audio_samples": 0, "width": 64, "height": 48, "first_frame": 0},
}
VERSION = {"key": "k", "size": 1, "mtime_ns": 1}


def resume(out: Path) -> None:
    staging = Staging(out, part=(0, 1), config=PrepareConfig(), labels="file")
    staging.close()
    publish(out, config=PrepareConfig(), labels=Labels(columns=["kind"]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"3", "must be a JSON object, not 3"),
        (b"[" * 50_000, "line 2"),
        (b'{"source": "\xff"}', "line 2"),
        (json.dumps(FACTS).encode(), "key, size or mtime_ns"),
        (json.dumps(VERSION).encode(), "source is missing"),
        *(
            (json.dumps({**VERSION, **FACTS, name: value}).encode(), name)
            for name, value in [
                *(("source", "\ud800"), ("source", ["a"]), ("labels", {"kind": 3}), ("labels", []), ("flags", [])),
                *(("frame_bytes", [-1]), ("frame_bytes", [2**40]), ("frame_bytes", 5), ("video_offset", 2**70)),
                *(("seconds", float("nan")), ("seconds", "1"), ("width", True), ("height", 10**12)),
            ]
        ),
    ],
)
def test_an_edited_index_line_is_named_and_its_shard_set_aside(tmp_path, line, message):
    resume(tmp_path)
    valid = json.dumps({**VERSION, **FACTS}).encode()
    (tmp_path / "index" / "shard-000000.jsonl").write_bytes(valid + b"\n" + line + b"\n")
    (tmp_path / "shard-000000.tar").write_bytes(b"")
    with pytest.raises(PrepareError, match=message) as caught:
        publish(tmp_path, config=PrepareConfig(), labels=Labels(columns=["kind"]))
    assert "shard-000000.jsonl or its shard is damaged (line 2: " in str(caught.value)
    assert "\n" not in str(caught.value)
    resume(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("damaged/*")) == ["shard-000000.0.jsonl", "shard-000000.0.tar"]
    assert not list(tmp_path.glob("index/*.jsonl"))


@pytest.mark.parametrize("entry", [{"source": []}, {"key": []}, {"size": "1"}, {"reason": None}, {"detail": 3}])
def test_an_edited_rejection_is_skipped(tmp_path, entry):
    (tmp_path / "index").mkdir()
    rejection = {**VERSION, "source": "a.mp4", "reason": "empty file", "limits": [], **entry}
    (tmp_path / "index" / "part.rejected").write_text(json.dumps(rejection) + "\n" + "[" * 50_000 + "\n")
    resume(tmp_path)
    assert (tmp_path / "rejected.jsonl").read_text() == ""


def test_an_edited_recipe_is_refused(tmp_path):
    for text in ("[" * 50_000, '{"a": ' * 700 + "1" + "}" * 700, "3"):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(PrepareError, match=r"recipe\.json|other settings") as caught:
            resume(tmp_path)
        assert "\n" not in str(caught.value)


def tar_of(*members: tuple[str, bytes, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


FACTS_MEMBER = ("k.json", tarfile.REGTYPE, json.dumps(FACTS).encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (tar_of(FACTS_MEMBER)[:700], "is damaged"),
        (b"x" * 2000, "is damaged"),
        (tar_of(("k.json", tarfile.REGTYPE, b"[" * 50_000)), "is damaged"),
        (tar_of(("k.json", tarfile.REGTYPE, b"[]")), "source is missing"),
        (tar_of(("../k.wav", tarfile.SYMTYPE, b""), FACTS_MEMBER), "is not a regular file"),
        (tar_of(("k.json", tarfile.SYMTYPE, b"")), "is not a regular file"),
        (tar_of(("k.wav", tarfile.REGTYPE, b"")), "source is missing"),
    ],
)
def test_a_damaged_staged_sample_is_named(tmp_path, data, message):
    fragment = tmp_path / "k.1-1.tar"
    fragment.write_bytes(data)
    with pytest.raises(RowError, match=message) as caught:
        write_shard(tmp_path / "shard.tmp", [fragment])
    assert str(fragment) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tar_members_are_never_written_outside_the_shard(tmp_path):
    fragment = tmp_path / "in" / "k.1-1.tar"
    fragment.parent.mkdir()
    fragment.write_bytes(tar_of(("../../x.wav", tarfile.REGTYPE, b"12"), ("/tmp/k.json", *FACTS_MEMBER[1:])))
    (row,) = write_shard(fragment.parent / "shard.tmp", [fragment])
    assert row["source"] == "a.mp4"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("array", "value"),
    [
        *(
            ("frame_start", [-5, 3]),
            ("frame_offsets", [0, 4_000_000_000, 11]),
            ("video_offset", [-9]),
            ("frames", [-3]),
        ),
        *(("frames", [100]), ("width", [0]), ("height", [70_000]), ("video_offset", [1 << 60])),
        *(("audio_offset", [1 << 62]), ("audio_samples", [1 << 50])),
    ],
)
@pytest.mark.parametrize("codec", ["vp9", "jpeg"])
def test_a_row_that_points_outside_its_shard_is_named(tmp_path, array, value, codec, monkeypatch):
    (tmp_path / "shard-000000.tar").write_bytes(bytes(8000))
    row = {**FACTS, "shard": 0, "frame_bytes": [5, 6], "audio_offset": 600, "audio_samples": 3200}
    names, sizes = ["shard-000000.tar"], [8000]
    write_manifest(
        *(tmp_path, [row]), shards=names, shard_bytes=sizes, label_columns=[], storage=StorageConfig(codec=codec),
        sample_rate=16000, streams="both",
    )  # fmt: skip
    path = next(tmp_path.glob(f"manifest/*/{array}.npy"))
    np.save(path, np.array(value, np.load(path).dtype))
    reseal(tmp_path)
    with pytest.raises(ManifestError, match=r"\.npy is damaged: .*sample 0"):
        Manifest.open(tmp_path)
    # The reader checks the rows that it uses too, because a large frame_offsets is not checked at opening.
    monkeypatch.setattr("pipeline.shards.content.impossible_number", lambda *_, **__: None)
    manifest = Manifest.open(tmp_path)
    config = from_dict(Config, {"clip": {"frames": 2}})
    plan = ClipPlanner(config=config, dataset=manifest, fps=10.0).uniform(np.array([0]), clips=1)
    reader = ShardReader(manifest=manifest, frames=2, stride=1, audio_samples=3200)

    def read() -> None:
        CODECS[codec].read(reader, plan)
        reader.pcm(plan)

    with pytest.raises(ShardError, match=r"sample 0 \(a\.mp4\)"):
        read()
