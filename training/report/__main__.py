"""Compares runs on one page: python -m training.report runs/a runs/b --out report

Writes report.png and report.html (one self-contained file) from each run's metrics.jsonl.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.finite import NotFiniteError
from common.terminal import command, print_error, printable
from training.report.page import write_report
from training.report.runs import ReportError, read_runs


@command("report", NotFiniteError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder (or its metrics.jsonl)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="path of both files, without their suffix")
    args = parser.parse_args(arguments)
    try:
        written = write_report(read_runs(args.runs), args.out)
    except ReportError as error:
        print_error("report", error)
        return 2
    except OSError as error:
        print_error("report", f"cannot write the report: {error}")
        return 2
    print(" ".join(map(printable, written)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
