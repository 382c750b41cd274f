"""Shows what the model gets: `python -m pipeline.preview SHARDS [--config YAML] --out preview.png [--html]`.

The picture holds the first clips of an epoch as training takes them, crop, flip and colour included: frames, waveform
and log-mel spectrogram on one time axis. --html writes the same page with the sound to listen to. --compare VIDEOS sets
the decord loader, which reads the raw videos, beside the DALI loader.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.plan.bad_samples import SampleError
from pipeline.preview.collect import collect
from pipeline.preview.contact_sheet import write_page, write_picture
from pipeline.shards.manifest import ManifestError
from settings import Config, ConfigError, load_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake in the arguments or data that cannot be shown."""
    options = _parse(arguments)
    try:
        if options.count < 1:
            raise ConfigError(f"--count must be at least 1, not {options.count}")
        config = load_config(Config, options.config, options.overrides)
        config = replace(config, data=replace(config.data, path=options.shards, loader="dali"))
        clips = collect(config, options.ids, count=options.count, epoch=options.epoch, compare=options.compare)
        as_page = options.out.suffix == ".html"
        written = [write_picture(clips, options.out.with_suffix(".png") if as_page else options.out)]
        if options.html or as_page:
            written.append(write_page(clips, options.out.with_suffix(".html")))
    except (ConfigError, ManifestError, SampleError, ValueError, OSError) as error:
        print(f"preview: {error}", file=sys.stderr)
        return 2
    print(*written, sep="\n")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.preview", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="folder that pipeline.prepare made")
    parser.add_argument("--config", type=Path, help="YAML of the run whose clips are wanted (else: the defaults)")
    parser.add_argument("--out", type=Path, default=Path("preview.png"), help="picture to write (default: %(default)s)")
    parser.add_argument("--html", action="store_true", help="also write a page with the sound, beside the picture")
    parser.add_argument("--compare", type=Path, metavar="VIDEOS", help="folder of the raw videos, read with decord")
    parser.add_argument("--ids", type=_ids, default=[], metavar="3,17", help="samples to show")
    parser.add_argument("--count", type=int, default=6, help="samples to show without --ids (default: %(default)s)")
    parser.add_argument("--epoch", type=int, default=0, help="epoch whose random choices are shown")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in augment.enabled=false")
    return parser.parse_intermixed_args(arguments)


def _ids(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be sample ids with commas between, as in 3,17, not {text!r}")
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
