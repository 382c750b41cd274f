"""Gives videos the sounds of other videos: pairs of which it is known that they do not belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av

from common.files import replacing
from common.randomness import numpy_generator


def swap_sounds(videos: Sequence[Path], *, seed: int) -> dict[str, str]:
    """Gives each video the sound of the next in a random order; nothing is encoded anew.

    Returns:
        Name of each video -> name of the video that its sound is of.
    """
    order = [videos[place] for place in numpy_generator(seed, 0, "swapped sounds").permutation(len(videos))]
    sounds = [video.read_bytes() for video in order]
    for number, video in enumerate(order):
        other = video.with_name(f".sound-{video.name}")
        other.write_bytes(sounds[(number + 1) % len(order)])
        with replacing(video) as unfinished:
            _join(unfinished, picture=video, sound=other)
        other.unlink()
    return {video.name: order[(number + 1) % len(order)].name for number, video in enumerate(order)}


def _join(path: Path, *, picture: Path, sound: Path) -> None:
    with av.open(str(path), "w", format="mp4") as joined, av.open(str(picture)) as first, av.open(str(sound)) as second:
        tracks = [first.streams.video[0], second.streams.audio[0]]
        copies = {track: joined.add_stream_from_template(track) for track in tracks}
        for container, track in zip((first, second), tracks, strict=True):
            for packet in container.demux(track):
                if packet.dts is not None:
                    packet.stream = copies[track]
                    joined.mux(packet)
