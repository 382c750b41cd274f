"""Fuzzes all code that reads user input; the exit status is 1 if there are findings.

    python -m tests.fuzz --cases 100000 --seed 0 [--only yaml,labels]
    python -m tests.fuzz --seed 0 --case 1234      # repeat one case

Each case must end with a correct result or with one of this project's exceptions, whose message is one line. It must
not write outside its folder, start a program or load a pickle.
"""

from __future__ import annotations

import argparse
import sys
import time

from common.phases import begin, close_log, open_log
from tests.fuzz.campaign import SHARES, Report, kind_of, run


def main() -> int:
    """Runs the cases that the command line selects. Returns the exit status: 1 if there are findings, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="number of cases (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all cases (default 0)")
    parser.add_argument(
        "--only", default="", help=f"only these kinds of cases, separated by commas: {', '.join(SHARES)}"
    )
    parser.add_argument("--case", type=int, help="run only this case")
    options = parser.parse_args()
    kinds = set(options.only.split(",")) if options.only else set(SHARES)
    if unknown := kinds - SHARES.keys():
        parser.error(f"--only must be some of {', '.join(SHARES)}, not {', '.join(sorted(unknown))}")
    numbers = range(options.first, options.first + options.cases)
    cases = [options.case] if options.case is not None else [n for n in numbers if kind_of(n) in kinds]
    open_log("tests.fuzz")
    begin(f"{len(cases):,} cases; the first process makes what they damage")
    report = run(cases, seed=options.seed, announce=True)
    close_log()
    _print(report, time.monotonic() - report.started)
    if report.findings:
        print(f"repeat the first: python -m tests.fuzz --seed {options.seed} --case {report.findings[0][0]}")
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
