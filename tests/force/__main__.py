"""Tests the promises of docs/reliability.md by force; exits with 1 if anything was lost or silently wrong.

    python -m tests.force                                     # everything: half an hour on two cores
    python -m tests.force --kinds flips --cases 100 --seed 7
    python -m tests.force --kinds workers --first 12 --cases 1      # repeat one case

A case is determined by its kind, the seed and its number. Outcomes are appended to --out; the same command resumes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.force.campaign import KINDS, run
from tests.force.report import publish, summary, table


def main() -> int:
    """Runs the cases that the command line selects. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.force", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="default: all")
    parser.add_argument("--cases", type=int, help="cases per kind (default: those of a full campaign)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each kind (default 0)")
    parser.add_argument(
        "--seconds", type=float, default=3600, help="stop starting cases after this time (default 3600)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all cases (default 0)")
    parser.add_argument("--out", type=Path, default=Path("runs/force.jsonl"), help="file of results")
    parser.add_argument(
        "--publish", action="store_true", help="write tests/force/summary.json and the table of docs/reliability.md"
    )
    options = parser.parse_args()

    records = run(
        options.kinds,
        lambda kind: range(options.first, options.first + (options.cases or kind.cases)),
        seed=options.seed,
        seconds=options.seconds,
        out=options.out,
    )
    result = summary(records)
    print(table(result))
    if options.publish:
        publish(result)
    return 1 if any(row["lost"] or row["silent"] for row in result["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
