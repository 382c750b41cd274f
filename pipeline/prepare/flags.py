"""The flags of unusual sources in words, for flagged.jsonl."""

from __future__ import annotations

from typing import Any

SENTENCES = {
    "clipped_share": "This share of the decoded sound is beyond full scale and was clamped.",
    "clock_restarts": "The time stamps restart this many times; the parts were joined one after the other.",
    "cropped_to_aspect": "The picture is longer than this many times its width or height, and only its centre is kept.",
    "cut_at_max_seconds": "The source is longer than max_seconds and was cut.",
    "decode_errors": "This many packets cannot be decoded.",
    "ends_early_seconds": "The source ends this many seconds before its header says.",
    "interlaced": "The frames are interlaced, and one of their two fields is kept.",
    "lost_seconds": "About this many seconds of the source are not in the sample.",
    "not_finite_samples": "This many samples of the sound are not finite numbers and were replaced by silence.",
    "orientation_changes": "The orientation of the picture changes within the source; all frames have one size.",
    "out_of_range_samples": "This many samples of the sound are far beyond full scale and were replaced by silence.",
    "picture_held_seconds": "One frame is shown for this many seconds.",
    "silence_added_seconds": "The sound has gaps or is shorter than the video: silence of this many seconds was added.",
    "segment_cut_seconds": "The file ends this many seconds before the segment does, so the sample is shorter.",
    "size_changes": "The size of the frames changes within the source; all are stored at the size of the first.",
    "stamps_run_backwards": "The time stamps of the video run backwards.",
    "still_picture": "The video is a single picture.",
    "tilted_degrees": "The display matrix is this many degrees off a quarter turn; this tilt was ignored.",
}
"""Flag -> sentence about the source; "this" refers to the flag's value."""


def flag_entries(source: str, flags: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of flagged.jsonl for one source: source, flag, value and sentence."""
    return [
        {"source": source, "flag": flag, "value": value, "sentence": SENTENCES.get(flag, "")}
        for flag, value in sorted(flags.items())
    ]
