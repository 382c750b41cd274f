"""Makes a page to explore a run's embeddings: `python -m evaluation.explore RUN --data SHARDS [--out explore.html]`.

The page is one self-contained HTML file. It shows a map of the video embeddings and one of the audio embeddings, the
audio and videos nearest to each clip, and the content of the run's dictionaries compared with as many samples drawn at
random. Clips are thumbnails that play under the mouse pointer, and can be searched by source and label. --picture also
draws some clips with their nearest neighbours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.phases import begin, open_log, say
from common.stores import location
from common.stores.urls import check_url
from common.terminal import command, print_error, printable, show_logs
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.meta import ManifestError, check_shards, read_meta
from settings import ConfigError
from training.saving.files import CheckpointError, require_some_checkpoint

PICTURES = (".png", ".pdf", ".svg", ".jpg")
"""Suffixes of --picture."""


@command("explore")
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake in the arguments, the run or the data."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.explore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or a checkpoint file")
    parser.add_argument(
        "--data", type=check_url, required=True, metavar="SHARDS", help="folder that pipeline.prepare made, or its URL"
    )
    parser.add_argument("--out", type=Path, default=Path("explore.html"), help="page to write (default: %(default)s)")
    parser.add_argument(
        "--samples", type=int, default=300, help="maximum number of samples, up to 20000 (default: %(default)s)"
    )
    parser.add_argument(
        "--media",
        type=int,
        default=1000,
        metavar="N",
        help="maximum number of samples that play, up to 5000, at about 20 kB each; the others show a still picture "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--map", choices=("tsne", "pca"), default="tsne", help="projection to 2D (default: %(default)s)"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help="also draw some clips and their nearest neighbours as a picture"
    )
    options = parser.parse_args(arguments)
    if options.picture is not None and options.picture.suffix not in PICTURES:
        parser.error(f"--picture must end in one of {', '.join(PICTURES)}, not {printable(options.picture)}")
    show_logs()
    try:
        require_some_checkpoint(options.run)
        root = location(options.data)
        check_shards(root, read_meta(root))
        say(f"mapping the clips of {options.data} with {options.run}; writing to {options.out}")
        begin("importing torch and DALI")
        from common.finite import NotFiniteError
        from evaluation.explore.collect import explore
        from evaluation.explore.page import write_page

        try:
            page = explore(
                options.run, data=options.data, samples=options.samples, media=options.media, method=options.map
            )
        except NotFiniteError as error:
            raise CheckpointError(str(error)) from None
        size = write_page(page, options.out)
        if options.picture is not None:
            from evaluation.explore.picture import write_neighbours

            write_neighbours(page, options.picture)
    except (CheckpointError, ConfigError, ManifestError, SampleError) as error:
        print_error("explore", error)
        return 2
    playing = sum(clip.media is not None for clip in page.clips)
    print(f"{printable(options.out)} ({len(page.clips)} clips, {playing} of them play, {size / 1e6:.1f} MB)")
    if options.picture is not None:
        print(printable(options.picture))
    return 0


if __name__ == "__main__":
    open_log("explore")
    sys.exit(main())
