"""Lets the samples of one source folder follow its files: names before a run, labels and removals after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.prepare.attached import rename_attached
from pipeline.prepare.labels import Labels
from pipeline.prepare.sources import PackedSample, Source, add_prefix
from pipeline.prepare.staging import Staging
from pipeline.prepare.summary import Summary
from pipeline.prepare.sync.changes import Changes, Settlement, check_changes, find_changes
from pipeline.prepare.sync.edits import locked, prune_journals
from pipeline.prepare.sync.origins import Origins


class Follower:
    """What one run has to do so that the samples of `src` in `out` follow its files.

    Everything new is durable before anything old is removed, so that a killed run loses nothing: names and versions
    first, then new samples, then the removal of rows, then the manifest, and the files of empty shards at the end.

    Args:
        sources: the files of `src`, as named within it.
        also: the name that the user gave for `src` as a further source of `out`.
        sync: whether samples of files that are gone leave, and files that were replaced are prepared again.

    Attributes:
        origin: the source folder as `out` knows it.
        sources: its files, as their samples are named.

    Raises:
        PrepareError: `out` was prepared from another folder.
    """

    def __init__(self, src: Path, out: Path, sources: Sequence[Source], *, also: str | None, sync: bool) -> None:
        self._src = src
        self._out = out
        self._sync = sync
        self._origins = Origins(out)
        self.origin, self._remark = self._origins.identify(src, sources, also=also)
        self.sources = add_prefix(sources, src, self.origin.prefix)
        self._changes = Changes()
        self._to_remove: set[PackedSample] = set()

    def begin(
        self, staging: Staging, assigned: Sequence[Source], *, columns: Sequence[str], threads: int, remove_any: bool
    ) -> None:
        """Finds what has changed, gives moved samples their new names, and tells `staging` what to prepare.

        Args:
            assigned: the sources that this run prepares; other machines may prepare the others.
            columns: names of the label columns.
            threads: number of threads that read files whose size or time differs.
            remove_any: whether `sync` may remove more than half of the samples.

        Raises:
            PrepareError: the folder holds other files, or most of them are gone.
        """
        own = [sample for sample in staging.samples if self._origins.owns(self.origin, sample.source)]
        changes = self._changes = find_changes(own, self.sources, threads=threads)
        check_changes(changes, self._src, self._out, sync=self._sync, remove_any=remove_any)
        if self._remark and not self._origins.verified:
            # Samples that wait for their shard may be of files at the old path.
            staging.clear()
        self._origins.register(replace(self.origin, columns=tuple(columns)))
        changes.apply_names(self._out)
        with locked(self._out):
            rename_attached(self._out, {sample.source: source.name for sample, source in changes.moved})
        outdated: set[PackedSample] = set()
        if self._sync:
            keys = {source.key for source in assigned}
            outdated = {*changes.gone, *(sample for sample in changes.replaced if sample.key in keys)}
        self._to_remove = outdated.union(changes.superseded)
        moved = {sample for sample, _ in changes.moved}
        packed = {sample.key for sample in staging.samples if sample not in outdated and sample not in moved}
        staging.set_packed(packed.union(source.key for _, source in changes.moved))

    def finish(self, labels: Labels, *, from_file: bool, summary: Summary) -> None:
        """Removes samples that leave, gives the others their current labels, and reports to `summary`.

        Args:
            labels: the current labels of the sources.
            from_file: whether they are from a file, which may have listed a source that it lists no more.
        """
        changes, names = self._changes, {source.name for source in self.sources}
        if self._sync:
            prune_journals(self._out, lambda name: name in names or not self._origins.owns(self.origin, name))
        else:
            # A label in the current list is that of the new file.
            names.difference_update(sample.source for sample in changes.replaced)
        settlement = Settlement(labels, keep_unlisted=from_file and not self._sync)
        settlement.apply(self._out, labelled=names, remove=self._to_remove)
        summary.remark = self._remark
        summary.moved = [f"{sample.source} -> {source.name}" for sample, source in changes.moved]
        summary.gone = [sample.source for sample in changes.gone]
        summary.replaced = [sample.source for sample in changes.replaced]
        summary.unlisted = settlement.unlisted if from_file else []
        summary.removed, summary.removed_bytes = settlement.removed, settlement.removed_bytes

    def columns(self) -> list[str]:
        """The label columns of all sources of OUT."""
        return self._origins.columns()
