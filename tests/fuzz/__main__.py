"""Fuzzes everything that reads what people hand over; exit status 1 if anything was found.

    python -m tests.fuzz --cases 100000 --seed 0 [--only yaml,labels]
    python -m tests.fuzz --seed 0 --case 1234      # one case again

Each case must end in a correct result or in an error of this project, in one line; nothing may be written outside
the case's folder, no program started, no pickle loaded.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.campaign import SHARES, Report, kind_of, run


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="how many cases (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (default 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help=f"kinds, separated by commas: {', '.join(SHARES)}")
    parser.add_argument("--case", type=int, help="run this case only")
    options = parser.parse_args()
    kinds = set(options.only.split(",")) if options.only else set(SHARES)
    if unknown := kinds - SHARES.keys():
        parser.error(f"--only: {', '.join(sorted(unknown))} unknown; there are {', '.join(SHARES)}")
    numbers = range(options.first, options.first + options.cases)
    cases = [options.case] if options.case is not None else [n for n in numbers if kind_of(n) in kinds]
    started = time.monotonic()
    report = run(cases, seed=options.seed, announce=True)
    _print(report, time.monotonic() - started)
    if report.findings:
        print(f"run one again: python -m tests.fuzz --seed {options.seed} --case {report.findings[0][0]}")
    return 1 if report.findings else 0


def _print(report: Report, seconds: float) -> None:
    for kind, outcomes in sorted(report.outcomes.items()):
        print(f"{kind}: {sum(outcomes.values()):,} cases, {report.seconds[kind]:.0f} s")
        for result, count in outcomes.most_common(12):
            print(f"  {count:7,}  {result}")
    total = sum(sum(outcomes.values()) for outcomes in report.outcomes.values())
    print(f"{total:,} cases in {seconds:.0f} s: {len(report.findings)} findings")


if __name__ == "__main__":
    sys.exit(main())
