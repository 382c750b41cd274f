"""Brings decoded frames to a constant frame rate, upright, with square pixels, small, 8-bit BT.601."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av.filter
from av.video.frame import VideoFrame

from pipeline.shards.codecs import CODECS, VideoBlob, frame_rate
from pipeline.shards.encoder import BlobEncoder
from settings import StorageConfig

MAX_ASPECT = 4
"""Pictures longer than this many times their short side are cut to it around their centre."""
# Matroska and FLV round times to a millisecond: a frame stamped that much late still counts as shown at its tick.
_TIME_TOLERANCE = 0.001
# AVI gives frames in display order the stamps of their decoding order: a few frames wait until the stamps are sorted.
_LOOKAHEAD = 4
# Longer than slides in a lecture change, or a gap after damage: told, since the frames between are repeats.
_FLAGGED_HOLD = 2.0
# Values of FFmpeg's AVColorSpace that its scale filter knows by name; anything else is read as BT.601, its default.
_MATRIX = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc", 10: "bt2020c"}
_FULL_RANGE = 2


@dataclass(frozen=True)
class Geometry:
    """How a coded picture becomes a stored one: crop (source pixels), scale, quarter turns clockwise."""

    crop: tuple[int, int]
    scale: tuple[int, int]
    turns: int


def plan_geometry(*, width: int, height: int, pixel_aspect: Fraction, rotation: int, short_side: int) -> Geometry:
    """Plans square pixels, an even short side of `short_side` and a long side of at most MAX_ASPECT times that.

    Args:
        width, height: pixels of the coded picture.
        pixel_aspect: width over height of one pixel.
        rotation: FFmpeg's display rotation, degrees counter-clockwise; rounded to quarter turns.
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
    return Geometry(crop=crop, scale=scale, turns=round(-rotation / 90) % 4)


def _even(value: float | Fraction) -> int:
    return max(2, 2 * round(Fraction(value) / 2))


class VideoTrack:
    """Samples a stream of frames at storage.fps and encodes what is shown at each tick.

    Tick i lies i / fps after the first frame's time; the frame shown is the last one that began at or before it.
    """

    def __init__(
        self, *, storage: StorageConfig, pixel_aspect: Fraction, frame_seconds: float, max_seconds: float
    ) -> None:
        self._storage = storage
        self._rate = frame_rate(storage.fps)
        self._pixel_aspect = pixel_aspect
        self._frame_seconds = frame_seconds
        self._max_ticks = max(1, int(max_seconds * self._rate))
        self._scaler = _Scaler(full_range=CODECS[storage.codec].full_range)
        self._encoder: BlobEncoder | None = None
        self._geometry: Geometry | None = None
        self._coded_size = (0, 0)
        self._waiting: deque[VideoFrame] = deque()
        self._stamps: list[float] = []
        self._stamp: float | None = None
        self._held: VideoFrame | None = None
        self._held_time = 0.0
        self._held_scaled: VideoFrame | None = None
        self._ticks = 0
        self.start: float | None = None
        """Presentation time of the first frame in seconds: t = 0 of the sample's time line."""
        self.frames = 0
        """Frames taken from the source."""
        self.flags: dict[str, Any] = {}

    @property
    def full(self) -> bool:
        """Whether max_seconds have been stored."""
        return self._ticks >= self._max_ticks

    @property
    def end(self) -> float:
        """Seconds from the first frame to the end of the last one so far."""
        duration = self._frame_seconds
        if self._held is not None and self._held.duration and self._held.time_base:
            duration = float(self._held.duration * self._held.time_base)
        return self._held_time + duration

    def add(self, frame: VideoFrame) -> None:
        """Takes the next frame in presentation order; one without a time follows its predecessor."""
        stamp = frame.time
        if stamp is None:
            stamp = 0.0 if self._stamp is None else self._stamp + self._frame_seconds
        self._stamp = stamp
        self._waiting.append(frame)
        heapq.heappush(self._stamps, stamp)
        if len(self._waiting) > _LOOKAHEAD:
            self._take(self._waiting.popleft(), heapq.heappop(self._stamps))

    def flush(self) -> None:
        """Takes the frames that were held back; to be called after the last `add`."""
        while self._waiting:
            self._take(self._waiting.popleft(), heapq.heappop(self._stamps))

    def _take(self, frame: VideoFrame, stamp: float) -> None:
        if self.start is None:
            self.start = stamp
        time = stamp - self.start
        if time < self._held_time - _TIME_TOLERANCE:
            # Damage: the picture still replaces the one before it.
            self.flags["stamps_run_backwards"] = True
        time = max(time, self._held_time)
        if time - self._held_time > _FLAGGED_HOLD:
            held = round(time - self._held_time, 3)
            self.flags["picture_held_seconds"] = max(held, self.flags.get("picture_held_seconds", held))
        try:
            self._show_until(time - _TIME_TOLERANCE)
        finally:
            # A picture that cannot be converted must not keep the next ones out.
            self._held, self._held_time, self._held_scaled = frame, time, None
        self.frames += 1
        if frame.interlaced_frame:
            self.flags["interlaced"] = True

    def finish(self, *, hold_until: float | None = None) -> VideoBlob:
        """Stores the last frame for its duration and returns the encoded track.

        Args:
            hold_until: seconds; the last frame is held at least that long (a still picture under sound).
        """
        end = max(self.end, hold_until or 0.0)
        begun = int((self._held_time + _TIME_TOLERANCE) * self._rate) + 1
        ticks = max(begun, round(end * self._rate))
        if ticks > self._max_ticks:
            self.flags["cut_at_max_seconds"] = True
        while self._ticks < min(ticks, self._max_ticks):
            self._emit()
        assert self._encoder is not None
        return self._encoder.finish()

    def _show_until(self, time: float) -> None:
        while self._held is not None and not self.full and self._ticks / self._rate < time:
            self._emit()
        if self.full:
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
        size = (frame.width, frame.height)
        if self._geometry is None or size != self._coded_size:
            plan = plan_geometry(
                width=frame.width,
                height=frame.height,
                pixel_aspect=self._pixel_aspect,
                rotation=frame.rotation,
                short_side=self._storage.short_side,
            )
            if plan.crop != size:
                self.flags["cropped_to_aspect"] = MAX_ASPECT
            if self._geometry is not None:
                # A track has one size: later pictures of another are scaled to the first's.
                self.flags["size_changes"] = True
                plan = Geometry(crop=plan.crop, scale=self._geometry.scale, turns=self._geometry.turns)
            self._geometry, self._coded_size = plan, size
        return self._geometry


class _Scaler:
    """One FFmpeg filter graph for each kind of frame met."""

    _TURNS = (("null",), ("transpose=clock",), ("hflip", "vflip"), ("transpose=cclock",))

    def __init__(self, *, full_range: bool) -> None:
        self._range = "pc" if full_range else "tv"
        self._key: tuple[object, ...] | None = None
        self._graph: av.filter.Graph | None = None

    def __call__(self, frame: VideoFrame, geometry: Geometry) -> VideoFrame:
        full = frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")
        matrix = _MATRIX.get(int(frame.colorspace), "bt470bg")
        key = (frame.width, frame.height, frame.format.name, matrix, full, frame.interlaced_frame, geometry)
        if self._graph is None or key != self._key:
            self._graph, self._key = self._build(frame, geometry, matrix, full), key
        frame.pts, frame.time_base = 0, Fraction(1, 1000)
        self._graph.push(frame)
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
            # One field of the two: half the lines, still more than are stored, and no comb.
            steps.append("field=type=top")
        source = "" if is_rgb else f":in_color_matrix={matrix}:in_range={'pc' if full else 'tv'}"
        width, height = geometry.scale
        steps.append(
            f"scale=w={width}:h={height}:flags=bicubic+accurate_rnd:out_color_matrix=bt601:out_range={self._range}{source}"
        )
        steps += ["format=pix_fmts=yuv420p", *self._TURNS[geometry.turns]]
        nodes = [graph.add("buffer", buffer)]
        nodes += [graph.add(*step.split("=", 1)) for step in steps]
        graph.link_nodes(*nodes, graph.add("buffersink")).configure()
        return graph
