"""Shows runs on one page: python -m training.report runs/a runs/b --out report

Writes report.html (one self-contained, interactive page) and report.png (a figure for papers) from each run's folder.
With --watch it writes only the page, again and again as metrics arrive; a browser that shows it follows by itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common.files import write_atomically
from common.phases import open_log, say
from common.terminal import command, print_error, printable

SECONDS = 5
"""Interval in seconds between two looks at the run folders with --watch, and between two loads of the page."""


@command("report")
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder (or its metrics.jsonl)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="path of both files, without their suffix")
    parser.add_argument("--watch", action="store_true", help="write the page as metrics arrive, until Ctrl-C")
    args = parser.parse_args(arguments)
    stem = args.out.with_suffix("") if args.out.suffix in (".html", ".png") else args.out
    png, page = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".html")
    say(f"{'following' if args.watch else 'comparing'} {len(args.runs)} run(s); writing to {page}")
    from common.finite import NotFiniteError
    from training.report.runs import ReportError

    try:
        if args.watch:
            watch(args.runs, page)
        else:
            write_once(args.runs, png, page)
            print(" ".join(map(printable, [png, page])))
    except (NotFiniteError, ReportError) as error:
        print_error("report", error)
        return 2
    except OSError as error:
        print_error("report", f"cannot write the report: {error}")
        return 2
    return 0


def write_once(folders: list[Path], png: Path, page: Path) -> None:
    """Writes both files."""
    from training.report.page import title_of, write_page
    from training.report.plots import draw
    from training.report.runs import read_runs
    from training.report.words import notes_on_not_finite

    runs = read_runs(folders)
    for note in notes_on_not_finite(runs):
        print_error("report", note)
    write_page(runs, page)
    write_atomically(png, draw(runs, title=title_of(runs)))


def watch(folders: list[Path], page: Path) -> None:
    """Writes the page whenever a file that it shows has changed, until Ctrl-C; the page then no longer reloads."""
    from training.report.page import write_page
    from training.report.runs import ReportError, read_runs

    seen: object = None
    waiting = False
    try:
        while True:
            started = time.monotonic()
            now = [_state(folder) for folder in folders]
            if now != seen:
                seen = now
                try:
                    write_page(read_runs(folders), page, reload_seconds=SECONDS)
                    print(f"{time.strftime('%H:%M:%S')} {printable(page)}", flush=True)
                except ReportError as error:  # the first step has not been logged yet
                    if not waiting:
                        print_error("report", f"waiting: {error}")
                    waiting = True
            # At most a tenth of the time of a core that the run may need.
            time.sleep(max(SECONDS, 9 * (time.monotonic() - started)))
    finally:
        if page.exists():
            write_page(read_runs(folders), page)


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files of a run folder that the page shows."""
    folder = folder.parent if folder.name == "metrics.jsonl" else folder
    files = [folder / name for name in ("metrics.jsonl", "environment.json", "config.yaml")]
    found = ((path, path.stat()) for path in [*files, *sorted(folder.glob("evaluation-*.json"))] if path.exists())
    return [(path.name, status.st_size, status.st_mtime_ns) for path, status in found]


if __name__ == "__main__":
    open_log("report")
    sys.exit(main())
