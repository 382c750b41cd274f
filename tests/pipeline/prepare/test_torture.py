"""Every file of the torture set (unusual and damaged media files) is prepared or rejected as its manifest expects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.prepare.records import index_rows
from pipeline.prepare.run import prepare
from pipeline.shards.manifest import Manifest
from settings import PrepareConfig, StorageConfig

# Expectation in the manifest -> allowed results with streams=both, streams=video and streams=audio.
ALLOWED = {
    "decode": ({"ok"}, {"ok"}, {"ok"}),
    "no_audio": ({"no audio track"}, {"ok"}, {"no audio track"}),
    "no_video": ({"no video track"}, {"no video track"}, {"ok"}),
    "decode_or_reject": ({"ok flagged", "truncated or damaged"},) * 3,
    "reject": ({"not a media file", "empty file"},) * 3,
}


@pytest.fixture(scope="module")
def expectations(real_data: Path) -> dict[str, str]:
    files = json.loads((real_data / "torture_open/manifest.json").read_text(encoding="utf-8"))["files"]
    return {entry["file"].removeprefix("files/"): entry["expect"] for entry in files}


@pytest.mark.parametrize("streams", ["both", "video", "audio"])
def test_each_file_is_prepared_or_rejected_as_expected(real_data, expectations, tmp_path, streams):
    config = PrepareConfig(streams=streams, min_seconds=0.01, storage=StorageConfig(fps=10, short_side=32))
    prepare(real_data / "torture_open/files", tmp_path, config=config, workers=2)
    results = {row["source"]: "ok flagged" if row["flags"] else "ok" for _, row in index_rows(tmp_path)}
    for line in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        entry = json.loads(line)
        results[entry["source"]] = entry["reason"]
    assert results.keys() == expectations.keys()
    position = ["both", "video", "audio"].index(streams)
    for name, expect in expectations.items():
        allowed = ALLOWED[expect][position]
        if expect != "decode_or_reject" or streams != "both":
            allowed = allowed | ({"ok flagged"} if "ok" in allowed else set())
        if expect == "decode_or_reject" and streams != "both":
            allowed = allowed | {"ok"}  # the damage may be in the other track
        assert results[name] in allowed, (name, results[name])


def test_durations_follow_the_time_stamps(real_data, tmp_path):
    config = PrepareConfig(min_seconds=0.01, storage=StorageConfig(fps=10, short_side=32))
    prepare(real_data / "torture_open/files", tmp_path, config=config, workers=2)
    manifest = Manifest.open(tmp_path)
    seconds = {manifest.source(i): float(manifest.seconds[i]) for i in range(len(manifest))}
    for name, expected in {
        "audio_longer.mp4": 2.0,
        "audio_starts_late.mp4": 5.0,
        "vfr.mp4": 5.0,
        "fps_240.mp4": 2.0,
        "one_frame.mp4": 5.0,
        "header_says_one_hour.mp4": 5.0,
        "mpeg2_mp2.ts": 5.0,
        "stream_copied_cut.mp4": 3.0,
        "interlaced_mpeg2.mpg": 3.0,
    }.items():
        assert seconds[name] == pytest.approx(expected, abs=0.11), name
