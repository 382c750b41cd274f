"""Types of options that refuse impossible values before any work starts."""

from __future__ import annotations

import argparse

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
    import torch  # not above: benchmarks.decode also measures the memory of loaders that do without torch

    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch finds no GPU that it can use; give cpu")
    return text
