"""A demo corpus of short videos with sound: `python -m pipeline.demo OUT [--videos 400] [--seed 0]`.

OUT gets `00000.mp4`, ... (H.264 and AAC) and `labels.csv` (path, kind, speed, split). Kinds and speeds are balanced
over the corpus and over its train and test part; see pipeline/demo/scene.py for what is seen and heard. Each file is
a function of the seed and its number; an interrupted run goes on where it ended, a finished one is left as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.demo.corpus import DemoError, make_demo


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--videos", type=int, default=400, help="how many (default 400)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        made = make_demo(args.out, videos=args.videos, seed=args.seed)
    except (DemoError, OSError) as error:
        print(f"pipeline.demo: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {made} videos made, {args.videos - made} were there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
