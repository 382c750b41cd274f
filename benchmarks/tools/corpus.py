"""Stores the same source videos in every form that the loaders read: ordinary video files and prepared shards."""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from common.environment import ROOT
from common.files import read_json_lines
from common.terminal import printable
from pipeline.prepare.audio_track import AudioTrack

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Recipe:
    """How videos are encoded as files."""

    codec: str
    """FFmpeg's name of the encoder."""
    short_side: int
    """Length of the shorter side in pixels."""
    fps: float | None
    """Frame rate; None keeps the source's."""
    options: dict[str, str]
    """The encoder's options."""
    suffix: str = ".mp4"
    """Suffix of the files, which determines the container."""


@dataclass(frozen=True)
class Recording:
    """A stored video and its audio."""

    video: Path
    audio: Path
    """WAV file, 16 kHz mono PCM."""
    seconds: float
    width: int
    height: int


H264 = {"crf": "23", "preset": "medium"}
RECIPES = {
    "h264_256": Recipe("libx264", 256, None, H264 | {"g": "250"}),
    "h264_144_gop250": Recipe("libx264", 144, 10, H264 | {"g": "250"}),
    "h264_144": Recipe("libx264", 144, 10, H264 | {"g": "16"}),
    "mjpeg_144": Recipe("mjpeg", 144, 10, {"qmin": "4", "qmax": "4"}, suffix=".mkv"),
}
"""h264_256 stands for ordinary video files. The others have the size and frame rate of our shards, mjpeg_144 also the
JPEG quality."""
SHARDS = ("shards_vp9_144", "shards_jpeg_144")
"""The prepared shards that are measured by default."""


def shard_settings(name: str) -> list[str] | None:
    """pipeline.prepare's settings for `shards_CODEC_SIDE` or `shards_CODEC_SIDE_gopN`; None for any other name."""
    found = re.fullmatch(r"shards_(vp9|jpeg)_(\d+)(?:_gop(\d+))?", name)
    if found is None:
        return None
    codec, side, gop = found.groups()
    settings = [f"storage.codec={codec}", "storage.fps=10", f"storage.short_side={side}"]
    return settings + ([f"storage.gop={gop}"] if gop else [])


def usable_sources(folder: Path, *, seconds: float) -> list[Path]:
    """Paths of the videos in a folder that have audio and last at least `seconds`, sorted.

    Raises:
        SystemExit: the folder has none.
    """
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            with av.open(str(path)) as container:
                long_enough = (container.duration or 0) / av.time_base >= seconds
                if container.streams.video and container.streams.audio and long_enough:
                    found.append(path)
        except (av.error.FFmpegError, OSError):
            continue
    if not found:
        raise SystemExit(f"--videos {folder}: found no video with audio that lasts at least {seconds:g} s")
    return found


def corpus_folder(work: Path, sources: list[Path]) -> Path:
    """Path of the folder in `work` for the stored forms of these sources, so that no others are measured instead."""
    digest = hashlib.blake2b(digest_size=8)
    for source in sources:
        status = source.stat()
        digest.update(f"{source.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return work / f"sources-{digest.hexdigest()}"


def make_corpus(sources: list[Path], out: Path, names: list[str]) -> None:
    """Stores the sources in every named form that does not exist yet; an interrupted form is stored again.

    Args:
        out: the `corpus_folder` of the sources; a form in it is kept as it is.

    Raises:
        SystemExit: pipeline.prepare rejects a source, so that shards would lack it.
    """
    for name in names:
        target = out / name
        if target.is_dir():
            continue
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        print(f"storing {len(sources)} videos as {name}", file=sys.stderr)
        settings = shard_settings(name)
        if settings is not None:
            _prepare(sources, part, settings)
        else:
            for i, source in enumerate(sources):
                transcode(source, part / f"{i:05d}{RECIPES[name].suffix}", RECIPES[name])
        part.rename(target)


def recordings(folder: Path) -> list[Recording]:
    """The videos that `make_corpus` stored as files, in order."""
    return [_recording(path) for path in sorted(folder.iterdir()) if path.suffix != ".wav"]


def transcode(source: Path, target: Path, recipe: Recipe) -> None:
    """Encodes the video by the recipe; the audio goes into a WAV file beside it that starts with the first frame."""
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        rate = Fraction(recipe.fps or stream.average_rate).limit_denominator(1001)
        short = min(stream.width, stream.height)
        width, height = (2 * round(side * recipe.short_side / short / 2) for side in (stream.width, stream.height))
        with av.open(str(target), "w") as out:
            video = out.add_stream(recipe.codec, rate=rate, options=recipe.options)
            video.width, video.height = width, height
            video.pix_fmt = "yuvj420p" if recipe.codec == "mjpeg" else "yuv420p"
            start, count = None, 0
            for number, frame in enumerate(at_rate(container, rate)):
                start, count = frame.time if start is None else start, number + 1
                scaled = frame.reformat(width, height, format=video.pix_fmt, interpolation="BICUBIC")
                scaled.pts, scaled.time_base = number, 1 / rate
                out.mux(video.encode(scaled))
            out.mux(video.encode(None))
    _store_audio(source, target.with_suffix(".wav"), start=start, seconds=count / float(rate))


def at_rate(container: av.container.InputContainer, rate: Fraction) -> Iterator[av.VideoFrame]:
    """Frames of the first video stream at a constant rate: at each time, the frame that a player would show.

    The last time is before the last frame ends. A video with any frames has at least one.
    """
    number, origin, current, lasts = 0, None, None, 0.0
    for frame in container.decode(video=0):
        origin = frame.time if origin is None else origin
        while current is not None and number / rate < frame.time - origin - 1e-6:
            yield current
            number += 1
        if frame.duration:
            lasts = float(frame.duration * frame.time_base)
        elif current is not None:  # the container does not say how long its frames last
            lasts = frame.time - current.time
        current = frame
    # Up to a millisecond earlier, because some containers round times to milliseconds.
    while current is not None and (number == 0 or number / rate < current.time - origin + lasts - 1e-3):
        yield current
        number += 1


def frames_of(path: Path, *, fps: float, count: int) -> list[np.ndarray]:
    """The first `count` frames at a rate of `fps`, uint8 [H, W, 3] RGB; fewer if the video is shorter."""
    with av.open(str(path)) as container:
        frames = itertools.islice(at_rate(container, Fraction(fps)), count)
        return [frame.to_ndarray(format="rgb24") for frame in frames]


def _store_audio(source: Path, target: Path, *, start: float, seconds: float) -> None:
    track = AudioTrack(sample_rate=SAMPLE_RATE)
    with av.open(str(source)) as container:
        for frame in container.decode(audio=0):
            track.add(frame)
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(track.finish(start=start, samples=round(seconds * SAMPLE_RATE)).tobytes())


def _recording(path: Path) -> Recording:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        seconds = container.duration / av.time_base
        return Recording(path, path.with_suffix(".wav"), seconds, stream.width, stream.height)


def _prepare(sources: list[Path], out: Path, overrides: list[str]) -> None:
    """Prepares shards from numbered links to the sources, so that the ids follow the order of the sources."""
    links = out / "links"
    links.mkdir()
    for i, source in enumerate(sources):
        (links / f"{i:05d}{source.suffix}").symlink_to(source.resolve())
    command = [sys.executable, "-m", "pipeline.prepare", str(links), str(out / "shards"), *overrides]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    if rejected := read_json_lines(out / "shards" / "rejected.jsonl"):
        path = (links / rejected[0]["source"]).resolve()
        why = (
            f"pipeline.prepare rejects {len(rejected)} of these videos, the first because of {rejected[0]['reason']!r}"
        )
        raise SystemExit(f"{printable(path)}: {printable(why)}; move it out of --videos")
