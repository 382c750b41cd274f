"""Updates the samples of one source folder to match its files: names before a run, labels and removals after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.stores import Location
from pipeline.lists.spans import split_fragment
from pipeline.prepare.attached import rename_attached
from pipeline.prepare.labels import Labels
from pipeline.prepare.sources import PackedSample, Source, add_prefix, packed_keys
from pipeline.prepare.staging import Staging
from pipeline.prepare.summary import Summary
from pipeline.prepare.sync.changes import Changes, Settlement, check_changes, find_changes
from pipeline.prepare.sync.edits import locked, prune_journals
from pipeline.prepare.sync.origins import Origins


class Follower:
    """Keeps the samples of `src` in `out` in step with its files, for one run.

    Everything new is durable before anything old is removed, so that a killed run loses nothing: names and versions
    first, then new samples, then the removal of rows, then the manifest, and the files of empty shards at the end.

    Args:
        sources: the files of `src`, as named within it.
        also: the name given with --also, if `src` is an additional source folder of `out`.
        sync: whether to remove samples whose file is gone, and to prepare replaced files again.

    Attributes:
        origin: the source folder as `out` knows it.
        sources: its files, as their samples are named.

    Raises:
        PrepareError: `out` was prepared from another folder.
    """

    def __init__(self, src: Location, out: Path, sources: Sequence[Source], *, also: str | None, sync: bool) -> None:
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
        recorded = [sample for sample in staging.samples if self._origins.owns(self.origin, sample.source)]
        changes = self._changes = find_changes(recorded, self.sources, threads=threads)
        changes.find_unlisted(self.sources)
        check_changes(changes, self._src, self._out, sync=self._sync, remove_any=remove_any)
        if self._remark and not self._origins.verified:
            # Staged samples may come from files at the old path.
            staging.clear()
        self._origins.register(replace(self.origin, columns=tuple(columns)))
        changes.apply_names(self._out)
        with locked(self._out):
            rename_attached(
                self._out, {sample.source: sample.moved_to(source).source for sample, source in changes.moved}
            )
        outdated: set[PackedSample] = set()
        if self._sync:
            keys = {source.key for source in assigned}
            replaced = (sample for sample in changes.replaced if sample.file_key in keys)
            outdated = {*changes.gone, *changes.unlisted, *replaced}
        self._to_remove = outdated.union(changes.superseded)
        moved = {sample for sample, _ in changes.moved}
        packed = [sample for sample in staging.samples if sample not in outdated and sample not in moved]
        packed += [sample.moved_to(source) for sample, source in changes.moved]
        staging.set_packed(packed_keys(packed))

    def finish(self, labels: Labels, *, from_file: bool, summary: Summary) -> None:
        """Removes outdated samples, gives the others their current labels, and records the changes in `summary`.

        Args:
            labels: the current labels of the sources.
            from_file: whether they come from a labels file, which may no longer list a source that it listed before.
        """
        changes, names = self._changes, {item.name for source in self.sources for item in source.items}
        if self._sync:
            # A rejected window is kept as long as its file is.
            prune_journals(
                self._out,
                lambda name: bool({name, split_fragment(name)[0]} & names) or not self._origins.owns(self.origin, name),
            )
        else:
            # The current list labels the new file, but the shard still holds the old one, which keeps its labels.
            names.difference_update(sample.item for sample in changes.replaced)
        settlement = Settlement(labels, keep_unlisted=from_file and not self._sync)
        settlement.apply(self._out, labelled=names, remove=self._to_remove)
        summary.remark = self._remark
        summary.moved = [f"{sample.source} -> {sample.moved_to(source).source}" for sample, source in changes.moved]
        summary.gone = [sample.source for sample in changes.gone]
        summary.replaced = [sample.source for sample in changes.replaced]
        summary.dropped = [sample.source for sample in changes.unlisted]
        summary.unlisted = settlement.unlisted if from_file else []
        summary.removed, summary.removed_bytes = settlement.removed, settlement.removed_bytes

    def columns(self) -> list[str]:
        """The label columns of all sources of OUT."""
        return self._origins.columns()
