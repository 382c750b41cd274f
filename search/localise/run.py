"""What the command does once torch is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.console import Console
from common.files import write_atomically
from common.phases import begin
from evaluation.report import print_table, write_json
from search.encoders import TrainedEncoders, load_encoders
from search.localise.overlay import overlaid, webm
from search.localise.page import build_page
from search.localise.score import measure_pointing
from search.localise.video import heat_video

PAGE, OVERLAY, SCORE = "localise.html", "overlay.webm", "score.json"


def localise(run: Path, video: Path, out: Path, *, scratch: Path) -> list[Path]:
    """Writes the page and the overlaid video, and returns their paths.

    Args:
        scratch: an empty folder for temporary files.

    Raises:
        CheckpointError, ConfigError: the run or the video cannot be used.
        NotFiniteError: the heat is not finite.
    """
    encoders = _encoders(run)
    begin(f"decoding {video}")
    heated = heat_video(video, encoders.config, encoders.model, scratch=scratch)
    begin("drawing the heat over the video")
    notes = [
        f"Where the sound comes from, as the encoders of {run.resolve().name} at step {encoders.step} see it.",
        "The heat of a place is the dot product of its projected features and the embedding of the sound; of each map "
        "only what is above its median is drawn.",
        f"A map has {encoders.config.clip.size} x {encoders.config.clip.size} pixels of the frame as its input and is "
        "far coarser than the frame.",
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / OVERLAY, webm(overlaid(heated), heated))
    page = build_page(heated, webm(heated.frames(), heated), title=video.name, notes=notes)
    write_atomically(out / PAGE, page)
    return [out / PAGE, out / OVERLAY]


def score(run: Path, shards: Path, demo: Path, out: Path) -> list[dict[str, Any]]:
    """Prints the table of `measure_pointing`, writes it to `out` and returns its rows."""
    encoders = _encoders(run)
    begin("measuring where the heat maps point")
    rows = measure_pointing(shards, demo, encoders.config, encoders.model)
    caption = "hits: the hottest place lies on the shape that is heard; finds heard: of two videos side by side"
    result = {"title": "pointing", "caption": caption, "run": str(run), "data": str(shards), "rows": rows}
    print_table(result, Console())
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / SCORE, result)
    return rows


def _encoders(run: Path) -> TrainedEncoders:
    begin(f"reading {run}")
    return load_encoders(run)
