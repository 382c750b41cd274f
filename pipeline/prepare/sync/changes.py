"""Compares the samples of OUT with the files that their source folder holds now, and updates OUT accordingly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from common.stores import Location
from pipeline.prepare.labels import Labels
from pipeline.prepare.records import PrepareError
from pipeline.prepare.sources import PackedSample, Source
from pipeline.prepare.stores.originals import content_sha256
from pipeline.prepare.sync.edits import edit_index
from settings.load import format_key


@dataclass(kw_only=True)
class Changes:
    """How the files of a source folder differ from the samples made from them.

    Attributes:
        current: samples of the present version of their file, or of one that cannot be read at present.
        moved: samples whose file has another name now, and that file.
        touched: samples whose file has another size or time of modification but the same content, and that file.
        replaced: samples whose file has other content now, or may have and no hash of the old content was recorded.
        gone: samples whose file is no longer there under any name.
        superseded: samples of files of which a newer version is in a shard too, after an interrupted run.
        unlisted: samples of the present version of their file that no list asks for any more.
    """

    current: list[PackedSample] = field(default_factory=list)
    moved: list[tuple[PackedSample, Source]] = field(default_factory=list)
    touched: list[tuple[PackedSample, Source]] = field(default_factory=list)
    replaced: list[PackedSample] = field(default_factory=list)
    gone: list[PackedSample] = field(default_factory=list)
    superseded: list[PackedSample] = field(default_factory=list)
    unlisted: list[PackedSample] = field(default_factory=list)

    def expanded(
        self, versions: Mapping[PackedSample, Mapping[str, PackedSample]], twice: Sequence[PackedSample]
    ) -> Changes:
        """The changes of all samples, of which `self` has those of one per version of a file.

        Args:
            versions: the samples of each version, by key.
            twice: samples of which a shard has another copy.
        """

        def samples(found: Iterable[PackedSample]) -> list[PackedSample]:
            return [sample for version in found for sample in versions[version].values()]

        def targets(found: Iterable[tuple[PackedSample, Source]]) -> list[tuple[PackedSample, Source]]:
            return [(sample, source) for version, source in found for sample in versions[version].values()]

        return Changes(
            current=samples(self.current),
            moved=targets(self.moved),
            touched=targets(self.touched),
            replaced=samples(self.replaced),
            gone=samples(self.gone),
            superseded=samples(self.superseded) + list(twice),
        )

    def find_unlisted(self, sources: Iterable[Source]) -> None:
        """Moves those samples from `current` to `unlisted` whose file is in `sources`, but whose item is not."""
        wanted = {source.key: {item.key for item in source.items} for source in sources}
        self.unlisted = [
            sample for sample in self.current if sample.item_key not in wanted.get(sample.file_key, {sample.item_key})
        ]
        unlisted = set(self.unlisted)
        self.current = [sample for sample in self.current if sample not in unlisted]

    def apply_names(self, out: Path) -> None:
        """Writes the new names and versions of moved and touched samples into the indexes; no media is read."""
        targets = dict((*self.moved, *self.touched))

        def edit(sample: PackedSample, row: dict[str, Any]) -> dict[str, Any] | None:
            source = targets.get(sample)
            if source is None:
                return row
            new = sample.moved_to(source)
            part = {"file": new.file, "file_key": new.file_key} if new.source != new.file else {}
            return row | {"key": new.key, "source": new.source, "size": new.size, "mtime_ns": new.mtime_ns} | part

        if targets:
            edit_index(out, edit, shards={sample.shard for sample in targets})


def find_changes(samples: Iterable[PackedSample], sources: Sequence[Source], *, threads: int) -> Changes:
    """Compares the samples of a source folder with its files.

    A file with the recorded size and modification time counts as unchanged. Any other file is read to compare its
    SHA-256, if its size is that of a sample whose recorded version of a file no longer exists. All samples of one
    version of a file share its fate.
    """
    versions: dict[PackedSample, dict[str, PackedSample]] = {}
    twice = []
    for sample in samples:
        # A file is represented by what would be its only sample.
        whole = sample._replace(
            shard="", key=sample.file_key, source=sample.file, item=sample.file, item_key=sample.file_key, windows=1
        )
        parts = versions.setdefault(whole, {})
        if parts.setdefault(sample.key, sample) is not sample:
            twice.append(sample)
    return _compare(versions, sources, threads=threads).expanded(versions, twice)


def _compare(samples: Iterable[PackedSample], sources: Sequence[Source], *, threads: int) -> Changes:
    """`find_changes` for one sample per version of a file."""
    changes = Changes()
    files = {source.key: source for source in sources}
    differing = _sort_by_version(samples, files, changes)
    valid = {sample.key for sample in changes.current}
    sizes = {sample.size for sample in (*differing, *changes.gone) if sample.sha256 is not None}
    readable = [source for source in sources if source.problem is None and source.key not in valid]
    hashes = _hash([source for source in readable if source.size in sizes], threads)
    for sample in differing:
        source = files[sample.key]
        if sample.key in valid:
            changes.superseded.append(sample)
        elif sample.sha256 is not None and hashes.get(source.key) == sample.sha256:
            changes.touched.append((sample, source))
            valid.add(sample.key)
        else:
            changes.replaced.append(sample)
    _find_moved(changes, sources, valid, hashes)
    return changes


def _sort_by_version(
    samples: Iterable[PackedSample], files: Mapping[str, Source], changes: Changes
) -> list[PackedSample]:
    """Adds to `changes` the samples that size and time suffice to classify; returns those whose file differs."""
    differing, seen = [], set()
    unreadable = tuple(
        f"{source.name}/" for source in files.values() if source.problem and source.problem.reason == "cannot be read"
    )
    for sample in samples:
        source = files.get(sample.key)
        if source is None and sample.source.startswith(unreadable):
            changes.current.append(sample)
        elif source is None or (source.problem is not None and source.problem.reason == "missing"):
            changes.gone.append(sample)
        elif source.problem is None and (source.size, source.mtime_ns) != (sample.size, sample.mtime_ns):
            differing.append(sample)
        elif sample.key in seen:
            changes.superseded.append(sample)
        else:
            seen.add(sample.key)
            changes.current.append(sample)
    return differing


def _hash(sources: Sequence[Source], threads: int) -> dict[str, str]:
    """Returns the SHA-256 of each file, by key; a file that cannot be read has none."""

    def digest(source: Source) -> str:
        try:
            return content_sha256(source.path)
        except OSError:
            return ""

    with ThreadPoolExecutor(threads) as pool:
        return dict(zip((source.key for source in sources), pool.map(digest, sources), strict=True))


def _find_moved(changes: Changes, sources: Sequence[Source], valid: Collection[str], hashes: Mapping[str, str]) -> None:
    """Moves samples from `replaced` and `gone` to `moved` if a file without a valid sample has their content."""
    candidates: dict[object, list[PackedSample]] = defaultdict(list)
    for sample in (*changes.gone, *changes.replaced):
        candidates[sample.sha256 or (sample.size, sample.mtime_ns)].append(sample)
    files_of_version: dict[object, int] = defaultdict(int)
    for source in sources:
        files_of_version[source.size, source.mtime_ns] += 1
    for source in sources:
        if source.key in valid or source.problem is not None:
            continue
        version, name = (source.size, source.mtime_ns), PurePosixPath(source.name).name
        matching = candidates.get(hashes.get(source.key)) or candidates.get(version)
        if not matching:
            continue
        sample = max(matching, key=lambda sample: PurePosixPath(sample.source).name == name)
        # Size and time alone identify a file only if no other file or sample has the same.
        if sample.sha256 is not None or (len(matching) == 1 and files_of_version[version] == 1):
            matching.remove(sample)
            changes.moved.append((sample, source))
    moved = {sample for sample, _ in changes.moved}
    changes.gone = [sample for sample in changes.gone if sample not in moved]
    changes.replaced = [sample for sample in changes.replaced if sample not in moved]


def check_changes(changes: Changes, src: Location, out: Path, *, sync: bool, remove_any: bool) -> None:
    """Refuses changes that a wrong folder or an unmounted disk would explain.

    Raises:
        PrepareError: most files are gone and would be removed, or none has its old content.
    """
    kept = len(changes.current) + len(changes.moved) + len(changes.touched)
    total = kept + len(changes.replaced) + len(changes.gone) + len(changes.unlisted)
    if sync and not remove_any and changes.unlisted and 2 * (len(changes.gone) + len(changes.unlisted)) > total:
        raise PrepareError(
            f"{len(changes.unlisted):,} of the {total:,} samples of {out} are not listed any more, such as "
            f"{format_key('', changes.unlisted[0].source)}, and the files of {len(changes.gone):,} are gone. If this "
            "is the wrong list, give the right one; if these samples are to be removed, give --sync-all"
        )
    if sync and not remove_any and 2 * len(changes.gone) > total:
        raise PrepareError(
            f"{len(changes.gone):,} of {total:,} files from which {out} was prepared are gone from {src}, such as "
            f"{format_key('', changes.gone[0].source)}. If a disk is not mounted, mount it; if their samples are to be "
            "removed, give --sync-all"
        )
    other = [sample for sample in changes.replaced if sample.sha256 is not None]
    if not sync and kept == 0 and 2 * len(other) >= total > 0:
        raise PrepareError(
            f"{src} holds none of the files from which {out} was prepared, but other files of the same names, such as "
            f"{format_key('', other[0].source)}. If they replace those, give --sync to prepare them again; else give "
            "--also NAME to add them under names that begin with NAME/, or prepare into another folder"
        )


class Settlement:
    """The last changes to the indexes before the manifest is published: new labels, and the removal of samples.

    Args:
        keep_unlisted: whether samples that have no row in the labels file any more keep their labels.

    Attributes:
        unlisted: names of the samples that have a label, but no row in the labels file any more.
        removed, removed_bytes: number of removed samples, and bytes of their tracks in the shards.
    """

    def __init__(self, labels: Labels, *, keep_unlisted: bool) -> None:
        self._labels = labels
        self._keep_unlisted = keep_unlisted
        self.unlisted: list[str] = []
        self.removed = 0
        self.removed_bytes = 0

    def apply(self, out: Path, *, labelled: Collection[str], remove: Collection[PackedSample]) -> None:
        """Removes samples from the indexes, and gives those of the items `labelled` their current labels."""

        def edit(sample: PackedSample, row: dict[str, Any]) -> dict[str, Any] | None:
            if sample in remove:
                self.removed += 1
                self.removed_bytes += sum(row["frame_bytes"]) + 2 * row["audio_samples"]
                return None
            return self._labelled(sample, row) if sample.item in labelled else row

        def concerns(sample: PackedSample, row: dict[str, Any]) -> bool:
            is_labelled = sample.source in labelled
            return sample in remove or (is_labelled and self._labels.by_source.get(sample.source, {}) != row["labels"])

        edit_index(out, edit, concerns=concerns)

    def _labelled(self, sample: PackedSample, row: dict[str, Any]) -> dict[str, Any]:
        values = self._labels.by_source.get(sample.item, {})
        if not values and any(row["labels"].values()):
            self.unlisted.append(row["source"])
            if self._keep_unlisted:
                return row
        return row if values == row["labels"] else row | {"labels": values}
