"""Finds what spoils a data set: `python -m search.curate RUN SHARDS [--out FOLDER]`.

Every pair is scored by how well its video and its sound go together, under a model that has not seen it: the data are
divided into folds, and one model per fold is trained on the other folds with the settings of RUN. Near-duplicates are
found within the data, between its splits and with --against, and so are silent and static clips.

FOLDER gets pairs.csv, a table of all samples; leave_out.csv, a list for data.leave_out and for pipeline.prepare's
--leave-out; and curate.html, a page with the worst and the best pairs. Run the same command again to resume.
"""

from __future__ import annotations

from common.signals import end_on_signals

if __name__ == "__main__":
    # Ending at once is safe: the kernel then asks the training of a fold to save and stop.
    end_on_signals("curate", terminated=75)

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.phases import begin, open_log, say
from common.stores import location
from common.terminal import command, print_error, printable, show_logs
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.meta import ManifestError, check_shards, read_meta
from settings import ConfigError
from training.saving.files import CheckpointError, require_some_checkpoint


@command("curate", CheckpointError, ConfigError, ManifestError, SampleError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake in the arguments, the run or the data.

    If the training of a fold is stopped, the status is that of train.py; the same command then resumes.
    """
    options = _parse(arguments)
    show_logs()
    _check(options)
    say(f"curating {options.shards} with {options.run}; writing to {options.out}")
    begin("importing torch and DALI")
    from common.finite import NotFiniteError
    from search.curate.folds import FoldStopped
    from search.curate.run import PAGE, Options, curate

    chosen = Options(
        folds=options.folds,
        steps=options.steps,
        against=options.against,
        lowest_score=options.lowest_score,
    )
    try:
        counts = curate(options.run, options.shards, options.out, chosen).counts()
    except FoldStopped as stopped:
        print_error("curate", stopped)
        return stopped.status
    except NotFiniteError as error:
        print_error("curate", error)
        return 2
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if kind != "all")
    print(f"{printable(options.out)}: {counts['all']:,} samples to leave out ({kinds}); see {PAGE}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.curate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or a checkpoint file")
    parser.add_argument("shards", type=location, metavar="SHARDS", help="folder that pipeline.prepare made, or its URL")
    parser.add_argument("--out", type=Path, default=Path("curated"), help="folder to write (default: %(default)s)")
    parser.add_argument("--folds", type=int, help="number of folds (default: 3, or 5 for fewer than 600 samples)")
    parser.add_argument(
        "--no-folds",
        dest="folds",
        action="store_const",
        const=0,
        help="score by RUN itself, which gives high scores to mismatched pairs that it has learned by heart",
    )
    parser.add_argument(
        "--steps", type=int, default=0, help="training steps per fold (default: those of RUN's epochs, at least 1,000)"
    )
    parser.add_argument(
        "--against", type=location, metavar="SHARDS", help="other data; copies of their samples are found"
    )
    parser.add_argument(
        "--lowest-score",
        type=float,
        default=0.0,
        help="pairs with a lower score are listed as mismatched; 0 is the mean of mismatched pairs "
        "(default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> None:
    """Finds mistakes that can be found without torch and DALI, which take seconds to import."""
    require_some_checkpoint(options.run)
    for shards in (options.shards, options.against):
        if shards is not None:
            check_shards(shards, read_meta(shards))
    if options.folds is not None and (options.folds == 1 or options.folds < 0):
        raise ConfigError(f"--folds must be at least 2 (or use --no-folds), not {options.folds}")
    if options.steps < 0:
        raise ConfigError(f"--steps must be at least 1, not {options.steps}")
    if options.lowest_score != options.lowest_score:
        raise ConfigError("--lowest-score must be a number")
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"--out must be a folder, but {options.out} is a file")


if __name__ == "__main__":
    open_log("curate")
    sys.exit(main())
