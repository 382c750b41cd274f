"""Draws clips as a contact sheet: a picture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

WIDTH_INCHES, DOTS_PER_INCH = 16.0, 100
MOST_FRAMES = 16
"""Largest number of frames drawn per row; of longer clips, only every n-th frame is drawn."""
LEFT, RIGHT = 0.06, 0.99
"""Start and end of the time axis, as fractions of the figure width."""
_MARGINS = {"left": LEFT, "right": RIGHT, "top": 1.0, "bottom": 0.0, "hspace": 0.0}
TITLE_INCHES, WAVE_INCHES, MEL_INCHES, AXIS_INCHES = 0.3, 0.5, 0.9, 0.35
"""Heights of the rows."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A clip as loaded by one of the loaders."""

    loader: str
    """Name of the loader: dali or decord."""
    frames: np.ndarray | None
    """uint8 [T, H, W, 3], without normalisation; None without video."""
    decibels: np.ndarray | None
    """float32 [n_mels, F], in dB, without normalisation; None without audio."""


@dataclass(frozen=True, kw_only=True)
class ShownClip:
    """A clip of the sheet; times are in seconds from the start of the sample."""

    title: str
    start: float
    """Time of the first frame."""
    frame_seconds: float
    """Duration of a frame."""
    audio_start: float
    """Time of the first PCM sample."""
    pcm: np.ndarray | None
    """int16 [samples], the audio window; None without audio."""
    sample_rate: int
    """Hz of `pcm`."""
    hop_seconds: float
    """Time between two frames of the spectrogram."""
    views: list[View]
    """The clip from each loader; differences are relative to the first."""


def write_picture(clips: Sequence[ShownClip], path: Path) -> Path:
    """Draws all clips below one another; the suffix of `path` (png, pdf, svg, jpg) sets the format.

    Raises:
        ValueError: the suffix is not supported.
        OSError: the file cannot be written.
    """
    heights = [sum(_row_inches(clip)) for clip in clips]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), dpi=DOTS_PER_INCH)
    parts = figure.subfigures(len(clips), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, clip in zip(parts, clips, strict=True):
        _draw(part, clip)
    _save(figure, path)
    return path


def _save(figure: Figure, target: Path) -> None:
    with warnings.catch_warnings():
        # The font lacks emoji, which file names may contain: a box in their place is good enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(target)


def _draw(figure: Figure | SubFigure, clip: ShownClip) -> None:
    figure.suptitle(clip.title, x=LEFT, ha="left", fontsize=10, parse_math=False)
    inches = _row_inches(clip)
    # The first row holds the title, the last the labels of the time axis.
    rows = figure.subplots(len(inches), 1, height_ratios=inches, gridspec_kw=_MARGINS, squeeze=False)[:, 0]
    for empty in (rows[0], rows[-1]):
        empty.remove()
    for axes, fill in zip(rows[1:-1], _fillers(clip), strict=True):
        fill(axes)
        axes.set_xlim(time_span(clip))
        axes.tick_params(labelbottom=False, labelsize=8)
        axes.set_yticks([])
    rows[-2].tick_params(labelbottom=True)
    rows[-2].set_xlabel("seconds since the sample's start", fontsize=8, labelpad=1)


def _fillers(clip: ShownClip) -> Iterator[Callable[[Axes], None]]:
    """Functions that draw each row, in the order of `_row_inches`; each view is compared with the first."""
    pictures = [(view.loader, view.frames) for view in clip.views if view.frames is not None]
    for loader, frames in pictures:
        yield partial(_draw_frames, clip=clip, loader=loader, frames=frames, reference=pictures[0][1])
    if clip.pcm is not None:
        yield partial(_draw_wave, clip=clip, pcm=clip.pcm)
    spectrograms = [(view.loader, view.decibels) for view in clip.views if view.decibels is not None]
    for loader, decibels in spectrograms:
        yield partial(_draw_mel, clip=clip, loader=loader, decibels=decibels, reference=spectrograms[0][1])


def _row_inches(clip: ShownClip) -> list[float]:
    """Heights of the rows of a clip, from title to time axis."""
    rows = [TITLE_INCHES]
    for view in clip.views:
        if view.frames is not None:
            begin, end = time_span(clip)
            cell = clip.frame_seconds * _step(view.frames) / (end - begin) * WIDTH_INCHES * (RIGHT - LEFT)
            rows.append(cell * view.frames.shape[1] / view.frames.shape[2])
    if clip.pcm is not None:
        rows.append(WAVE_INCHES)
    rows += [MEL_INCHES for view in clip.views if view.decibels is not None]
    return [*rows, AXIS_INCHES]


def _draw_frames(axes: Axes, *, clip: ShownClip, loader: str, frames: np.ndarray, reference: np.ndarray) -> None:
    step = _step(frames)
    for number in range(0, len(frames), step):
        begin = clip.start + number * clip.frame_seconds
        axes.imshow(frames[number], extent=(begin, begin + step * clip.frame_seconds, 0, 1), aspect="auto")
        axes.axvline(begin, color="white", linewidth=0.8)
    axes.set_ylim(0, 1)
    note = ""
    if frames is not reference:
        difference = np.abs(frames.astype(int) - reference.astype(int)).mean()
        note = f"\ndifference\n{difference:.1f} of 255"
    _label(axes, f"{loader}{note}" if len(clip.views) > 1 else "frames")


def _draw_wave(axes: Axes, *, clip: ShownClip, pcm: np.ndarray) -> None:
    low, high = envelope(pcm)
    times = clip.audio_start + np.linspace(0, len(pcm) / clip.sample_rate, len(low))
    axes.fill_between(times, low, high, color="tab:blue", linewidth=0.5, edgecolor="tab:blue")
    loudest = max(abs(low.min()), high.max(), 1e-3)
    axes.set_ylim(-loudest, loudest)
    _label(axes, f"waveform\npeak {loudest:.2f}")


def _draw_mel(axes: Axes, *, clip: ShownClip, loader: str, decibels: np.ndarray, reference: np.ndarray) -> None:
    bands, frames = decibels.shape
    # Frame j of the spectrogram is centred on PCM sample j * hop.
    begin = clip.audio_start - clip.hop_seconds / 2
    extent = (begin, begin + frames * clip.hop_seconds, 0, bands)
    low, high = decibel_range(reference)
    axes.imshow(decibels, extent=extent, aspect="auto", origin="lower", cmap="magma", vmin=low, vmax=high)
    note = f"\n{low:.0f} to {high:.0f} dB"
    if decibels is not reference:
        note = f"\ndifference\n{np.abs(decibels - reference).mean():.2f} dB"
    _label(axes, f"{loader if len(clip.views) > 1 else 'log-mel'}{note}")


def _label(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, rotation=0, ha="right", va="center", fontsize=8)


def envelope(pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minimum and maximum of equal stretches of `pcm`, int16 [samples], as float32 [at most 1200] with full scale 1.

    A line through all samples would alias.
    """
    stretches = np.array_split(pcm.astype(np.float32) / 32768, min(1200, len(pcm)))
    return np.array([s.min() for s in stretches]), np.array([s.max() for s in stretches])


def decibel_range(decibels: np.ndarray) -> tuple[float, float]:
    """The levels that the darkest and the brightest colour of a spectrogram stand for."""
    low, high = np.percentile(decibels, [1, 100])
    return float(low), float(high)


def _step(frames: np.ndarray) -> int:
    """Every how many frames one is drawn."""
    return -(-len(frames) // MOST_FRAMES)


def time_span(clip: ShownClip) -> tuple[float, float]:
    """The earliest start and the latest end of the clip's streams, in seconds."""
    begins, ends = [], []
    frames = clip.views[0].frames
    if frames is not None:
        begins.append(clip.start)
        ends.append(clip.start + len(frames) * clip.frame_seconds)
    if clip.pcm is not None:
        begins.append(clip.audio_start)
        ends.append(clip.audio_start + len(clip.pcm) / clip.sample_rate)
    return min(begins), max(ends)
