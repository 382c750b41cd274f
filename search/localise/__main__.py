"""Shows where in the frame the sound of a video comes from: `python -m search.localise RUN VIDEO [--out FOLDER]`.

Each place of the video encoder's last feature map is compared with the embedding of the sound. FOLDER gets
localise.html, a page that plays the video under its heat maps, and overlay.webm, the video with the heat drawn over it.

`python -m search.localise RUN SHARDS --score VIDEOS` measures instead how often the hottest place is right, on shards
that were prepared from VIDEOS, a demo corpus (pipeline.demo), in which the place of what sounds is known.
"""

from __future__ import annotations

from common.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("localise")

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.phases import begin, open_log, say
from common.terminal import command, print_error, printable, show_logs
from pipeline.plan.bad_samples import SampleError
from pipeline.prepare.sources import PrepareError
from pipeline.prepare.workers.pool import WorkersCannotStart
from pipeline.shards.meta import ManifestError, check_shards, read_meta
from settings import ConfigError
from training.saving.files import CheckpointError, require_some_checkpoint


@command("localise", CheckpointError, ConfigError, ManifestError, PrepareError, SampleError, WorkersCannotStart)
def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a mistake in the arguments, the run or the data."""
    options = _parse(arguments)
    show_logs()
    _check(options)
    what = "measuring how well the sound is localised" if options.score else "localising the sound"
    say(f"{what} in {options.source} with {options.run}; writing to {options.out}")
    begin("importing torch and DALI")
    from common.finite import NotFiniteError
    from search.localise.run import localise, score

    try:
        if options.score:
            score(options.run, options.source, options.score, options.out)
            return 0
        with tempfile.TemporaryDirectory(prefix="cmacc-localise-") as scratch:
            written = localise(options.run, options.source, options.out, scratch=Path(scratch))
    except NotFiniteError as error:
        print_error("localise", error)
        return 2
    print(*map(printable, written), sep="\n")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.localise", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or a checkpoint file")
    parser.add_argument("source", type=Path, metavar="VIDEO", help="video with sound (with --score: prepared shards)")
    parser.add_argument("--out", type=Path, default=Path("localise"), help="folder to write (default: %(default)s)")
    parser.add_argument("--score", type=Path, metavar="VIDEOS", help="demo corpus that the shards were prepared from")
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> None:
    """Finds mistakes that can be found without torch and DALI, which take seconds to import."""
    require_some_checkpoint(options.run)
    if options.score:
        check_shards(options.source, read_meta(options.source))
    elif not options.source.is_file():
        kind = "is a folder" if options.source.is_dir() else "does not exist"
        raise ConfigError(f"VIDEO must be a file, but {options.source} {kind}")
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"--out must be a folder, but {options.out} is a file")


if __name__ == "__main__":
    open_log("localise")
    sys.exit(main())
