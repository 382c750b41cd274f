"""Embeds all files of a data set with the encoders of a run: `python -m search.embed RUN SRC OUT [key=value ...]`.

SRC is a folder of prepared shards, or a folder of videos, which are decoded on the way; or the URL of either. OUT gets
one row per file or, with every=SECONDS, one per window, as Parquet files with source, start, end, labels and unit
vectors. Run the same command again to resume after an interruption; start it with torchrun to share the work among
processes or GPUs, or with --engine ray to share it among the nodes of a Ray cluster.
"""

from __future__ import annotations

from common.signals import end_on_signals

if __name__ == "__main__":
    # Ending at once is safe: each part on disk is complete, and the workers end together with this process.
    end_on_signals("embed", terminated=75)

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cluster.engine import ClusterError, add_engine_options, ray_engine
from common.environment import MissingPackage
from common.phases import begin, open_log, say
from common.stores import Location, RemotePath, location
from common.stores.scratch import copy_folder, scratch_folder
from common.terminal import command, print_error, printable, show_logs
from pipeline.plan.bad_samples import SampleError
from pipeline.prepare.labels import LabelError, add_labels_may_miss, require_list
from pipeline.prepare.sources import PrepareError, check_folders
from pipeline.prepare.workers.pool import WorkersCannotStart
from pipeline.shards.meta import ManifestError, check_shards, is_prepared, read_meta
from search.packages import require_packages, require_utf8
from settings import ConfigError, load_config
from settings.search import EmbedConfig
from training.saving.files import CheckpointError, require_some_checkpoint


@command(
    "embed",
    CheckpointError,
    ClusterError,
    ConfigError,
    LabelError,
    ManifestError,
    MissingPackage,
    PrepareError,
    SampleError,
    WorkersCannotStart,
)
def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if no file gave a row, 2 for a mistake in the arguments, the run or the data.

    As a command it also ends with 130 after Ctrl-C and with 75 after SIGTERM; the same command then resumes.
    """
    options = _parse(arguments)
    show_logs()
    config = load_config(EmbedConfig, None, options.settings)
    _check(options)
    engine = ray_engine(options)
    say(f"embedding the files of {options.src} with {options.run}; writing to {options.out}")
    begin("importing torch and DALI")
    from common.finite import NotFiniteError
    from search.embed.run import Place, embed
    from search.embed.store import EmbedError
    from training.remote.checkpoints import local_checkpoint

    try:
        meta = embed(
            local_checkpoint(options.run),
            options.src,
            _folder(options.out),
            config=config,
            labels=options.labels,
            labels_may_miss=options.labels_may_miss,
            npy=options.npy,
            place=Place(**_place()) if engine is None else None,
            engine=engine,
        )
    except (EmbedError, NotFiniteError) as error:
        print_error("embed", error)
        return 2
    if meta is None:
        return 0
    if isinstance(options.out, RemotePath):
        copy_folder(_folder(options.out), options.out)
    unreadable = f"; {meta['unreadable']:,} unreadable files are in unreadable.jsonl" if meta["unreadable"] else ""
    print(f"{printable(options.out)}: {meta['rows']:,} rows of {meta['model']['dim']} numbers{unreadable}")
    return 0 if meta["rows"] else 1


def _folder(out: Location) -> Path:
    """The folder to write to: OUT, or of a URL a local one, which is copied there at the end."""
    return out if isinstance(out, Path) else scratch_folder(out, "embeddings")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=location, metavar="RUN", help="run folder, or a checkpoint file; or its URL")
    parser.add_argument(
        "src", type=location, metavar="SRC", help="prepared shards, or a folder of videos; or their URL"
    )
    parser.add_argument("out", type=location, metavar="OUT", help="folder for the embeddings; or its URL")
    parser.add_argument("--labels", type=Path, help="list with labels of a folder of videos (default: folder names)")
    add_labels_may_miss(parser, things="file")
    add_engine_options(parser, task="part of OUT", cores="all of a node, or its share per GPU")
    parser.add_argument("--npy", action="store_true", help="also write video.npy and audio.npy")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings such as every=10 (docs/configuration.md)"
    )
    return parser.parse_intermixed_args(arguments)


def _check(options: argparse.Namespace) -> None:
    """Finds mistakes that can be found without torch and DALI, which take seconds to import."""
    require_packages("pyarrow")
    require_utf8(_folder(options.out).resolve())
    if isinstance(options.run, Path):
        require_some_checkpoint(options.run)
    src, prepared = options.src, is_prepared(options.src)
    if not prepared and not src.is_dir():
        found = "is a file" if src.exists() else "does not exist"
        raise PrepareError(f"SRC must be a folder of prepared data or of videos, but {src} {found}")
    if not prepared or isinstance(src, Path):
        check_folders(src.resolve(), options.out.resolve())
    if prepared:
        check_shards(src, read_meta(src))
    if options.labels is not None:
        require_list(options.labels)


def _place() -> dict[str, int]:
    """This process among those of torchrun, from its environment variables."""
    names = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    try:
        place = {key: int(os.environ[name]) for key, name in names.items() if name in os.environ}
    except ValueError as error:
        raise ConfigError(
            f"torchrun's environment variables {', '.join(names.values())} must be numbers: {error}"
        ) from None
    fits = 0 <= place.get("rank", 0) < place.get("size", 1)
    if not fits or place.get("local_rank", 0) < 0 or place.get("local_size", 1) < 1:
        found = ", ".join(f"{names[key]}={value}" for key, value in place.items())
        raise ConfigError(f"torchrun's environment variables do not fit together: {found}")
    return place


if __name__ == "__main__":
    open_log("embed")
    sys.exit(main())
