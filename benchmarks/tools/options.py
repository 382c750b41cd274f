"""Types of options that refuse impossible values before any work starts."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.terminal import printable


def at_least(least: int, text: str) -> int:
    """Returns `text` as an integer of at least `least`."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, not {printable(text)}")
    return number


def positive(text: str) -> int:
    """Returns `text` as an integer of at least 1."""
    return at_least(1, text)


def size(text: str) -> str:
    """Returns `text` if it is ROWSxPICKS with integers 1 <= PICKS <= ROWS, as in 38400x3840."""
    rows, _, picks = text.partition("x")
    if not (rows.isdecimal() and picks.isdecimal() and 1 <= int(picks) <= int(rows)):
        raise argparse.ArgumentTypeError(
            f"{printable(text)} is not ROWSxPICKS, integers with 1 <= PICKS <= ROWS, as in 38400x3840"
        )
    return text


def device(text: str) -> str:
    """Returns `text`, the name of a device, unless it is cuda and there is no GPU."""
    import torch  # not above: wrong options are answered before torch is imported, which takes seconds

    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch finds no GPU that it can use; give cpu")
    return text


def add_decode_options(parser: argparse.ArgumentParser, *, per: str) -> None:
    """Adds what benchmarks.decode and benchmarks.decode_sweep share; `per` names what is measured once per round."""
    parser.add_argument("--videos", type=Path, help="folder of videos with audio (default: a generated demo corpus)")
    parser.add_argument(
        "--work", type=Path, default=Path("data/benchmark"), help="folder that keeps the videos in each storage format"
    )
    parser.add_argument("--clips", type=positive, default=256, help=f"timed clips per {per} and round")
    parser.add_argument("--rounds", type=positive, default=3, help=f"interleaved repeats of every {per}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device that batches end on")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--plot", type=Path, help="write a chart to this file")
