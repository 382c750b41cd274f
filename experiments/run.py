"""Runs an experiment's trials that have no result yet.

    python -m experiments.run mutual_information --data DATA [--quick] [--group main]

DATA holds omniglot/, mnist/ and spoken_digits/ as far as the experiment needs them (docs/results.md says where they
are to be had). Each trial's line is appended to experiments/results/NAME.jsonl when it ends; interrupt and start again
at will, also several at once with --share 0/2 and --share 1/2. `python -m experiments.report` writes docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from common.environment import environment
from experiments import records as stored
from experiments.sweep import load_sweep, plan
from experiments.trial import run_trial
from settings.load import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake in the arguments, the sweep or the data."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="a YAML file of experiments/, without the ending")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--group", action="append", help="only this group of the sweep (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="the small version, within 10 minutes")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="every N-th trial, from the I-th")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no trial after so many minutes")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="run folders stay here (experiments on shards)")
    parser.add_argument("--results", type=Path, default=stored.RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    trials = list(plan(load_sweep(options.experiment), options.group, quick=options.quick))
    index, _, count = options.share.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f"--share must be I/N with I < N, as in 0/2, not {options.share!r}")
    path = options.results / f"{options.experiment}.jsonl"
    here = environment("scikit-learn", "numpy")
    for number, trial in enumerate(trials):
        if number % int(count) != int(index) or stored.matching(stored.load(path), [trial]):
            continue
        if time.monotonic() - started > options.minutes * 60:
            print(f"{options.minutes:g} minutes are over; start again to go on")
            break
        keep = options.keep / trial.digest if options.keep else None
        found = run_trial(trial.settings, data=options.data, keep=keep)
        stored.append(path, trial, found, here)
        short = {name: round(value, 3) for name, value in found["final"].items()}
        print(f"[{number + 1}/{len(trials)}] {trial.condition} | {trial.rule} | {trial.seed}: {json.dumps(short)}")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
