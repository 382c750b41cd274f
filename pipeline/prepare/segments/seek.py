"""Decides where reading may skip to a key frame instead of decoding what no segment needs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from fractions import Fraction

import av
from av.container import InputContainer

from pipeline.media.frames import FrameReader

_INDEXED = {"mov", "matroska"}
"""First names of the formats whose index and clock can be relied on after a seek."""
_BEFORE = 1.0
"""Seconds before a segment from which on everything is decoded: audio codecs need pre-roll, and an index may refer to
decoding times."""
_WORTH = 3.0
"""Shortest time in seconds that a seek must skip: it reads the beginning of a group of pictures again."""


class Seeker:
    """Skips to the last key frame before a segment, if the file has an index that shows that this skips anything."""

    def __init__(self, container: InputContainer, reader: FrameReader) -> None:
        self._container = container
        self._reader = reader
        self._key_times: list[float] = []
        self.is_enabled = reader.video is not None and container.format.name.split(",")[0] in _INDEXED
        self._duration = float(Fraction(container.duration or 0, av.time_base))

    def prepare(self, starts: Iterable[float]) -> None:
        """Reads the index, if segments that begin at the times `starts`, in ascending order, leave out enough."""
        gaps = (after - before for before, after in zip((0.0, *starts), starts, strict=False))
        if not self.is_enabled or max(gaps, default=0.0) < _BEFORE + _WORTH:
            self.is_enabled = False
            return
        stream = self._reader.video
        try:
            self._container.seek(stream.start_time or 0, stream=stream)  # Matroska reads its index at the first seek
        except av.error.FFmpegError:
            self.is_enabled = False
            return
        base = float(stream.time_base)
        self._key_times = sorted(entry.timestamp * base for entry in stream.index_entries if entry.is_keyframe)

    def skip_to(self, start: float, *, now: float) -> bool:
        """Seeks, if that pays, so that a segment that begins at presentation time `start` can be read next.

        Args:
            now: presentation time in seconds up to which the file was read.
        """
        target = start - _BEFORE
        place = bisect_right(self._key_times, target)
        # Of files that were joined, the index and the duration are those of the first.
        if not self.is_enabled or self._reader.clock.restarts or not place or target > self._duration:
            return False
        if self._key_times[place - 1] < now + _WORTH:
            return False
        stream = self._reader.video
        self._container.seek(int(target / stream.time_base), stream=stream)
        return True

    def rewind(self) -> None:
        """Seeks to the beginning, and never again."""
        self.is_enabled = False
        self._container.seek(int(min(0, self._container.start_time or 0)))
