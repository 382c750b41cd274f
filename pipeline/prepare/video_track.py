"""Converts decoded frames to a constant rate and a small size: upright, with square pixels, in 8-bit BT.601."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import av.filter
from av.video.frame import VideoFrame

from pipeline.media.orientation import AS_STORED, Orientation, OrientationReader
from pipeline.shards.codecs import CODECS, VideoBlob, frame_rate
from pipeline.shards.encoder import BlobEncoder
from settings import StorageConfig

MAX_ASPECT = 4
"""Largest ratio of long side to short side; a frame that exceeds it is cropped around its centre."""
_TIME_TOLERANCE = 0.001
"""Largest delay in seconds at which a frame is still used for its tick: Matroska and FLV round time stamps to 1 ms."""
_LOOKAHEAD = 4
"""Number of frames that are buffered to sort their time stamps, because AVI numbers frames in decoding order."""
_FLAGGED_HOLD = 2.0
"""Time in seconds; a frame that is shown for longer sets a flag (as in lecture slides or damaged files)."""
_MATRIX = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc", 10: "bt2020c"}
"""AVColorSpace value -> name of the colour matrix in FFmpeg's scale filter; other values are treated as BT.601."""
_FULL_RANGE = 2
"""Value of FFmpeg's AVColorRange for full-range (JPEG) colours."""


@dataclass(frozen=True)
class Geometry:
    """How a decoded frame becomes a stored one.

    Attributes:
        crop: width and height of the central part that is kept, in source pixels.
        scale: width and height to which the crop is resized, in pixels.
        orientation: how the frame is turned and mirrored after scaling.
    """

    crop: tuple[int, int]
    scale: tuple[int, int]
    orientation: Orientation


def plan_geometry(
    *, width: int, height: int, pixel_aspect: Fraction, orientation: Orientation, short_side: int
) -> Geometry:
    """Plans stored frames with square pixels, even sides, and a long side of at most MAX_ASPECT times the short side.

    Args:
        width, height: size of the decoded frame in pixels.
        pixel_aspect: width over height of one pixel.
        orientation: how the frame is turned and mirrored for display.
        short_side: short side of the stored frame in pixels, rounded to an even number.
    """
    aspect = width * pixel_aspect / height
    crop = (width, height)
    if aspect > MAX_ASPECT:
        crop = (max(1, round(width * MAX_ASPECT / aspect)), height)
    elif aspect < Fraction(1, MAX_ASPECT):
        crop = (width, max(1, round(height * MAX_ASPECT * aspect)))
    aspect = min(max(aspect, Fraction(1, MAX_ASPECT)), Fraction(MAX_ASPECT))
    short = _even(short_side)
    scale = (_even(short * aspect), short) if aspect >= 1 else (short, _even(short / aspect))
    return Geometry(crop=crop, scale=scale, orientation=orientation)


def _even(value: float | Fraction) -> int:
    return max(2, 2 * round(Fraction(value) / 2))


class VideoTrack:
    """Samples a stream of frames at storage.fps and encodes the result.

    Tick i is i / fps seconds after the first frame; it stores the last source frame that began at or before it.

    Args:
        pixel_aspect: width over height of one source pixel.
        frame_seconds: duration in seconds of a frame without a stated duration.
        max_seconds: length in seconds at which the track is cut, rounded to whole frames if it is a part.
        part_start: presentation time in seconds of tick 0, if the track is a part of a longer video. It then needs the
            last frame before this time too. That it ends at max_seconds is not flagged.
        scaler: scales the frames; tracks that share one scale a frame once if it is given to them in turn.
    """

    def __init__(
        self,
        *,
        storage: StorageConfig,
        pixel_aspect: Fraction,
        frame_seconds: float,
        max_seconds: float,
        part_start: float | None = None,
        scaler: FrameScaler | None = None,
    ) -> None:
        self._storage = storage
        self._rate = frame_rate(storage.fps)
        self._pixel_aspect = pixel_aspect
        self._frame_seconds = frame_seconds
        self._is_part = part_start is not None
        ticks = max_seconds * self._rate
        self._max_ticks = max(1, round(ticks) if self._is_part else int(ticks))
        self._scaler = scaler or FrameScaler(storage)
        self._encoder: BlobEncoder | None = None
        self._geometry: Geometry | None = None
        self._coded_size = (0, 0)
        self._orientations = OrientationReader()
        self._waiting: deque[VideoFrame] = deque()
        self._stamps: list[float] = []
        self._stamp: float | None = None
        self._held: VideoFrame | None = None
        self._held_time = 0.0
        self._held_scaled: VideoFrame | None = None
        self._held_orientation = AS_STORED
        self._ticks = 0
        self.start: float | None = part_start
        """Presentation time in seconds of t = 0 of the sample: of the first frame, unless the track is a part; None
        while the track is empty."""
        self.lost_seconds = 0.0
        """Duration of the frames that were left out because their time stamps run backwards."""
        self._behind = 0.0
        """Seconds by which the latest frames are behind, while time stamps run backwards."""
        self.frames = 0
        """Number of source frames processed so far."""
        self.flags: dict[str, Any] = {}

    @property
    def full(self) -> bool:
        """Whether the track has reached max_seconds."""
        return self._ticks >= self._max_ticks

    @property
    def end(self) -> float:
        """Time in seconds from the first frame to the end of the latest one."""
        duration = self._frame_seconds
        if self._held is not None and self._held.duration and self._held.time_base:
            duration = float(self._held.duration * self._held.time_base)
        return self._held_time + duration

    def add(self, frame: VideoFrame) -> None:
        """Appends a frame in presentation order; a frame without a time stamp follows its predecessor."""
        stamp = frame.time
        if stamp is None:
            stamp = 0.0 if self._stamp is None else self._stamp + self._frame_seconds
        self._stamp = stamp
        self._waiting.append(frame)
        heapq.heappush(self._stamps, stamp)
        if len(self._waiting) > _LOOKAHEAD:
            self._take(self._waiting.popleft(), heapq.heappop(self._stamps))

    def flush(self) -> None:
        """Processes the frames that are still buffered; call it after the last `add`."""
        while self._waiting:
            self._take(self._waiting.popleft(), heapq.heappop(self._stamps))
        self.lost_seconds += self._behind

    def _take(self, frame: VideoFrame, stamp: float) -> None:
        """Emits the previous frame up to the time stamp of this one, then holds this one."""
        if self.start is None:
            self.start = stamp
        time = stamp - self.start
        if self._held is None:
            self._held_time = time
        if time < self._held_time - _TIME_TOLERANCE:
            # The file is damaged; the frame still replaces its predecessor.
            self.flags["stamps_run_backwards"] = True
            self._behind = max(self._behind, self._held_time - time)
        else:
            self.lost_seconds += self._behind
            self._behind = 0.0
        time = max(time, self._held_time)
        orientation = self._orientations(frame)
        if time - max(self._held_time, 0.0) > _FLAGGED_HOLD:
            held = round(time - max(self._held_time, 0.0), 3)
            self.flags["picture_held_seconds"] = max(held, self.flags.get("picture_held_seconds", held))
        try:
            self._emit_until(time - _TIME_TOLERANCE)
        finally:
            # Done even after an error: a frame that cannot be converted must not block the following ones.
            self._held, self._held_time, self._held_scaled = frame, time, None
            self._held_orientation = orientation
        self.frames += 1
        if frame.interlaced_frame:
            self.flags["interlaced"] = True

    def finish(self, *, hold_until: float | None = None) -> VideoBlob:
        """Emits the last frame for its duration and returns the encoded track.

        Args:
            hold_until: time in seconds until which the last frame is held at least (for a still image with audio).
        """
        end = max(self.end, hold_until or 0.0)
        begun = int((self._held_time + _TIME_TOLERANCE) * self._rate) + 1
        ticks = max(begun, round(end * self._rate))
        if ticks > self._max_ticks and not self._is_part:
            self.flags["cut_at_max_seconds"] = True
        while self._ticks < min(ticks, self._max_ticks):
            self._emit()
        assert self._encoder is not None
        return self._encoder.finish()

    def _emit_until(self, time: float) -> None:
        while self._held is not None and not self.full and self._ticks / self._rate < time:
            self._emit()
        if self.full and not self._is_part:
            self.flags["cut_at_max_seconds"] = True

    def _emit(self) -> None:
        assert self._held is not None
        if self._held_scaled is None:
            self._held_scaled = self._scaler(self._held, self._plan(self._held))
        if self._encoder is None:
            width, height = self._held_scaled.width, self._held_scaled.height
            self._encoder = BlobEncoder(storage=self._storage, width=width, height=height)
        self._encoder.add(self._held_scaled)
        self._ticks += 1

    def _plan(self, frame: VideoFrame) -> Geometry:
        size, orientation, before = (frame.width, frame.height), self._held_orientation, self._geometry
        if before is None or size != self._coded_size or orientation != before.orientation:
            plan = plan_geometry(
                width=frame.width,
                height=frame.height,
                pixel_aspect=self._pixel_aspect,
                orientation=orientation,
                short_side=self._storage.short_side,
            )
            if plan.crop != size:
                self.flags["cropped_to_aspect"] = MAX_ASPECT
            if orientation.tilt:
                self.flags["tilted_degrees"] = orientation.tilt
            if before is not None:
                # All frames of a track are stored at the size of the first one.
                stored = before.orientation.size(*before.scale)
                plan = replace(plan, scale=orientation.size(*stored))
                self.flags["size_changes" if size != self._coded_size else "orientation_changes"] = True
            self._geometry, self._coded_size = plan, size
        assert self._geometry is not None
        return self._geometry


class FrameScaler:
    """Runs frames through an FFmpeg filter graph, which it rebuilds when size, format or colours change."""

    def __init__(self, storage: StorageConfig) -> None:
        self._range = "pc" if CODECS[storage.codec].full_range else "tv"
        self._key: tuple[object, ...] | None = None
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: VideoFrame, geometry: Geometry) -> VideoFrame:
        full = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
        matrix = _MATRIX.get(int(frame.colorspace), "bt470bg")
        key = (frame.width, frame.height, frame.format.name, matrix, full, frame.interlaced_frame, geometry)
        if self._graph is None or key != self._key:
            self._graph, self._key = self._build(frame, geometry, matrix, full), key
        stamp, base = frame.pts, frame.time_base
        frame.pts, frame.time_base = 0, Fraction(1, 1000)
        self._graph.push(frame)
        if base is not None:  # another track may need the frame too
            frame.pts, frame.time_base = stamp, base
        scaled = self._graph.pull()
        assert isinstance(scaled, VideoFrame)
        return scaled

    def _build(self, frame: VideoFrame, geometry: Geometry, matrix: str, full: bool) -> av.filter.Graph:
        is_rgb = frame.format.is_rgb
        graph = av.filter.Graph()
        graph.threads = 1
        buffer = (
            f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/1000:pixel_aspect=1/1"
        )
        steps = [f"crop={geometry.crop[0]}:{geometry.crop[1]}:exact=1"]
        if frame.interlaced_frame:
            # Keeping one of the two fields avoids combing; it usually still has more lines than the stored frame.
            steps.append("field=type=top")
        source = "" if is_rgb else f":in_color_matrix={matrix}:in_range={'pc' if full else 'tv'}"
        width, height = geometry.scale
        steps.append(
            f"scale=w={width}:h={height}:flags=bicubic+accurate_rnd:out_color_matrix=bt601:out_range={self._range}{source}"
        )
        steps += ["format=pix_fmts=yuv420p", *geometry.orientation.filters()]
        nodes = [graph.add("buffer", buffer)]
        nodes += [graph.add(*step.split("=", 1)) for step in steps]
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        return graph


class SharedScaler(FrameScaler):
    """A scaler that keeps its last frame, for tracks that receive the same frames in turn."""

    def __init__(self, storage: StorageConfig) -> None:
        super().__init__(storage)
        self._last: tuple[VideoFrame, Geometry, VideoFrame] | None = None

    def __call__(self, frame: VideoFrame, geometry: Geometry) -> VideoFrame:
        if self._last is None or self._last[0] is not frame or self._last[1] != geometry:
            self._last = frame, geometry, super().__call__(frame, geometry)
        return self._last[2]
