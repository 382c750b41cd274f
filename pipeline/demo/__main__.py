"""Makes a demo corpus of short videos with audio: `python -m pipeline.demo OUT [--videos 400] [--seed 0]`.

The command writes `00000.mp4`, ... (H.264 and AAC) and `labels.csv` (path, kind, speed, split) to OUT. Kinds and speeds
are balanced over the corpus and over its train and test parts; pipeline/demo/scene.py describes the scenes. Each file
depends only on the seed and its number. The same command resumes an interrupted run and leaves a finished corpus as is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.phases import open_log, say
from common.terminal import command, print_error, printable


@command("pipeline.demo")
def main() -> int:
    """Makes the corpus. Returns the exit status: 0, or 2 if the corpus cannot be made in OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="new or empty folder, or one with an unfinished corpus")
    parser.add_argument("--videos", type=int, default=400, help="number of videos (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness (default 0)")
    args = parser.parse_args()
    say(f"making {args.videos:,} videos in {args.out}")
    from pipeline.demo.corpus import DemoError, make_demo

    try:
        made = make_demo(args.out, videos=args.videos, seed=args.seed)
    except DemoError as error:
        print_error("pipeline.demo", error)
        return 2
    print(f"{printable(args.out)}: {made} videos made, {args.videos - made} already present")
    return 0


if __name__ == "__main__":
    open_log("pipeline.demo")
    sys.exit(main())
