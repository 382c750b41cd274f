"""Valid originals for the cases to damage: small videos in many containers, prepared data sets, a checkpoint."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from model.encoder import build_model
from pipeline.prepare.run import prepare
from settings import Config, PrepareConfig, from_dict, to_dict

FPS, SECONDS, WIDTH, HEIGHT = 10, 0.8, 64, 48
# Suffix -> video codec, audio codec, sample rate in Hz.
_CONTAINERS: dict[str, tuple[str, str, int]] = {
    "mp4": ("libx264", "aac", 16000),
    "mkv": ("libvpx", "pcm_s16le", 16000),
    "avi": ("mpeg4", "pcm_s16le", 16000),
    "webm": ("libvpx-vp9", "libopus", 48000),
    "mov": ("mjpeg", "pcm_s16le", 22050),
    "ts": ("mpeg2video", "mp2", 48000),
    "flv": ("flv", "aac", 44100),
    "wav": ("", "pcm_s16le", 16000),
    "flac": ("", "flac", 16000),
}
SETTINGS = {"storage": {"short_side": 32, "gop": 4}, "shard_samples": 3}
"""PrepareConfig settings of the prepared data sets, without the codec."""
MODEL = {"video": "tiny", "audio": "tiny", "dim": 4, "hidden": 8}


def media(folder: Path) -> dict[str, bytes]:
    """Returns suffix -> bytes of a short media file with moving noise and a tone."""
    folder.mkdir(exist_ok=True)
    result = {}
    for suffix, (video_codec, audio_codec, rate) in _CONTAINERS.items():
        path = folder / f"original.{suffix}"
        if not path.exists():
            _write(path, video_codec, audio_codec, rate)
        result[suffix] = path.read_bytes()
    return result


def _write(path: Path, video_codec: str, audio_codec: str, rate: int) -> None:
    rng = np.random.default_rng(0)
    fps = 25 if video_codec == "mpeg2video" else FPS
    with av.open(str(path), "w") as container:
        if video_codec:
            video: Any = container.add_stream(video_codec, rate=fps)
            video.width, video.height = WIDTH, HEIGHT
            video.pix_fmt = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
            video.codec_context.thread_count = 1
        audio: Any = container.add_stream(audio_codec, rate=rate, layout="mono")
        ground = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8) // 4
        for index in range(round(SECONDS * fps) if video_codec else 0):
            frame = av.VideoFrame.from_ndarray(np.roll(ground, 3 * index, axis=1), format="rgb24")
            container.mux(video.encode(frame.reformat(format=video.pix_fmt)))
        if video_codec:
            container.mux(video.encode(None))
        tone = np.sin(2 * np.pi * 440 * np.arange(round(SECONDS * rate)) / rate)
        wave = av.AudioFrame.from_ndarray((8000 * tone).astype(np.int16)[None], format="s16", layout="mono")
        wave.sample_rate, wave.pts, wave.time_base = rate, 0, Fraction(1, rate)
        container.mux(audio.encode(wave))
        container.mux(audio.encode(None))


def prepare_config(codec: str) -> PrepareConfig:
    """Returns the settings of the prepared data set of a codec."""
    return from_dict(PrepareConfig, {**SETTINGS, "storage": {**SETTINGS["storage"], "codec": codec}})  # type: ignore[dict-item]


def prepared(folder: Path) -> dict[str, Path]:
    """Returns codec -> folder of a prepared data set: five videos in two shards, with two label columns."""
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for number, suffix in enumerate(("mp4", "mkv", "avi", "mov", "mp4")):
        video_codec, audio_codec, rate = _CONTAINERS[suffix]
        if not (videos / f"{number}.{suffix}").exists():
            _write(videos / f"{number}.{suffix}", video_codec, audio_codec, rate)
    labels = folder / "labels.csv"
    labels.write_text("path,kind,split\n" + "".join(f"{n},k{n % 3},{'test' if n > 3 else 'train'}\n" for n in range(5)))
    result = {}
    for codec in ("vp9", "jpeg"):
        out = result[codec] = folder / codec
        if not (out / "manifest" / "meta.json").exists():
            prepare(videos, out, config=prepare_config(codec), labels_path=labels, workers=1)
    return result


def checkpoint() -> bytes:
    """Returns the bytes of a checkpoint of a tiny model."""
    config = from_dict(Config, {"model": MODEL})
    model = build_model(config.model, audio=config.audio, seed=0)
    buffer = io.BytesIO()
    torch.save({"format": 1, "step": 3, "config": to_dict(config), "model": model.state_dict()}, buffer)
    return buffer.getvalue()
