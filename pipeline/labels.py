"""Attaches labels and splits to a prepared data set, or changes them: `python -m pipeline.labels OUT labels.csv`.

Nothing is decoded. A later `pipeline.prepare` of the same OUT keeps these labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.phases import begin, open_log, say
from common.stores import Location, location
from common.stores.scratch import scratch_folder
from common.terminal import command, printable
from pipeline.prepare.labels import LabelError, Labels, add_labels_may_miss, read_labels, require_list
from pipeline.prepare.sources import PrepareError
from pipeline.shards.meta import ManifestError, read_meta
from settings import ConfigError, PrepareConfig


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.labels", description=__doc__)
    parser.add_argument("out", type=location, help="folder that pipeline.prepare has written; or its URL")
    parser.add_argument("labels", type=Path, help="list with a column path and label columns")
    add_labels_may_miss(parser, things="sample")
    return parser.parse_args(arguments)


@command("labels", LabelError, ManifestError)
def announce() -> None:
    """Finds mistakes that can be found without NumPy, and says what follows."""
    options = parse()
    read_meta(options.out)
    require_list(options.labels)
    say(f"attaching the labels of {options.labels} to {options.out}")


if __name__ == "__main__":
    open_log("labels")
    if status := announce():
        sys.exit(status)

from pipeline.prepare.attached import read_attached, write_attached
from pipeline.prepare.publish import publish, rejected_sources
from pipeline.prepare.stores.out_folder import RemoteOut
from pipeline.prepare.sync.edits import locked
from pipeline.shards.index.files import index_file
from pipeline.shards.manifest import Manifest
from settings.load import from_dict


def attach_labels(out: Path, path: Path, *, may_miss: bool = False, remote: RemoteOut | None = None) -> Labels:
    """Gives the samples of `out` the labels of the list `path`, and publishes the manifest with them.

    The columns of the list are added or replace columns of the same name. Samples without a row keep what they had.

    Args:
        may_miss: whether to continue even if the list does not seem to belong to the samples.
        remote: the folder in an object store for which `out` stands, if it does.

    Raises:
        LabelError: the list cannot be used, or does not seem to belong to the samples.
        ManifestError, PrepareError: `out` is not a prepared data set, is damaged or cannot be written.
    """
    place = remote.url if remote else out
    manifest = Manifest.open(place)
    manifest.finish_check()
    for shard in manifest.shards:
        index = index_file(out, Path(shard).stem)
        if not index.is_file():
            raise PrepareError(f"{index} is missing, and the manifest cannot be written again without it; restore it")
    rejected = rejected_sources(out)
    sources = [manifest.source(index) for index in range(len(manifest))]
    begin("matching the list with the samples")
    names = [*sources, *sorted(rejected - set(sources))]
    labels = read_labels(path, names, rejected=rejected)
    if not may_miss:
        labels.check()
    try:
        with locked(out):
            columns, attached = read_attached(out)
            columns += [column for column in labels.columns if column not in columns]
            for source in labels.by_source.keys() & set(sources):
                attached[source] = attached.get(source, {}) | labels.by_source[source]
            begin("writing the manifest")
            write_attached(out, columns, attached)
            config = replace(
                from_dict(PrepareConfig, {"streams": manifest.streams}, source=f"{out}/manifest/meta.json"),
                storage=manifest.storage,
                sample_rate=manifest.sample_rate,
            )
            sizes = remote.sizes if remote else None
            publish(out, config=config, labels=_published(Manifest.open(place)), sizes=sizes)
            if remote is not None:
                remote.publish()
    except OSError as error:
        raise PrepareError(f"cannot change the labels in {out}: {error}") from None
    return labels


def attach_anywhere(out: Location, path: Path, *, may_miss: bool = False) -> Labels:
    """Calls `attach_labels`, with a local folder in the place of `out` if that is in an object store."""
    if isinstance(out, Path):
        return attach_labels(out, path, may_miss=may_miss)
    try:
        with RemoteOut(out, scratch_folder(out, "labels"), part=(0, 1)) as remote:
            remote.pull()
            return attach_labels(remote.folder, path, may_miss=may_miss, remote=remote)
    except OSError as error:
        raise PrepareError(f"cannot change the labels in {out}: {error}") from None


def _published(manifest: Manifest) -> Labels:
    """The labels in the manifest."""
    by_source: dict[str, dict[str, str]] = {manifest.source(index): {} for index in range(len(manifest))}
    for column in manifest.label_columns:
        names = [*manifest.label_names(column), ""]  # code -1 is unknown
        for values, code in zip(by_source.values(), manifest.labels(column), strict=True):
            values[column] = names[code]
    return Labels(columns=manifest.label_columns, by_source=by_source)


@command("labels", ConfigError, LabelError, ManifestError, PrepareError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 if the labels or the data set cannot be used."""
    options = parse(arguments)
    labels = attach_anywhere(options.out, options.labels, may_miss=options.labels_may_miss)
    print(f"{len(labels.by_source):,} samples labelled; columns: {', '.join(map(repr, labels.columns))}")
    for line in labels.describe():
        print(printable(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
