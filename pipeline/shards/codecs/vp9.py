"""VP9 in an IVF file: a clip is read from the key frame at or before its start, and is one DALI sample."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from pipeline.plan.clips import ClipPlan
from pipeline.shards.checksums import crc32c
from pipeline.shards.codecs import ivf
from pipeline.shards.codecs.base import Codec, Inputs, VideoBlob, frame_rate
from pipeline.shards.reader import ShardReader

_FOURCC = b"VP90"


class Vp9(Codec):
    """The codec storage.codec=vp9."""

    suffix = "ivf"
    encoder = "libvpx-vp9"
    decoder = "vp9"
    pixel_format = "yuv420p"
    default_quality = 30
    needs_nvdec = True

    def configure(self, encoder: av.VideoCodecContext, *, quality: int, gop: int) -> None:
        encoder.gop_size = gop
        # Without alt-ref frames and lag, the encoder emits one packet per frame in display order, which NVDEC needs.
        # deadline=realtime with cpu-used=5 takes a quarter of the time of deadline=good with cpu-used=4, at the same
        # PSNR and with a tenth more bytes (measured at 256x144).
        encoder.options = {
            "b": "0",
            "crf": str(quality),
            "deadline": "realtime",
            "cpu-used": "5",
            "keyint_min": str(gop),
            "auto-alt-ref": "0",
            "lag-in-frames": "0",
        }

    def pack(self, packets: Sequence[bytes], *, width: int, height: int, rate: Fraction) -> VideoBlob:
        def parts() -> Iterator[bytes]:
            yield ivf.header(_FOURCC, width=width, height=height, rate=rate)
            for index, packet in enumerate(packets):
                yield ivf.frame_header(len(packet), index)
                yield packet

        return VideoBlob(
            data=b"".join(parts()),
            frame_bytes=[ivf.FRAME_HEADER_BYTES + len(packet) for packet in packets],
            first_frame=ivf.HEADER_BYTES,
            width=width,
            height=height,
        )

    def read(self, reader: ShardReader, plan: ClipPlan) -> Inputs:
        """See `Codec.read`: `encoded` holds B IVF files, and `first` the index of each clip's first frame in its file.

        `first` is int32 [B]. Each file begins with a key frame, at most storage.gop - 1 frames before the clip.
        """
        m = reader.manifest
        reader.check_frames(plan.ids)
        ids, first = plan.ids, m.frame_start[plan.ids]
        key_frame = plan.start_frame // m.storage.gop * m.storage.gop
        span = (reader.frames - 1) * reader.stride + 1
        end = np.minimum(plan.start_frame + span, m.frames[ids])
        begin_byte = m.frame_offsets[first + key_frame].astype(np.int64)
        end_byte = m.frame_offsets[first + end].astype(np.int64)
        checksums = reader.checksums(ids, key_frame, end - key_frame)
        files = reader.read(ids, m.video_offset[ids] + begin_byte, end_byte - begin_byte, room=ivf.HEADER_BYTES)
        rate = frame_rate(m.storage.fps)
        spans = zip(key_frame.tolist(), end.tolist(), first.tolist(), strict=True)
        for i, file, stored, (begin, stop, start) in zip(ids.tolist(), files, checksums, spans, strict=True):
            offsets = m.frame_offsets[start + begin : start + stop + 1].astype(np.int64)
            places = (offsets - offsets[0] + ivf.HEADER_BYTES).tolist()
            if stored is not None:
                found = [crc32c(file[place:after].data) for place, after in itertools.pairwise(places)]
                reader.compare(i, found, stored, "frame", numbers=range(begin, stop))
            if not _is_vp9(file, places):
                raise reader.mismatch(i, "there is no VP9 video where the manifest says")
            header = ivf.header(_FOURCC, width=int(m.width[i]), height=int(m.height[i]), rate=rate)
            file[: ivf.HEADER_BYTES] = np.frombuffer(header, dtype=np.uint8)
        return {"encoded": files, "first": (plan.start_frame - key_frame).astype(np.int32)}

    def samples_per_clip(self, frames: int) -> int:
        return 1

    def decode(self, *, device: str, frames: int, stride: int) -> Any:
        """See `Codec.decode`: complete frames, [T, H, W, 3] per clip."""
        from nvidia.dali import fn
        from nvidia.dali.types import DALIDataType

        return fn.decoders.video(
            fn.external_source(name="encoded", dtype=DALIDataType.UINT8, ndim=1),
            device=device,
            start_frame=fn.external_source(name="first", dtype=DALIDataType.INT32, ndim=0),
            sequence_length=frames,
            stride=stride,
            pad_mode="edge",
        )

    def cpu_window(self, plan: ClipPlan, *, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Complete frames, because a part of a VP9 frame cannot be decoded alone."""
        zeros = np.zeros_like(plan.ids)
        return np.stack([zeros, zeros, heights, widths], axis=1)

    def cpu_arguments(self, window: np.ndarray, *, frames: int) -> Inputs:
        return {}


def _is_vp9(file: np.ndarray, offsets: list[int]) -> bool:
    """Whether an IVF file has its frames at the given byte offsets, and the first is a key frame.

    DALI hangs on a file whose last frame is shorter than its header says.

    Args:
        file: uint8 [bytes].
        offsets: where each frame begins, and where the last one ends.
    """
    for offset, end in itertools.pairwise(offsets):
        if not 0 <= offset <= end - ivf.FRAME_HEADER_BYTES <= len(file) - ivf.FRAME_HEADER_BYTES:
            return False
        if offset + ivf.FRAME_HEADER_BYTES + ivf.frame_size(file.data, offset) != end:
            return False
    start = offsets[0] + ivf.FRAME_HEADER_BYTES
    if start + 4 > len(file):
        return False
    # The first byte holds frame marker, profile 0, "not a repeated frame" and "key frame"; the sync code follows.
    return file[start] & 0xFC == 0x80 and file[start + 1 : start + 4].tobytes() == b"\x49\x83\x42"
