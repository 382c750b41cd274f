"""Writes the page of search.curate: the worst and the best pairs, duplicates, and silent and static clips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_atomically
from common.html import ELEMENT, fill_page
from evaluation.explore.media import opus, shrink, strip, thumbnail_pixels
from evaluation.explore.page import ASSETS as EXPLORE_ASSETS
from evaluation.explore.page import Media, media_json, thumbnails_json
from pipeline.batch import pixels
from pipeline.load.dali_loader import DaliLoader
from search.curate.verdicts import SILENT_DB, STATIC_LEVELS, Verdicts

ASSETS = Path(__file__).with_name("assets")
SCRIPTS = (ELEMENT, EXPLORE_ASSETS / "media.js", ASSETS / "app.js")
WORST, BEST, COPIES, EMPTY = 36, 12, 18, 12
"""Largest numbers of clips (of duplicates: of pairs) in the sections."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with clips; `copies` are pairs of duplicates instead, with a text each."""

    title: str
    note: str
    samples: list[int]
    copies: list[tuple[int, int, str]]


def write_page(path: Path, verdicts: Verdicts, loader: DaliLoader, *, title: str, limit: float) -> None:
    """Writes a self-contained HTML file.

    Args:
        loader: of all samples of the verdicts.
        limit: agreement that duplicates exceed.

    Raises:
        OSError: it cannot be written.
        SampleError: a clip cannot be read.
    """
    shown = sections(verdicts, limit)
    samples = sorted({sample for part in shown for sample in part.samples} | _in_copies(shown))
    row_of = {sample: row for row, sample in enumerate(samples)}
    data: dict[str, Any] = {
        "notes": _notes(verdicts),
        "sources": [verdicts.sources[sample] for sample in samples],
        "captions": [_caption(verdicts, sample) for sample in samples],
        "sections": [
            {
                "title": part.title,
                "note": part.note,
                "rows": [row_of[sample] for sample in part.samples],
                "copies": [[row_of[i], row_of[j], text] for i, j, text in part.copies] or None,
            }
            for part in shown
        ],
        "seconds": loader.config.clip.seconds,
        **_media(loader, np.array(samples, dtype=np.int64)),
    }
    page = fill_page(ASSETS, title=f"Curating {title}", data=data, scripts=SCRIPTS, plays_sound=True)
    write_atomically(path, page)


def sections(verdicts: Verdicts, limit: float) -> list[Section]:
    """What the page shows, worst first; sections without content are left out."""
    order = np.argsort(verdicts.scores, kind="stable").tolist()
    silent = np.flatnonzero(verdicts.loudness < SILENT_DB).tolist()[:EMPTY]
    static = np.flatnonzero(verdicts.motion < STATIC_LEVELS).tolist()[:EMPTY]
    copies = _copies(verdicts)
    worst, best = order[:WORST], order[::-1][: min(BEST, max(0, len(order) - WORST))]
    found = [
        Section(
            title="Pairs that go together least",
            note="The score counts deviations above the mean of mismatched pairs.",
            samples=worst,
            copies=[],
        ),
        Section(
            title="Near-duplicates",
            note="Pictures and sounds are more alike than those of different recordings: the sum of the inverse "
            f"hyperbolic tangents of their correlations is above {limit:.2f}.",
            samples=[],
            copies=copies,
        ),
        Section(title="Silent", note=f"Sound below {SILENT_DB:g} dB of full scale.", samples=silent, copies=[]),
        Section(title="Static", note="Pictures that hardly change.", samples=static, copies=[]),
        Section(title="Pairs that go together best", note="For comparison.", samples=best, copies=[]),
    ]
    return [part for part in found if part.samples or part.copies]


def _copies(verdicts: Verdicts) -> list[tuple[int, int, str]]:
    """Pairs of duplicates within the data, the most alike first."""
    number = {source: sample for sample, source in enumerate(verdicts.sources)}
    found = {}
    for sample, source in enumerate(verdicts.duplicate_of):
        other = number.get(source)
        if other is not None:
            found[min(sample, other), max(sample, other)] = verdicts.likeness[sample]
    order = sorted(found, key=lambda pair: -float(found[pair].min()))[:COPIES]
    return [(i, j, _likeness(verdicts, i, j, found[i, j])) for i, j in order]


def _likeness(verdicts: Verdicts, i: int, j: int, likeness: np.ndarray) -> str:
    text = f"pictures {likeness[0]:.2f}, sounds {likeness[1]:.2f}"
    splits = verdicts.splits[i], verdicts.splits[j]
    return (
        text if splits[0] == splits[1] else f"{text}; between {splits[0] or 'no split'} and {splits[1] or 'no split'}"
    )


def _in_copies(shown: list[Section]) -> set[int]:
    return {sample for part in shown for pair in part.copies for sample in pair[:2]}


def _caption(verdicts: Verdicts, sample: int) -> str:
    reasons = verdicts.reasons(sample)
    return f"score {verdicts.scores[sample]:.2f}" + (f" · {', '.join(reasons)}" if reasons else "")


def _notes(verdicts: Verdicts) -> list[str]:
    counts, total = verdicts.counts(), len(verdicts.sources)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if kind != "all")
    notes = [
        f"{counts['all']:,} of {total:,} samples are in leave_out.csv: {kinds}; a sample may have several reasons."
    ]
    if (verdicts.folds < 0).all():
        notes.append(
            "The run itself scored the pairs: those that it has learned by heart score higher than they should."
        )
    else:
        notes.append("Each pair was scored by a model that had not seen it.")
    return notes


def _media(loader: DaliLoader, samples: np.ndarray) -> dict[str, Any]:
    """Thumbnails and what plays of the middle clips of samples, as explore/assets/media.js reads them."""
    rate, side = loader.config.audio.sample_rate, thumbnail_pixels(len(samples))
    thumbnails: list[np.ndarray] = []
    playing: dict[int, dict[str, Any]] = {}
    for batch in loader.uniform_clips(samples, clips=1):
        assert batch.video is not None
        assert batch.plan is not None
        lead = batch.plan.start - batch.plan.audio_start / rate
        for b, pcm in enumerate(loader.waveforms(batch.plan)):
            frames = pixels(batch.video[b])
            media = Media(frames=strip(frames), sound=opus(pcm, rate), lead=float(lead[b]))
            playing[len(thumbnails)] = media_json(media)
            thumbnails.append(shrink(frames[len(frames) // 2], side))
    return {"thumbnails": thumbnails_json(thumbnails), "media": playing}
