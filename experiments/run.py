"""Runs the trials of an experiment that have no result yet.

    python -m experiments.run mutual_information --data DATA [--quick] [--group main]

DATA holds whichever of omniglot/, mnist/, spoken_digits/ and grid/ the experiment needs, or is the folder of shards.
Each trial's result is appended to experiments/results/NAME.jsonl when it ends: a run can be interrupted and restarted
at any time, and two processes with --share 0/2 and --share 1/2 divide the trials between them. A trial that diverges is
recorded as failed, and the others still run. `python -m experiments.report` writes the pages.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from common.phases import begin, introduce
from common.terminal import command
from experiments import RESULTS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="name of a YAML file in experiments/sweeps/, without its suffix")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, or of the shards")
    parser.add_argument("--group", action="append", help="run only this group of the sweep (may be repeated)")
    parser.add_argument(
        "--quick", action="store_true", help="run a small version (of the groups, if given) within minutes"
    )
    parser.add_argument("--share", default="0/1", metavar="I/N", help="run every N-th trial, from the I-th")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no trial after this many minutes")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep run folders here (experiments on shards)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the recorded results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    introduce("experiments.run", "running the trials that have no result yet", parse)

from common.environment import environment
from common.finite import NotFiniteError
from experiments import records
from experiments.sweep import load_sweep, parse_share, plan
from experiments.trial import run_trial
from settings.errors import ConfigError


@command("experiments.run", ConfigError)
def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if a trial has failed, 2 for a mistake in the arguments, the sweep or the data."""
    options = parse(arguments)
    started = time.monotonic()
    trials = list(plan(load_sweep(options.experiment), options.group, quick=options.quick))
    index, count = parse_share(options.share)
    path = options.results / f"{options.experiment}.jsonl"
    here = environment("scikit-learn", "numpy")
    failed = 0
    for number, trial in enumerate(trials):
        if number % count != index or records.matching(records.load(path), [trial]):
            continue
        if time.monotonic() - started > options.minutes * 60:
            print(f"{options.minutes:g} minutes have passed; run the same command again to continue")
            break
        begin(f"training trial {number + 1} of {len(trials)}", quietly=True)
        keep = options.keep / trial.digest if options.keep else None
        try:
            found = run_trial(trial.settings, data=options.data, keep=keep)
            short = json.dumps({name: round(value, 3) for name, value in found["final"].items()})
        except NotFiniteError as error:
            found, short, failed = {"failed": str(error)}, f"failed: {error}", failed + 1
        records.append(path, trial, found, here)
        print(f"[{number + 1}/{len(trials)}] {trial.condition} | {trial.rule} | {trial.seed}: {short}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
