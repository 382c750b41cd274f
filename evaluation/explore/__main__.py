"""A page to look through a run's embeddings: `python -m evaluation.explore RUN --data SHARDS [--out explore.html]`.

One HTML file that needs nothing else: a map of the embeddings, each clip's nearest sounds and videos with picture and
sound, and the items of the run's dictionaries beside as many that are drawn at random.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.explore.collect import explore
from evaluation.explore.page import write_page
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.manifest import ManifestError
from settings import ConfigError
from training.checkpoint import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake in the arguments, the run or the data."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.explore", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, or a checkpoint file")
    parser.add_argument("--data", required=True, metavar="SHARDS", help="folder that pipeline.prepare made")
    parser.add_argument("--out", type=Path, default=Path("explore.html"), help="page to write (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=300, help="most samples on the page (default: %(default)s)")
    parser.add_argument("--map", choices=("tsne", "pca"), default="tsne", help="how to lay out (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        page = explore(options.run, data=options.data, samples=options.samples, method=options.map)
        size = write_page(page, options.out)
    except (CheckpointError, ConfigError, ManifestError, SampleError, OSError) as error:
        print(f"explore: {error}", file=sys.stderr)
        return 2
    print(f"{options.out} ({len(page.clips)} clips, {size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
