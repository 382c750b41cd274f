"""Prepares a folder of videos as shards: `python -m pipeline.prepare SRC OUT [--labels labels.csv] [key=value ...]`.

Run the same command again to resume after an interruption, or to add new files of SRC. Several machines that share the
folders split the work with --shard 0/4 to --shard 3/4, or all nodes of a Ray cluster work with --engine ray. SRC and
OUT may be URLs such as s3://bucket/folder (docs/stores.md); then the machines need no shared folder.
"""

from __future__ import annotations

from common.signals import end_on_signals

if __name__ == "__main__":
    # Ending at once is safe: all data on disk is complete, and the kernel kills the workers together with this process.
    end_on_signals("prepare", terminated=75)

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.cluster.engine import ClusterError, add_engine_options, ray_engine
from common.environment import MissingPackage
from common.phases import open_log, say
from common.stores import location
from common.terminal import command, print_error
from pipeline.lists.published import FORMS
from pipeline.plan.leave_out import read_leave_out
from pipeline.prepare.labels import LabelError, add_labels_may_miss, require_list
from pipeline.prepare.segments.options import Annotations
from pipeline.prepare.sources import PrepareError, check_folders
from settings import ConfigError, PrepareConfig, load_config


@command("prepare")
def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if no file was usable, 2 for a wrong argument or a full disk.

    As a command it also ends with 130 after Ctrl-C and with 75 after SIGTERM; the same command then resumes.
    """
    options = _parse(arguments)
    try:
        engine = ray_engine(options, most=options.workers)
        config = load_config(PrepareConfig, None, options.settings)
        check_folders(options.src.resolve(), options.out.resolve())
        if options.labels is not None:
            require_list(options.labels)
        annotations = _annotations(options)
        if options.leave_out is not None:
            read_leave_out(options.leave_out)
        say(f"preparing the videos in {options.src} as shards in {options.out}")
        from pipeline.prepare.anywhere import prepare_anywhere
        from pipeline.prepare.summary import print_summary

        summary = prepare_anywhere(
            options.src,
            options.out,
            work=options.work,
            config=config,
            labels_path=options.labels,
            annotations=annotations,
            workers=options.workers,
            part=options.shard,
            also=options.also,
            sync=options.sync,
            sync_all=options.sync_all,
            labels_may_miss=options.labels_may_miss,
            retry=options.retry,
            leave_out=options.leave_out,
            engine=engine,
        )
    except (ClusterError, MissingPackage, PrepareError, LabelError, ConfigError) as error:
        print_error("prepare", error)
        return 2
    print_summary(summary, options.out)
    return 0 if summary.totals.samples else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.prepare", description=__doc__)
    parser.add_argument(
        "src", type=location, help="folder of videos in any format that FFmpeg reads, with sub-folders; or its URL"
    )
    parser.add_argument("out", type=location, help="folder for shards, manifest and rejected.jsonl; or its URL")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="if OUT is a URL: folder of this machine for unfinished shards"
    )
    parser.add_argument("--labels", type=Path, help="list with a column path and label columns (default: folder names)")
    parser.add_argument(
        "--annotations",
        type=Path,
        action="append",
        metavar="LIST",
        help="published list of what to prepare: files, or segments to cut from them, and labels; may be repeated",
    )
    parser.add_argument(
        "--form", choices=FORMS, help="form of the annotations, if it is not recognised (%(choices)s)", metavar="FORM"
    )
    parser.add_argument(
        "--ontology",
        type=Path,
        metavar="FILE",
        help="class names: AudioSet's ontology.json or class_labels_indices.csv",
    )
    parser.add_argument(
        "--classes",
        metavar="NAME",
        help="prepare only rows of these classes: kinetics_sounds, or a text file",
    )
    add_labels_may_miss(parser, things="file")
    parser.add_argument("--workers", type=_positive, help="worker processes (default: all cores)")
    add_engine_options(parser, task="file", cores="1")
    parser.add_argument("--shard", type=_part, default=(0, 1), metavar="i/n", help="prepare only part i (from 0) of n")
    parser.add_argument("--also", metavar="NAME", help="add SRC to an OUT that was prepared from another folder")
    parser.add_argument(
        "--sync", action="store_true", help="remove samples whose file is gone, prepare replaced files again"
    )
    parser.add_argument("--sync-all", action="store_true", help="--sync even if most of the files are gone")
    parser.add_argument(
        "--leave-out",
        type=Path,
        metavar="FILE",
        help="list of files not to prepare (with --sync their samples are removed), as search.curate writes it",
    )
    parser.add_argument(
        "--no-retry",
        dest="retry",
        action="store_false",
        help="do not retry files that ran out of memory or time, crashed a worker or could not be read",
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings to change, such as storage.fps=12.5")
    return parser.parse_intermixed_args(arguments)


def _annotations(options: argparse.Namespace) -> Annotations | None:
    if options.annotations is None:
        for name in ("form", "ontology", "classes"):
            if getattr(options, name) is not None:
                raise PrepareError(f"--{name} is for the lists of --annotations; give a list, or leave it out")
        return None
    if options.labels is not None:
        raise PrepareError("--annotations has labels too, so it excludes --labels; attach others with pipeline.labels")
    annotations = Annotations(
        paths=tuple(options.annotations), form=options.form, ontology=options.ontology, classes=options.classes
    )
    annotations.require()
    return annotations


def _part(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return int(index), int(count)
    raise argparse.ArgumentTypeError(f"must be i/n with 0 <= i < n, such as 0/4, not {text!r}")


def _positive(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a positive whole number, not {text!r}")


if __name__ == "__main__":
    open_log("prepare")
    sys.exit(main())
