"""Damaged shards and videos are named in errors, and the others can still be loaded."""

from __future__ import annotations

import json
import logging
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.load.clip_loader import decode_threads
from pipeline.load.reference.decord_loader import RawVideoError
from pipeline.loader import make_loader
from pipeline.plan.bad_samples import TooManyBadSamples
from pipeline.shards.reader import ShardError
from pipeline.shards.shard_files import LocalShards
from settings.errors import ConfigError
from tests.pipeline.load.aborting import decode_or_abort, decode_or_terminate

SAMPLE = 5


@pytest.fixture(params=["vp9", "jpeg"])
def codec(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def damaged(corpus, codec, tmp_path: Path):
    """A loader over a copy of the shards, the path of the shard that holds SAMPLE, and the manifest."""
    folder = tmp_path / "shards"
    shutil.copytree(getattr(corpus, codec), folder)
    loader = make_loader(corpus.config(f"dali-{codec}", data={"path": str(folder)}))
    manifest = loader.dataset
    return loader, folder / manifest.shards[manifest.shard[SAMPLE]], manifest


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def clips_of(loader, ids: list[int]) -> list:
    """Loads test clips, because training would replace bad samples (see test_bad_samples.py)."""
    return list(loader.uniform_clips(ids, clips=1))


def test_a_missing_shard_is_named(damaged) -> None:
    loader, shard, _ = damaged
    shard.unlink()
    with pytest.raises(
        ShardError, match=rf"{shard}.* cannot be opened.*sample {SAMPLE} \(video5.mp4\).*pipeline.prepare again"
    ):
        clips_of(loader, [SAMPLE])


def test_a_truncated_shard_is_named_and_other_samples_can_be_loaded(damaged) -> None:
    loader, shard, manifest = damaged
    with shard.open("r+b") as file:
        file.truncate(int(manifest.video_offset[SAMPLE]) + 100)
    with pytest.raises(
        ShardError, match=rf"{shard}.* it has only \d+ of the \d+ bytes at byte .*sample {SAMPLE} \(video5.mp4\)"
    ):
        clips_of(loader, [4, SAMPLE])
    assert clips_of(loader, [4])[0].ids.tolist() == [4]


def test_frames_that_are_not_where_the_manifest_says_are_detected(damaged, codec) -> None:
    loader, shard, manifest = damaged
    begin, end = manifest.frame_start[SAMPLE : SAMPLE + 2]
    manifest.checksum_offset = np.full(len(manifest), -1)  # as in format 1
    for offset in manifest.frame_offsets[begin : end - 1]:
        overwrite(shard, int(manifest.video_offset[SAMPLE]) + int(offset), struct.pack("<I", 7))
    kind = "VP9 video" if codec == "vp9" else "JPEG image"
    with pytest.raises(ShardError, match=rf"no {kind} .*sample {SAMPLE} \(video5.mp4\)"):
        clips_of(loader, [SAMPLE])


@pytest.mark.parametrize("ids", [[3, 4, SAMPLE, 6], [SAMPLE, 3], [0, 1, 2, 3, SAMPLE, 4, 6, 7]])
def test_a_sample_that_cannot_be_decoded_is_named_and_other_iterators_continue(damaged, corpus, codec, ids) -> None:
    loader, shard, manifest = damaged
    manifest.checksum_offset = np.full(len(manifest), -1)  # as in format 1
    begin, end = manifest.frame_start[SAMPLE : SAMPLE + 2]
    for offset in manifest.frame_offsets[begin : end - 1 : 8].tolist():
        place = int(manifest.video_offset[SAMPLE]) + offset
        if codec == "vp9":
            # Overwrite the frame header after the sync code: frame size and coding parameters.
            overwrite(shard, place + 16, b"\xff" * 20)
        else:
            data = shard.read_bytes()
            overwrite(shard, data.index(b"\xff\xc4", place) + 5, b"\xff" * 16)
    other = loader.uniform_clips([0, 1, 2, 3], clips=2)
    first = next(other)
    with pytest.raises(ShardError, match=rf"sample {SAMPLE} \(video5.mp4\) in shard {shard} does not decode"):
        clips_of(loader, ids)
    healthy = list(make_loader(corpus.config(f"dali-{codec}")).uniform_clips([0, 1, 2, 3], clips=2))
    assert torch.equal(first.video, healthy[0].video)
    assert torch.equal(next(other).video, healthy[1].video)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_bit_that_differs_in_a_frame_is_named(damaged, codec) -> None:
    loader, shard, manifest = damaged
    ends = manifest.frame_offsets[manifest.frame_start[SAMPLE] : manifest.frame_start[SAMPLE + 1]].astype(int)
    middle = len(ends) // 2
    flip(shard, int(manifest.video_offset[SAMPLE] + ends[middle + 1]) - 3)
    with pytest.raises(
        ShardError, match=rf"{shard} is damaged .*frame {middle} differs from its checksum, for sample {SAMPLE}"
    ):
        clips_of(loader, [4, SAMPLE])
    with pytest.raises(
        TooManyBadSamples, match=f"shard-.*: frame {middle} differs from its checksum: sample {SAMPLE} "
    ):
        _ = [list(loader.clips([SAMPLE], epoch=epoch, purpose="train")) for epoch in range(12)]  # one has the frame


def test_a_bit_that_differs_in_the_sound_is_named(damaged) -> None:
    loader, shard, manifest = damaged
    flip(shard, int(manifest.audio_offset[SAMPLE] + manifest.audio_samples[SAMPLE]))
    with pytest.raises(ShardError, match=rf"block of sound \d differs from its checksum, for sample {SAMPLE} "):
        clips_of(loader, [SAMPLE])


def test_only_the_bytes_of_the_clip_are_read(corpus, codec, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make_loader(corpus.config(f"dali-{codec}"))
    manifest = loader.dataset
    read = []
    fill = LocalShards.fill_at_once

    def counted(self, shard, target, offset):
        read.append((offset, target.nbytes))
        return fill(self, shard, target, offset)

    monkeypatch.setattr(LocalShards, "fill_at_once", counted)
    (batch,) = loader.clips([7], epoch=0, purpose="train")
    (video, size), (audio, audio_size), *checksums = sorted(read)
    start, wanted = round(float(batch.start[0]) * 10), loader.config.audio_samples
    offsets = manifest.frame_offsets[manifest.frame_start[7] : manifest.frame_start[8]].astype(int)
    first = start // 8 * 8 if codec == "vp9" else start
    assert start > 0
    assert video == manifest.video_offset[7] + offsets[first]
    assert size == offsets[start + 8] - offsets[first] < offsets[-1] - offsets[0]
    blocks = range(int(batch.plan.audio_start[0]) // 4096, -(-int(batch.plan.audio_start[0] + wanted) // 4096))
    assert audio == manifest.audio_offset[7] + 8192 * blocks.start
    assert audio_size == min(8192 * len(blocks), 2 * int(manifest.audio_samples[7]) - 8192 * blocks.start)
    assert sum(size for _, size in checksums) == 4 * (start + 8 - first + len(blocks))


def test_empty_ranges_are_not_announced_to_the_kernel(corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[tuple[int, int]] = []
    monkeypatch.setattr("os.posix_fadvise", lambda _, offset, size, advice: announced.append((offset, size)))
    LocalShards(make_loader(corpus.config("dali-vp9")).dataset).announce([0, 0], [512, 1024], [0, 7])
    assert announced == [(1024, 7)]  # the kernel takes an empty range as one up to the end of the file


def test_more_shards_than_open_files_are_read(corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = clips_of(make_loader(corpus.config("dali-vp9")), list(range(10)))
    monkeypatch.setattr("pipeline.shards.shard_files.OPEN_SHARDS", 1)
    loader = make_loader(corpus.config("dali-vp9"))
    assert len(loader.dataset.shards) == 3
    for batch, again in zip(expected, clips_of(loader, list(range(10))), strict=True):
        assert torch.equal(batch.video, again.video)
    assert len(loader._reader.files._open._files) == 1


def test_a_stride_skips_stored_frames(corpus, prepared, codec) -> None:
    loader = make_loader(corpus.config(f"dali-{codec}", clip={"fps": 5.0, "frames": 4}, augment={"enabled": False}))
    dense = make_loader(corpus.config(f"dali-{codec}", clip={"fps": 10.0, "frames": 7}, augment={"enabled": False}))
    ids = [2, 3]
    (sparse,) = loader.uniform_clips(ids, clips=1)
    (full,) = dense.uniform_clips(ids, clips=1)
    assert torch.equal(sparse.start, full.start)
    assert torch.equal(sparse.video, full.video[:, :, ::2])


def test_data_with_one_stream_gives_test_clips_but_cannot_be_trained_on(corpus, prepared) -> None:
    storage = {"fps": 10.0, "short_side": 72, "gop": 8}
    for streams, missing in (("video", "audio"), ("audio", "video")):
        path = prepared(corpus.raw, streams=streams, storage=storage)
        loader = make_loader(corpus.config("dali-vp9", data={"path": str(path)}))
        with pytest.raises(ConfigError, match=rf"10 of 10 samples .* have no {missing}, the first video0.mp4"):
            loader.epoch(0)
        (batch,) = loader.uniform_clips([3], clips=2)
        assert getattr(batch, missing) is None
        assert len(getattr(batch, streams)) == 2


def test_a_sample_rate_other_than_the_stored_one_is_refused(corpus) -> None:
    with pytest.raises(ConfigError, match=r"audio.sample_rate=22050 but .* at 16000 Hz"):
        make_loader(corpus.config("dali-vp9", audio={"sample_rate": 22050}))


def test_a_clip_rate_that_does_not_divide_the_stored_one_is_refused(corpus) -> None:
    with pytest.raises(ConfigError, match=r"clip.fps=8 must be the stored frame rate 10"):
        make_loader(corpus.config("dali-vp9", clip={"fps": 8.0}))


def test_the_cores_are_divided_among_the_processes_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert decode_threads(3) == 3
    assert decode_threads(0) == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert decode_threads(0) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert decode_threads(0) == 1


def test_the_reference_loader_names_the_raw_files_that_it_leaves_out(corpus, tmp_path: Path, caplog) -> None:
    shutil.copy(corpus.raw / "video1.mp4", tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    config = corpus.config("decord", data={"path": str(tmp_path), "labels": ""}, train={"batch_size": 2})
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        loader = make_loader(config)
    assert loader.dataset.source(0) == "good.mp4"
    assert len(loader.dataset) == 1
    assert "1 of 2 files" in caplog.text
    assert "bad.mp4: " in caplog.text
    (tmp_path / "good.mp4").unlink()
    with pytest.raises(ConfigError, match="holds no usable video"):
        make_loader(config)


def test_the_reference_loader_names_a_raw_video_that_cannot_be_decoded(corpus, tmp_path: Path) -> None:
    shutil.copy(corpus.raw / "video1.mp4", tmp_path / "a.mp4")
    loader = make_loader(corpus.config("decord", data={"path": str(tmp_path), "labels": ""}))
    (tmp_path / "a.mp4").write_bytes(b"replaced after the scan")
    with pytest.raises(RawVideoError, match=r"decord cannot decode the video of .*a\.mp4"):
        list(loader.uniform_clips([0], clips=1))


@pytest.mark.parametrize(
    ("codec", "error", "message"), [(b"avc1", ConfigError, "no usable"), (b"mp4a", RawVideoError, "no decoder")]
)
def test_the_reference_loader_refuses_a_track_of_an_unknown_codec(
    corpus, tmp_path: Path, codec, error, message
) -> None:
    """PyAV 17 would crash the process if it decoded such a track."""
    data = (corpus.raw / "video1.mp4").read_bytes().replace(codec, b"zzzz")
    # The esds box also names the audio codec, so hide it too.
    (tmp_path / "a.mp4").write_bytes(data.replace(b"esds", b"zzzz"))
    config = corpus.config("decord", data={"path": str(tmp_path), "labels": ""})
    with pytest.raises(error, match=message):
        clips_of(make_loader(config), [0])


def test_a_label_name_with_line_breaks_gives_a_message_of_one_line(corpus, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text('path,"a\nb"\nvideo1,x\n')
    shutil.copy(corpus.raw / "video1.mp4", tmp_path / "video1.mp4")
    data = {"path": str(tmp_path), "labels": str(tmp_path / "labels.csv"), "split": "train"}
    with pytest.raises(ConfigError, match=r"there are: 'a\\nb'"):
        make_loader(corpus.config("decord", data=data))


def test_both_backends_agree_on_ids_and_labels(corpus) -> None:
    shards, raw = (make_loader(corpus.config(backend)).dataset for backend in ("dali-vp9", "decord"))
    assert [shards.source(i) for i in range(10)] == [raw.source(i) for i in range(10)]
    assert shards.label_columns == raw.label_columns
    for column in shards.label_columns:
        assert np.array_equal(shards.labels(column), raw.labels(column))
        assert shards.label_names(column) == raw.label_names(column)
    assert np.array_equal(shards.frames, raw.frames)
    assert json.dumps(raw.fingerprint)


@pytest.fixture
def aborting_loader(corpus, monkeypatch):
    """A decord loader whose decoder aborts on SAMPLE."""
    monkeypatch.setattr("pipeline.load.reference.decord_loader.decode_frames", decode_or_abort)
    return make_loader(corpus.config("decord", data={"max_bad_fraction": 0.2}))


def test_a_video_that_makes_the_decoder_abort_is_named_and_others_can_be_loaded(aborting_loader) -> None:
    with pytest.raises(RawVideoError, match=r"cannot decode the video of .*video5\.mp4: .*SIGABRT"):
        clips_of(aborting_loader, [SAMPLE])
    (batch,) = clips_of(aborting_loader, [SAMPLE - 1])
    assert batch.ids.tolist() == [SAMPLE - 1]


def test_training_continues_without_a_video_that_makes_the_decoder_abort(aborting_loader) -> None:
    batches = list(aborting_loader.clips(aborting_loader.ids, epoch=0, purpose="pool"))
    loaded = torch.cat([batch.ids for batch in batches])
    assert len(loaded) == len(aborting_loader.ids)
    assert SAMPLE not in loaded.tolist()
    assert [bad.sample for bad in aborting_loader.bad_samples] == [SAMPLE]


def test_a_decoder_ended_by_sigterm_is_not_blamed_on_the_file(corpus, tmp_path, monkeypatch) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(corpus.raw, raw)
    loader = make_loader(corpus.config("decord", data={"path": str(raw)}))
    (wanted,) = clips_of(loader, [SAMPLE])
    monkeypatch.setattr("pipeline.load.reference.decord_loader.decode_frames", decode_or_terminate)
    (batch,) = clips_of(loader, [SAMPLE])
    assert (raw / "terminated").exists()
    assert torch.equal(batch.video, wanted.video)
