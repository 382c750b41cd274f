"""Tests that the documents' tables match the committed results, and that the small benchmarks run."""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from unittest import mock

import av
import numpy as np
import pytest
import torch

from benchmarks import decode
from benchmarks.decode import ALONE, comparisons
from benchmarks.decode_sweep import Point, curves
from benchmarks.peers import decoders
from benchmarks.peers.decoder_alone import BATCHES, decoder_alone
from benchmarks.report import DOCUMENTS, PLACE, ROOT, TABLES, fill
from benchmarks.run_all import gpu_commands
from benchmarks.step import known_peak
from benchmarks.tools.corpus import SHARDS, at_rate, corpus_folder, frames_of, make_corpus, shard_settings
from benchmarks.tools.usage import usage
from pipeline.demo.corpus import make_demo
from pipeline.prepare.run import prepare
from settings import ClipConfig, Config, DataConfig, PrepareConfig, StorageConfig, TrainConfig, load_config


def test_the_tables_in_the_documents_are_those_of_the_committed_results() -> None:
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        assert {match[1] for match in PLACE.findall(text)} <= set(TABLES)
        assert fill(text, ROOT / "benchmarks" / "results") == text, (
            f"{name} is out of date: run python -m benchmarks.report"
        )


def test_a_missing_result_leaves_the_table_unchanged(tmp_path: Path) -> None:
    text = "<!-- table step -->\n| old |\n<!-- end -->"
    assert fill(text, tmp_path) == text
    (tmp_path / "step.json").write_text(json.dumps({"parts": {"selection": 0.25, "whole step": 1.0}}))
    assert "| selection | 250.0 | 25.0% |" in fill(text, tmp_path)


def test_an_unknown_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="unknown table 'stepp'; known tables: sampling, decode"):
        fill("<!-- table stepp -->\n<!-- end -->", tmp_path)


def test_each_curve_of_the_sweep_changes_one_setting_of_the_same_case() -> None:
    for (field, codec), points in curves().items():
        assert len({getattr(point, field) for point in points}) == len(points)
        default = Point(codec=codec)
        assert {replace(point, **{field: getattr(default, field)}) for point in points} == {default}
        assert default in points


def test_the_name_of_a_storage_gives_the_settings_of_its_preparation() -> None:
    assert shard_settings("h264_144_gop250") is None
    assert shard_settings("shards_jpeg_112") == ["storage.codec=jpeg", "storage.fps=10", "storage.short_side=112"]
    assert shard_settings("shards_vp9_144_gop8")[-1] == "storage.gop=8"
    assert {Point(codec=codec).storage for codec in ("vp9", "jpeg")} == set(SHARDS)


@pytest.mark.parametrize("codec", ["vp9", "jpeg"])
def test_decoding_alone_yields_batches_forever(codec: str, tmp_path: Path) -> None:
    make_demo(tmp_path / "videos", videos=3, seed=0)
    settings = PrepareConfig(storage=StorageConfig(codec=codec, short_side=64), streams="video")
    prepare(tmp_path / "videos", tmp_path / "shards", config=settings, workers=1)
    config = Config(
        data=DataConfig(path=str(tmp_path / "shards"), threads=1),
        clip=ClipConfig(frames=4, fps=10, size=32),
        train=TrainConfig(batch_size=2),
    )
    batches = decoder_alone(config, device=torch.device("cpu"), epoch=0)
    ids = torch.cat([next(batches)[0] for _ in range(2 * BATCHES)])
    assert ids.tolist() == [*np.resize(np.arange(3), 2 * BATCHES)] * 2


def test_the_settings_of_the_gpu_step_are_valid() -> None:
    script, *arguments = gpu_commands(argparse.Namespace(videos=None))["step_gpu"]
    assert script == "step"
    path, overrides = ROOT / arguments[1], arguments[arguments.index("--") + 1 :]
    config = load_config(Config, path, overrides)
    assert (config.model.video, config.clip.frames, config.clip.size) == ("r2plus1d_18", 16, 112)
    assert known_peak("NVIDIA H200") == 989.0
    assert known_peak(None) == 0.0


def test_our_loader_is_compared_with_peers_and_on_a_gpu_with_decoding_alone() -> None:
    rates = {("ours", "a"): 9.0, (ALONE, "a"): 10.0, ("decord", "h264_256"): 3.0, ("pyav", "h264_256"): 2.0}
    records = [{"loader": name, "storage": kind, "clips_per_second": rate} for (name, kind), rate in rates.items()]
    found = comparisons(records)
    assert found["files_as_people_have_them"] == {"fastest_peer": "decord on h264_256", "ratio": {"a": 3.0}}
    assert found["decoding_alone"]["ratio"] == {"a": 0.9}
    assert "decoding_alone" not in comparisons([record for record in records if record["loader"] != ALONE])


def store(path: Path, *, frames: int, fps: int) -> Path:
    """Writes a video of `frames` frames, the shades of which tell their number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        for number in range(frames):
            shade = np.full((32, 32, 3), 8 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("frames", "fps", "rate", "shown"),
    [
        (25, 25, 10, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]),
        (8, 8, 16, np.repeat(np.arange(8), 2)),
        (8, 8, 2, [0, 4]),
        (8, 8, 8, np.arange(8)),
        (3, 8, 1, [0]),
    ],
)
@pytest.mark.parametrize("suffix", [".mkv", ".mov"])
def test_a_video_at_another_rate_lasts_as_long_as_before(tmp_path: Path, suffix, frames, fps, rate, shown) -> None:
    path = store(tmp_path / f"video{suffix}", frames=frames, fps=fps)
    with av.open(str(path)) as container:
        found = [frame.to_ndarray(format="rgb24").mean() / 8 for frame in at_rate(container, Fraction(rate))]
    assert np.rint(found).tolist() == list(shown)
    assert len(frames_of(path, fps=rate, count=16)) == min(16, len(shown))


def test_stored_forms_of_other_sources_are_not_measured(tmp_path: Path) -> None:
    sources = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for source in sources:
        source.write_bytes(b"old")
    folder = corpus_folder(tmp_path, sources)
    assert corpus_folder(tmp_path, sources) == folder
    assert corpus_folder(tmp_path, sources[:1]) != folder
    sources[1].write_bytes(b"newer")
    assert corpus_folder(tmp_path, sources) != folder


def test_a_source_that_shards_would_lack_is_named(tmp_path: Path) -> None:
    make_demo(tmp_path / "videos", videos=1, seed=0)
    sources = [*(tmp_path / "videos").rglob("*.mp4"), store(tmp_path / "silent.mkv", frames=8, fps=8)]
    with pytest.raises(SystemExit, match=r"/silent\.mkv: pipeline\.prepare rejects 1 of .* 'no audio track'; move it"):
        make_corpus(sources, tmp_path, ["shards_jpeg_32"])
    assert not (tmp_path / "shards_jpeg_32").exists()


def test_a_row_measures_the_forms_of_the_sources_that_were_given(tmp_path: Path, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(decode, "usable_sources", lambda folder, *, seconds: [folder / "a.mp4"])
    monkeypatch.setattr(decode, "make_corpus", lambda sources, out, names: seen.append(out))
    monkeypatch.setattr(decode, "storage_quality", lambda sources, work, names: seen.append(work) or {})
    monkeypatch.setattr(decode, "all_rows", lambda rows, *, options: seen.append(options.work) or [])
    monkeypatch.setattr(decode, "publish", lambda result, path: None)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").write_bytes(b"")
        assert decode.main(["--videos", str(tmp_path / name), "--work", str(tmp_path / "work")]) == 0
    assert len(set(seen[:3])) == len(set(seen[3:])) == 1
    assert seen[0] != seen[3]


def test_usage_counts_children_that_were_not_waited_for() -> None:
    child = subprocess.Popen([sys.executable, "-c", "sum(range(10**7))"])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        both, of_child = usage(), usage(child.pid)
    finally:
        child.wait()
    assert 0 < of_child.cpu_seconds <= both.cpu_seconds
    assert (of_child.peak_bytes, both.peak_bytes > 0) == (0, True)


def test_one_frame_per_clip_is_decoded_by_spdl_too(monkeypatch) -> None:
    library = mock.MagicMock()
    monkeypatch.setitem(sys.modules, "spdl", mock.MagicMock(io=library))
    monkeypatch.setitem(sys.modules, "spdl.io", library)
    decoders.spdl(Path("video.mp4"), np.array([1.5]))
    assert library.get_video_filter_desc.call_args.kwargs["frame_rate"] == (10_000, 1000)
    decoders.spdl(Path("video.mp4"), np.array([1.5, 1.75]))
    assert library.get_video_filter_desc.call_args.kwargs["frame_rate"] == (4000, 1000)
