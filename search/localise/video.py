"""Decodes a video and makes its heat maps."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.files import read_json_lines
from common.finite import require_finite
from common.phases import hushed
from common.terminal import printable
from model.encoder import CrossModalModel
from pipeline.load.dali_loader import DaliLoader
from pipeline.plan.clips import ClipPlan
from pipeline.prepare.run import prepare
from pipeline.shards.codecs import CODECS
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import ShardReader
from search.encoders import DIVERGED
from search.localise.heat import Localiser, grid_shape, heat_maps
from settings import Config, ConfigError, PrepareConfig, StorageConfig

log = logging.getLogger(__name__)

LONGEST_SECONDS = 120.0
"""Longest part of a video that is shown."""
SHOWN_PIXELS = 240
"""Length of the shorter side of the shown video in pixels."""
SHOWN_FPS = 20.0
"""Frames per second of the shown video, about: it has a multiple of clip.fps."""


@dataclass(frozen=True, kw_only=True)
class HeatedVideo:
    """A video and where its sound comes from."""

    images: list[bytes]
    """The frames, as JPEG."""
    fps: float
    pcm: np.ndarray
    """int16 [n], the sound."""
    sample_rate: int
    times: np.ndarray
    """float64 [S], ascending: when each heat map holds, in seconds."""
    heat: np.ndarray
    """float32 [S, rows, columns]; see search.localise.heat."""

    def frames(self) -> Iterator[np.ndarray]:
        """The frames in order, uint8 [H, W, 3]."""
        for image in self.images:
            yield np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))

    def at(self, seconds: float) -> np.ndarray:
        """The heat map at a time, interpolated between the two nearest, float32 [rows, columns]."""
        after = int(np.searchsorted(self.times, seconds))
        if after in (0, len(self.times)):
            return self.heat[min(after, len(self.times) - 1)]
        before, span = self.times[after - 1], self.times[after] - self.times[after - 1]
        share = np.float32((seconds - before) / span)
        return self.heat[after - 1] * (1 - share) + self.heat[after] * share


def heat_video(path: Path, config: Config, model: CrossModalModel, *, scratch: Path) -> HeatedVideo:
    """Decodes a file and maps its sound to places, for the whole length of the video.

    Args:
        path: a video with sound, in any format that FFmpeg reads; it is decoded as by pipeline.prepare.
        scratch: an empty folder for temporary shards.

    Raises:
        ConfigError: the file cannot be used, or the encoder has no feature map.
        PrepareError, SampleError: the file has no suffix of a video, or `scratch` cannot be used.
        NotFiniteError: the heat is not finite.
    """
    localiser = Localiser(model, config)
    manifest = _decoded(path, config, scratch)
    data = config.data.without_split(path=str(manifest.root), loader="dali", labels="", max_bad_fraction=0.0)
    loader = DaliLoader(config=replace(config, data=data), batch_size=8, dataset=manifest)
    width, height = int(manifest.width[0]), int(manifest.height[0])
    rows, columns = grid_shape(width, height)
    plan = whole_frames(_consecutive(loader), width, height)
    times, heat = [], []
    for batch in loader.carry_out(plan):
        assert batch.video is not None
        assert batch.audio is not None
        projections = localiser.projections(batch.video)
        maps = heat_maps(projections, localiser.sounds(batch.audio), rows=rows, columns=columns)
        require_finite(maps.reshape(len(maps), -1), "the heat maps", advice=DIVERGED)
        times.append(slice_times(batch.start, maps.shape[1], config))
        heat.append(maps.reshape(-1, rows, columns))
    when = np.concatenate(times)
    order = np.argsort(when, kind="stable")
    images, pcm = _stored(loader)
    return HeatedVideo(
        images=images,
        fps=manifest.storage.fps,
        pcm=pcm,
        sample_rate=manifest.sample_rate,
        times=when[order],
        heat=np.concatenate(heat)[order],
    )


def whole_frames(plan: ClipPlan, width: int, height: int) -> ClipPlan:
    """The plan with whole frames, squeezed to squares, in place of crops, so that no place is missing."""
    return replace(plan, window=np.tile(np.array([0, 0, height, width], dtype=np.int64), (len(plan), 1)))


def slice_times(start: torch.Tensor, slices: int, config: Config) -> np.ndarray:
    """When the maps of clips hold, in seconds, float64 [B * slices]; `start` [B] is the time of the first frames."""
    offsets = np.arange(slices) * config.clip.seconds / slices
    return (start.numpy()[:, None] + offsets).reshape(-1)


def _consecutive(loader: DaliLoader) -> ClipPlan:
    """Clips that follow each other through sample 0; the last one ends where the sample does."""
    seconds, length = float(loader.dataset.seconds[0]), loader.config.clip.seconds
    begin = np.arange(max(1, int(np.ceil(seconds / length - 0.25)))) * length
    begin = np.minimum(begin, max(0.0, seconds - length))
    return loader.planner.windows(np.zeros(len(begin), np.int64), begin, begin + length, clips=1)


def _decoded(path: Path, config: Config, scratch: Path) -> Manifest:
    """Prepares the file as the only sample of a data set, in a worker with limits on time and memory."""
    if not path.is_file():
        raise ConfigError(f"VIDEO must be a file, but {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    source = scratch / "source"
    source.mkdir(parents=True)
    (source / path.name).symlink_to(path.resolve())
    fps = config.clip.fps * max(1, round(SHOWN_FPS / config.clip.fps))
    side = max(SHOWN_PIXELS, 2 * -(-config.clip.size // 2))
    prepared = PrepareConfig(
        storage=StorageConfig(codec="jpeg", fps=min(fps, 240.0), short_side=side, quality=2),
        sample_rate=config.audio.sample_rate,
        max_seconds=LONGEST_SECONDS,
    )
    out = scratch / "shards"
    with hushed():
        summary = prepare(source, out, config=prepared, workers=1)
    if not summary.totals.samples:
        rejected = read_json_lines(out / "rejected.jsonl")[-1]
        raise ConfigError(f"{path} cannot be used: {rejected['reason']}: {rejected['detail']}")
    if "cut_at_max_seconds" in (out / "flagged.jsonl").read_text(encoding="utf-8"):
        log.warning("%s is longer than %g s; only its beginning is shown", printable(path), LONGEST_SECONDS)
    return Manifest.open(out)


def _stored(loader: DaliLoader) -> tuple[list[bytes], np.ndarray]:
    """All JPEG images and the sound, int16 [n], of sample 0."""
    manifest = loader.dataset
    frames, samples = int(manifest.frames[0]), int(manifest.audio_samples[0])
    reader = ShardReader(manifest=manifest, frames=frames, stride=1, audio_samples=samples)
    start = np.zeros(1, dtype=np.int64)
    plan = replace(loader.planner.uniform(start, clips=1), start_frame=start, audio_start=start)
    images = CODECS["jpeg"].read(reader, plan)["encoded"]
    return [image.tobytes() for image in images], reader.pcm(plan)[0]
