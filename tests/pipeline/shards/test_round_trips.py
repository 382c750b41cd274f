"""Round trips: manifests, tar members, WAV files and parts of IVF and JPEG blobs are read back as written."""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.plan.clips import ClipPlanner
from pipeline.shards.codecs import CODECS, VideoBlob
from pipeline.shards.manifest import Manifest
from pipeline.shards.manifest_writer import write_manifest
from pipeline.shards.reader import ShardError, ShardReader
from pipeline.shards.tar_writer import END_OF_TAR, NormalisedMedia, RowError, sample_bytes, sample_row
from settings import Config, PrepareConfig, StorageConfig, from_dict

QUICK = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
KEY = "0123456789abcdef0123"
VP9_KEY_FRAME = b"\x82\x49\x83\x42"
"""The part of a key frame that the reader checks: frame marker and sync code."""


@st.composite
def rows(draw: st.DrawFn) -> list[dict]:
    sources = draw(st.lists(TEXT.filter(bool), unique=True, max_size=6))
    sizes = st.lists(st.integers(1, 2**20), max_size=5)
    side, place = st.integers(1, 65535), st.integers(0, 2**40)
    made = []
    for source in sources:
        frames = draw(sizes)
        samples = draw(st.sampled_from([0, 1600 * len(frames)])) if frames else draw(st.integers(1, 2**31 - 1))
        made.append(
            {
                **{"source": source, "shard": draw(st.integers(0, 1)), "labels": {"kind": draw(TEXT)}},
                **{"frame_bytes": frames, "first_frame": draw(st.sampled_from([0, 32]))},
                **{name: draw(side) if frames else 0 for name in ("width", "height")},
                **{"audio_samples": samples, "audio_offset": draw(place) if samples else -1},
                **{"video_offset": draw(place) if frames else -1, "checksum_offset": draw(place)},
            }
        )
    return made


@QUICK
@given(written=rows())
def test_a_manifest_is_read_back_as_written(tmp_path, written):
    names = ["shard-000000.tar", "shard-000001.tar"]
    write_manifest(
        *(tmp_path, written), shards=names, shard_bytes=[2**41, 2**41], label_columns=["kind"], storage=StorageConfig(),
        sample_rate=16000, streams="both",
    )  # fmt: skip
    manifest = Manifest.open(tmp_path, verify=True)  # without the shards
    known = manifest.label_names("kind")
    assert known == sorted({row["labels"]["kind"] for row in written} - {""})
    expected = sorted(written, key=lambda row: row["source"].encode())
    assert [manifest.source(i) for i in range(len(manifest))] == [row["source"] for row in expected]
    for i, row in enumerate(expected):
        code = manifest.labels("kind")[i]
        assert (known[code] if code >= 0 else "") == row["labels"]["kind"]
        offsets = manifest.frame_offsets[manifest.frame_start[i] : manifest.frame_start[i + 1]].tolist()
        sizes = row["frame_bytes"]
        assert offsets == (list(itertools.accumulate(sizes, initial=row["first_frame"])) if sizes else [])
        for name in ("shard", "width", "height", "audio_samples", "video_offset", "audio_offset", "checksum_offset"):
            assert getattr(manifest, name)[i] == row[name]


@st.composite
def media(draw: st.DrawFn) -> NormalisedMedia:
    packets = draw(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5))
    pcm = np.array(draw(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=300)), dtype=np.int16)
    video = VideoBlob(
        data=b"".join(packets), frame_bytes=[len(packet) for packet in packets], first_frame=0, width=64, height=48
    )
    kept = draw(st.sampled_from(["both", "video", "audio"]))
    return NormalisedMedia(
        video=None if kept == "audio" else video, pcm=None if kept == "video" else pcm, flags={"interlaced": True}
    )


@QUICK
@given(sample=media(), source=TEXT, labels=st.dictionaries(TEXT, TEXT, max_size=3), rate=st.integers(8000, 48000))
def test_a_sample_is_read_back_from_its_tar_members(sample, source, labels, rate):
    config = from_dict(PrepareConfig, {"sample_rate": rate, "storage": {"codec": "jpeg"}})
    data = sample_bytes(sample, key=KEY, source=source, labels=labels, config=config)
    row = sample_row(io.BytesIO(data))
    assert (row["source"], row["labels"], row["flags"]) == (source, labels, sample.flags)
    with tarfile.open(fileobj=io.BytesIO(data + END_OF_TAR)) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    suffixes = (["mjpeg"] if sample.video else []) + (["wav"] if sample.pcm is not None else []) + ["crc32c", "json"]
    assert list(members) == [f"{KEY}.{suffix}" for suffix in suffixes]
    if sample.video is not None:
        begin = row["video_offset"]
        assert data[begin : begin + sum(row["frame_bytes"])] == sample.video.data == members[f"{KEY}.mjpeg"]
    if sample.pcm is not None:
        begin = row["audio_offset"]
        assert data[begin : begin + 2 * row["audio_samples"]] == sample.pcm.tobytes()
        with wave.open(io.BytesIO(members[f"{KEY}.wav"])) as sound:
            assert sound.getparams()[:4] == (1, 2, rate, len(sample.pcm))
            assert sound.readframes(len(sample.pcm)) == sample.pcm.tobytes()


@QUICK
@given(data=st.binary(max_size=1200) | st.binary(max_size=600).map(lambda tail: tarred("k.json", tail)))
def test_any_bytes_are_read_as_a_sample_or_refused_as_damaged(data):
    refusal = None
    try:
        assert isinstance(sample_row(io.BytesIO(data))["source"], str)
    except RowError as error:
        refusal = error
    assert refusal is None or len(str(refusal).splitlines()) == 1


def tarred(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def jpeg(width: int, height: int, tail: bytes) -> bytes:
    """The part of a JPEG image that the reader checks."""
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + frame + b"\xff\xda\x00\x02" + tail


def shard_of(root: Path, codec: str, packets: list[bytes], pcm: np.ndarray, gop: int) -> Manifest:
    """Prepares a folder with one sample, whose video starts at byte 100 of its shard."""
    blob, sizes, first = b"".join(packets), [len(packet) for packet in packets], 0
    if codec == "vp9":
        frames = [struct.pack("<IQ", len(packet), index) + packet for index, packet in enumerate(packets)]
        blob, sizes, first = bytes(32) + b"".join(frames), [len(frame) for frame in frames], 32
    data = bytes(100) + blob + pcm.tobytes() + bytes(50)
    (root / "shard-000000.tar").write_bytes(data)
    row = {
        **{"source": "a", "shard": 0, "labels": {}, "frame_bytes": sizes, "first_frame": first},
        **{"width": 64, "height": 48, "video_offset": 100},
        **{"audio_offset": 100 + len(blob), "audio_samples": len(pcm)},
    }
    storage = StorageConfig(codec=codec, gop=gop)
    write_manifest(
        *(root, [row]), shards=["shard-000000.tar"], shard_bytes=[len(data)], label_columns=[], storage=storage,
        sample_rate=16000, streams="both",
    )  # fmt: skip
    return Manifest.open(root)


@QUICK
@given(
    tails=st.lists(st.binary(max_size=30), min_size=1, max_size=12), gop=st.integers(1, 5), frames=st.integers(1, 6),
    stride=st.integers(1, 3), epoch=st.integers(0, 99), damage=st.none() | st.integers(0, 2000),
)  # fmt: skip
@pytest.mark.parametrize("codec", ["vp9", "jpeg"])
def test_the_frames_and_audio_of_a_clip_are_read_from_the_shard(
    tmp_path, codec, tails, gop, frames, stride, epoch, damage
):
    key = [VP9_KEY_FRAME + tail for tail in tails]
    packets = key if codec == "vp9" else [jpeg(64, 48, tail) for tail in tails]
    pcm = np.arange(1600 * len(packets), dtype=np.int16)
    manifest = shard_of(tmp_path, codec, packets, pcm, gop)
    config = from_dict(Config, {"clip": {"frames": frames, "fps": 10 / stride}})
    plan = ClipPlanner(config=config, dataset=manifest, fps=10.0).train(np.array([0]), epoch=epoch, purpose="train")
    reader = ShardReader(manifest=manifest, frames=frames, stride=stride, audio_samples=config.audio_samples)
    if damage is not None:
        path = tmp_path / "shard-000000.tar"
        data = bytearray(path.read_bytes())
        data[damage % len(data)] ^= 0xFF
        path.write_bytes(data)
        with contextlib.suppress(ShardError):
            CODECS[codec].read(reader, plan)
            reader.pcm(plan)
        return
    start, length = int(plan.start_frame[0]), len(packets)
    wanted = [min(start + index * stride, length - 1) for index in range(frames)]
    inputs = CODECS[codec].read(reader, plan)
    if codec == "jpeg":
        images = [packets[index] for index in wanted]
        longest = max(map(len, images))
        assert [bytes(image) for image in inputs["encoded"]] == [image.ljust(longest, b"\0") for image in images]
    else:
        (blob,), (first,) = inputs["encoded"], inputs["first"]
        found = ivf_packets(bytes(blob))
        assert [found[min(first + index * stride, len(found) - 1)] for index in range(frames)] == [
            packets[index] for index in wanted
        ]
        assert (start - first) % gop == 0
    window = pcm[plan.audio_start[0] :][: config.audio_samples]
    assert reader.pcm(plan)[0].tolist() == window.tolist() + [0] * (config.audio_samples - len(window))


def test_an_index_with_an_enormous_image_is_refused_before_memory_is_allocated(tmp_path):
    manifest = shard_of(tmp_path, "jpeg", [jpeg(64, 48, b"picture")] * 2, np.zeros(3200, np.int16), 1)
    manifest.frame_offsets = manifest.frame_offsets.astype(np.int64)
    manifest.frame_offsets[-1] += 2**50
    manifest.shard_bytes = manifest.shard_bytes + 2**51
    config = from_dict(Config, {"clip": {"frames": 2, "fps": 10}})
    plan = ClipPlanner(config=config, dataset=manifest, fps=10.0).train(np.array([0]), epoch=0, purpose="train")
    reader = ShardReader(manifest=manifest, frames=2, stride=1, audio_samples=config.audio_samples)
    with pytest.raises(ShardError, match="no JPEG image where the manifest says, for sample 0"):
        CODECS["jpeg"].read(reader, plan)


def ivf_packets(blob: bytes) -> list[bytes]:
    signature, version, header, codec, width, height = struct.unpack_from("<4sHH4sHH", blob)
    assert (signature, version, header, codec, width, height) == (b"DKIF", 0, 32, b"VP90", 64, 48)
    packets, place = [], 32
    while place < len(blob):
        (size,) = struct.unpack_from("<I", blob, place)
        packets.append(blob[place + 12 : place + 12 + size])
        place += 12 + size
    assert place == len(blob)
    return packets
