"""Draws clips as the model gets them: `python -m pipeline.preview SHARDS [--config YAML] --out preview.png [--html]`.

The picture shows the first training clips of an epoch after crop, flip and colour: frames, waveform and log-mel
spectrogram on a common time axis. --html also writes a page that plays the clips. --compare VIDEOS adds rows from the
decord loader, which reads the raw videos.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.phases import begin, open_log, say
from common.stores import location
from common.stores.urls import check_url
from common.terminal import command, print_error, printable
from pipeline.plan.bad_samples import SampleError
from pipeline.shards.meta import ManifestError, check_shards, read_meta
from settings import Config, ConfigError, DataConfig, load_config


@command("preview")
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status: 0, or 2 if the arguments are wrong or the data cannot be shown."""
    options = _parse(arguments)
    try:
        if options.count < 1:
            raise ConfigError(f"--count must be at least 1, not {options.count}")
        config = load_config(Config, options.config, options.overrides)
        config = replace(config, data=_data(config.data, options.shards))
        root = location(options.shards)
        check_shards(root, read_meta(root))
        say(f"drawing clips of {options.shards}; writing to {options.out}")
        begin("importing torch and DALI")
        from pipeline.preview.collect import collect
        from pipeline.preview.contact_sheet import write_picture
        from pipeline.preview.player import write_page

        clips = collect(config, options.ids, count=options.count, epoch=options.epoch, compare=options.compare)
        as_page = options.out.suffix == ".html"
        written = [write_picture(clips, options.out.with_suffix(".png") if as_page else options.out)]
        if options.html or as_page:
            written.append(write_page(clips, options.out.with_suffix(".html")))
    except (ConfigError, ManifestError, SampleError, ValueError) as error:
        print_error("preview", error)
        return 2
    print(*map(printable, written), sep="\n")
    return 0


def _data(data: DataConfig, shards: str) -> DataConfig:
    """The settings for the folder `shards`; of a mix, those of the data set that lies there."""
    place = location(shards).resolve()
    there = [one for one in data.mix.values() if location(one.path).resolve() == place]
    if there:
        data = replace(data, mix={}, split=there[0].split, leave_out=there[0].leave_out, weights=there[0].weights)
    return replace(data, path=shards, loader="dali", mix={})


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.preview", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=check_url, help="folder or URL of prepared shards (from pipeline.prepare)")
    parser.add_argument("--config", type=Path, help="YAML configuration of the run (without it: default settings)")
    parser.add_argument("--out", type=Path, default=Path("preview.png"), help="picture to write (default: %(default)s)")
    parser.add_argument("--html", action="store_true", help="also write an HTML page that plays the clips")
    parser.add_argument("--compare", type=Path, metavar="VIDEOS", help="folder of raw videos to load with decord too")
    parser.add_argument("--ids", type=_ids, default=[], metavar="3,17", help="ids of the samples to show")
    parser.add_argument("--count", type=int, default=6, help="number of samples without --ids (default: %(default)s)")
    parser.add_argument("--epoch", type=int, default=0, help="epoch of the clips (default: %(default)s)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, e.g. augment.enabled=false")
    return parser.parse_intermixed_args(arguments)


def _ids(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be comma-separated sample ids such as 3,17, not {text!r}")
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    open_log("preview")
    sys.exit(main())
