"""Searches an index that search.index made.

    python -m search.query INDEX --sound dog.wav            videos that fit this sound
    python -m search.query INDEX --video clip.mp4           sounds that fit the pictures of this video
    python -m search.query INDEX --picture frame.jpg        sounds that fit this picture
    python -m search.query INDEX --like dog/1.mp4@12.5      rows like the one of dog/1.mp4 at 12.5 s

A long file is searched for by the mean of evenly spaced clips; FILE@SECONDS takes the one clip that begins there.
"""

from __future__ import annotations

from common.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("query")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.environment import MissingPackage
from common.phases import begin, open_log, say
from common.terminal import command
from search.index.folder import SearchIndexError, as_in_embeddings, read_head
from search.packages import require_packages
from search.query.request import MOST, conditions, query_file, require_run, split_time
from settings import ConfigError
from training.saving.files import CheckpointError


@command("query", CheckpointError, ConfigError, MissingPackage, SearchIndexError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake in the arguments, the index, the run or the file."""
    options = _parse(arguments)
    require_packages("pyarrow")
    head = read_head(options.index)
    where = conditions(map(as_in_embeddings, options.where))
    kinds = ("sound", "video", "picture", "like")
    kind, text = next((kind, given) for kind in kinds if (given := getattr(options, kind)) is not None)
    say(f"searching the {head.rows:,} rows of {options.index} by {'a row' if kind == 'like' else f'a {kind}'}")
    if kind == "like":
        source, at = split_time(as_in_embeddings(text))
        begin("importing FAISS")
        from search.query.run import by_row, show

        found = by_row(options.index, source, at, by=options.by, to=options.to, top=options.top, where=where)
    else:
        file, at = query_file(kind, text)
        run = require_run(head, options.run)
        begin("importing FAISS and torch")
        from search.query.run import by_file, show

        found = by_file(options.index, file, kind, at, run=run, to=options.to, top=options.top, where=where)
    show(found, as_json=options.json, html=options.html, videos=options.videos)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.query", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of the index")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--sound", metavar="FILE[@S]", help="sound to search by: the sound of any audio or video file")
    query.add_argument("--video", metavar="FILE[@S]", help="video to search by: its pictures, without its sound")
    query.add_argument("--picture", metavar="FILE", help="still picture to search by")
    query.add_argument("--like", metavar="SOURCE[@S]", help="row of the index to search by")
    parser.add_argument(
        "--to",
        choices=("video", "audio"),
        help="what is searched (default: the other modality than the query's; with --like, the same)",
    )
    parser.add_argument(
        "--by", choices=("video", "audio"), help="with --like: which vector of the row (default: video)"
    )
    parser.add_argument("--top", type=int, default=10, metavar="N", help="number of results (default: %(default)s)")
    parser.add_argument(
        "--where", action="append", default=[], metavar="LABEL=VALUE", help="only rows with this label; repeatable"
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON, to stdout without FILE")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with a frame of each result, too")
    parser.add_argument("--videos", type=Path, metavar="SRC", help="folder of the sources, for the frames of the page")
    parser.add_argument("--run", type=Path, metavar="RUN", help="run or checkpoint of the encoders, if it was moved")
    options = parser.parse_args(arguments)
    if not 1 <= options.top <= MOST:
        parser.error(f"--top must be from 1 to {MOST}, not {options.top}")
    if options.by and options.like is None:
        parser.error("--by is only for --like")
    return options


if __name__ == "__main__":
    open_log("query")
    sys.exit(main())
