"""One growing clock for files whose time stamps start again, such as recordings that were joined with `cat`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av

_MAY_JUMP = 0x0200
"""FFmpeg's flag AVFMT_TS_DISCONT of formats whose clock may jump, as in broadcasts."""
_STEP_BACK = 0.1
"""Seconds by which the decoding time of a stream must fall to be a restart; within a part it never falls."""
_STEP_AHEAD = 10.0
"""Seconds by which the time must be ahead of all streams to be a restart, where clocks may jump (as in ffmpeg)."""
_MOST_HELD = 1000
"""Largest number of packets that wait for the confirmation of a restart."""

_BEGINNINGS = (b"ftyp", b"FLV\x01", b"RIFF", b"FORM", b"\x1aE\xdf\xa3", bytes.fromhex("3026b2758e66cf11"))
"""Magic bytes that MP4, FLV, WAV and AVI, AIFF, Matroska and ASF files have near their beginning, and nowhere else."""
_MOST_INDEX = 2**24
"""Number of bytes after the last packet in which the beginning of another file is searched."""


def may_jump(container: av.container.InputContainer) -> bool:
    """Whether the clock of files of this format may jump or start again, as in broadcasts."""
    return bool(container.format.flags & _MAY_JUMP)


@dataclass
class _Stream:
    """What is known about a stream.

    Attributes:
        part: number of the part that its latest packet belongs to.
        latest: decoding time of that packet in seconds, as the file states it.
        next: the same for the end of the packet.
    """

    part: int
    latest: float
    next: float


class JoinedClock:
    """Moves the time stamps of each part so that it begins where the longest stream of the part before it ended.

    All streams of a part are moved by the same time. A part begins where the decoding time of a stream falls or, if
    `jumps`, is far ahead of all streams; a single packet with such a time is damaged and loses its time stamps.

    Args:
        jumps: whether the clock may also jump ahead; see `may_jump`.
    """

    def __init__(self, *, jumps: bool) -> None:
        self._jumps = jumps
        self._streams: dict[int, _Stream] = {}
        self._offsets = [0.0]
        self._positions: list[int | None] = [None]
        self._bases: dict[int, tuple[int, int] | None] = {}

    @property
    def restarts(self) -> int:
        """How often the clock has started again so far."""
        return len(self._offsets) - 1

    def steady(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Yields the packets in their order, with time stamps that continue from part to part."""
        held: list[av.Packet] = []
        for packet in packets:
            if held:
                held.append(packet)
                if packet.stream_index != held[0].stream_index and packet.size and len(held) < _MOST_HELD:
                    continue
                if packet.stream_index == held[0].stream_index and self._time(packet) is not None:
                    self._judge(held[0], packet)
                yield from map(self._moved, held)
                held = []
            elif self._restarts(packet):
                held.append(packet)
            else:
                yield self._moved(packet)
        yield from map(self._moved, held)

    def _judge(self, suspect: av.Packet, following: av.Packet) -> None:
        """Removes the time stamps of `suspect` if the next packet of its stream shows that no part begins there."""
        if not self._restarts(following):
            suspect.pts = suspect.dts = None

    def _restarts(self, packet: av.Packet) -> bool:
        """Whether a packet of the newest part seems to begin another."""
        time, stream = self._time(packet), self._streams.get(packet.stream_index)
        if time is None or stream is None or stream.part != self.restarts:
            return False
        ahead = max(other.next for other in self._streams.values() if other.part == stream.part) + _STEP_AHEAD
        return time < stream.latest - _STEP_BACK or (self._jumps and time > ahead)

    def _moved(self, packet: av.Packet) -> av.Packet:
        time = self._time(packet)
        if time is not None and (seconds := self._offsets[self._place(packet, time)]):
            ticks = round(seconds / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        return packet

    def _place(self, packet: av.Packet, time: float) -> int:
        """Returns the number of the part that the packet belongs to, and notes how far its stream has come."""
        stream = self._streams.get(packet.stream_index)
        if stream is None:
            part = self.restarts
        elif self._restarts(packet):
            end = max(other.next + self._offsets[other.part] for other in self._streams.values())
            self._offsets.append(end - time)
            self._positions.append(packet.pos)
            part = self.restarts
        else:
            part = self.restarts if self._follows(packet, stream, time) else stream.part
        duration = self._seconds(packet, packet.duration) or 0.0
        self._streams[packet.stream_index] = _Stream(part=part, latest=time, next=time + duration)
        return part

    def _follows(self, packet: av.Packet, stream: _Stream, time: float) -> bool:
        """Whether a packet of a stream that is still in an older part belongs to the newest one.

        Demuxers may deliver the last packet of one stream after the next part of another has begun.
        """
        if time < stream.latest - _STEP_BACK:
            return True
        begin = self._positions[-1]
        if packet.pos is None or begin is None:
            return abs(time - stream.next) > _STEP_BACK
        return packet.pos >= begin

    def _time(self, packet: av.Packet) -> float | None:
        return self._seconds(packet, packet.dts if packet.dts is not None else packet.pts)

    def _seconds(self, packet: av.Packet, ticks: int | None) -> float | None:
        """Converts a time of a packet to seconds. Files have millions of packets, so it does without fractions."""
        if ticks is None:
            return None
        index = packet.stream_index
        if index not in self._bases:
            base = packet.time_base
            self._bases[index] = (base.numerator, base.denominator) if base else None
        ratio = self._bases[index]
        return None if ratio is None else ticks * ratio[0] / ratio[1]


def unread_share(path: Path, read_to: int) -> float:
    """Estimates what a demuxer leaves unread that stops after the first of several joined files, such as that of MP4.

    Args:
        read_to: position in the file, in bytes, after the last packet.

    Returns:
        The bytes of the files after the first over the bytes of the first; 0 if there are none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        magic = next((magic for magic in _BEGINNINGS if magic in head), None)
        if magic is None:
            return 0.0
        file.seek(read_to)
        # The index may lie between the last packet and the next file.
        at = file.read(_MOST_INDEX).find(magic)
    return (size - read_to - at) / (read_to + at) if at >= 0 else 0.0
