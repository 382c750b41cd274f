"""Decides when to seek to a key frame instead of decoding what no segment needs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction

import av
from av.container import InputContainer

from pipeline.media.frames import FrameReader

_INDEXED = {"mov", "matroska"}
"""First names of the formats whose index and clock can be relied on after a seek."""
_PRE_ROLL = 1.0
"""Seconds before a segment from which on everything is decoded: audio codecs need pre-roll, and an index may hold
decoding times, which are earlier than presentation times."""
_SHORTEST_SKIP = 3.0
"""Shortest time in seconds that a seek must skip: it costs time, and frames from the key frame on are decoded again."""


class Seeker:
    """Skips to the last key frame before a segment, if the file's index shows that this skips enough.

    Attributes:
        is_enabled: whether stretches of the file may be skipped.
        has_skipped: whether any was.
    """

    def __init__(self, container: InputContainer, reader: FrameReader) -> None:
        self._container = container
        self._reader = reader
        self._key_times: list[float] = []
        self.has_skipped = False
        self.is_enabled = reader.video is not None and container.format.name.split(",")[0] in _INDEXED
        self._duration = float(Fraction(container.duration or 0, av.time_base))

    def prepare(self, starts: Sequence[float]) -> None:
        """Reads the index if there is enough to skip between segments that begin at `starts`, in ascending order."""
        gaps = (after - before for before, after in zip((0.0, *starts), starts, strict=False))
        if not self.is_enabled or max(gaps, default=0.0) < _PRE_ROLL + _SHORTEST_SKIP:
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
        """Seeks to where the segment that begins at presentation time `start` can be read, if that skips enough.

        Args:
            now: presentation time in seconds up to which the file was read.

        Returns:
            Whether it has sought.
        """
        target = start - _PRE_ROLL
        place = bisect_right(self._key_times, target)
        # Where files were concatenated, the index and the duration are those of the first one.
        if not self.is_enabled or self._reader.clock.restarts or not place or target > self._duration:
            return False
        if self._key_times[place - 1] < now + _SHORTEST_SKIP:
            return False
        stream = self._reader.video
        self._container.seek(int(target / stream.time_base), stream=stream)
        self.has_skipped = True
        return True

    def rewind(self) -> None:
        """Seeks to the beginning of the file, and skips nothing from then on."""
        self.is_enabled = False
        self._container.seek(int(min(0, self._container.start_time or 0)))
