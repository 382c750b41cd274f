"""Decodes the frames of a clip with each library: (file, times of the frames in seconds) -> uint8 [T, 3, H, W].

For each time, decord and PyAV return the nearest frame, and torchcodec the one shown at that time; SPDL resamples the
video to the step between the times, which must be equally spaced.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

Decode = Callable[[Path, np.ndarray], torch.Tensor]


def decord(path: Path, seconds: np.ndarray) -> torch.Tensor:
    import decord as library

    reader = library.VideoReader(str(path), num_threads=1)
    frames = np.rint(seconds * reader.get_avg_fps()).astype(int).clip(max=len(reader) - 1)
    return torch.from_numpy(reader.get_batch(frames.tolist()).asnumpy()).permute(0, 3, 1, 2)


def pyav(path: Path, seconds: np.ndarray) -> torch.Tensor:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        container.seek(int(seconds[0] / stream.time_base), stream=stream)
        frames: list[np.ndarray] = []
        before = None
        for frame in container.decode(stream):
            while len(frames) < len(seconds) and frame.time >= seconds[len(frames)]:
                wanted = seconds[len(frames)]
                nearer_before = before is not None and wanted - before.time < frame.time - wanted
                frames.append((before if nearer_before else frame).to_ndarray(format="rgb24"))
            if len(frames) == len(seconds):
                break
            before = frame
        while len(frames) < len(seconds):
            frames.append(before.to_ndarray(format="rgb24"))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def torchcodec_exact(path: Path, seconds: np.ndarray) -> torch.Tensor:
    return _torchcodec(path, seconds, "exact")


def torchcodec_approximate(path: Path, seconds: np.ndarray) -> torch.Tensor:
    return _torchcodec(path, seconds, "approximate")


def torchcodec_cuda(path: Path, seconds: np.ndarray) -> torch.Tensor:
    """Decodes on NVDEC; the frames stay on the GPU."""
    return _torchcodec(path, seconds, "approximate", device="cuda")


def _torchcodec(path: Path, seconds: np.ndarray, seek_mode: str, device: str = "cpu") -> torch.Tensor:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, seek_mode=seek_mode, num_ffmpeg_threads=1, device=device)
    # A millisecond later, so that rounding does not select the frame before.
    return decoder.get_frames_played_at(seconds=(seconds + 1e-3).tolist()).data


def spdl(path: Path, seconds: np.ndarray) -> torch.Tensor:
    import spdl.io as library

    # A single time has no step; any that is not shorter than a frame will do.
    step = (seconds[-1] - seconds[0]) / (len(seconds) - 1) if len(seconds) > 1 else 0.1
    window = (float(seconds[0]), float(seconds[-1] + step))
    packets = library.demux_video(str(path), timestamp=window)
    # The filter graph sets the frame rate, so frames outside the clip's grid are never converted to RGB.
    description = library.get_video_filter_desc(
        timestamp=window, frame_rate=(round(1 / step * 1000), 1000), num_frames=len(seconds), pix_fmt="rgb24"
    )
    frames = library.decode_packets(packets, filter_desc=description)
    return library.to_torch(library.convert_frames(frames)).permute(0, 3, 1, 2)


DECODERS: dict[str, Decode] = {
    "decord": decord,
    "pyav": pyav,
    "torchcodec_exact": torchcodec_exact,
    "torchcodec_approximate": torchcodec_approximate,
    "torchcodec_cuda": torchcodec_cuda,
    "spdl": spdl,
}
