"""The page that a run and its evaluations leave in the run folder."""

from __future__ import annotations

import logging
from pathlib import Path

NAME = "report.html"
LARGEST = 2**27
"""Largest metrics.jsonl, in bytes, from which a run makes its page: reading so much takes some 20 s."""

log = logging.getLogger(__name__)


def write_run_page(folder: Path) -> None:
    """Writes report.html of a run folder; it never raises, and a failure is one logged sentence."""
    path = folder / NAME
    try:
        from training.report.page import write_page  # imported only here, so that a run starts without it
        from training.report.runs import ReportError, read_runs

        size = (folder / "metrics.jsonl").stat().st_size
        if size > LARGEST:
            log.warning(
                "%s was not written, because reading metrics.jsonl (%d MB) takes long: python -m training.report %s",
                *(path, size >> 20, folder),
            )
            return
        try:
            write_page(read_runs([folder]), path)
        except ReportError as error:  # no step has been logged
            log.debug("%s was not written: %s", path, error)
    except FileNotFoundError:  # the folder of a checkpoint that was copied alone
        log.debug("%s has no metrics.jsonl", folder)
    except Exception as error:
        log.warning("%s was not written (%s); nothing else is affected", path, error)
