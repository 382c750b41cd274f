"""Prepares all sources of a folder: decodes and encodes in workers, packs shards in order, publishes the manifest.

The shards depend neither on the number of workers nor on interruptions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common.cluster.engine import ClusterError, RayEngine
from common.cluster.shared import shared_folder, shared_output
from common.environment import available_cores
from common.files import write_atomically
from common.phases import begin
from common.progress import show_progress
from common.stores import Location, RemotePath
from common.stores.errors import StoreUnreachable
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.labels import Labels, folder_labels, read_labels
from pipeline.prepare.media import normalise
from pipeline.prepare.publish import publish, rejected_sources, remove_empty_shards
from pipeline.prepare.records import PrepareError
from pipeline.prepare.segments.left_out import without_left_out
from pipeline.prepare.segments.lists import Lists, read_segments, write_coverage
from pipeline.prepare.segments.options import Annotations
from pipeline.prepare.segments.writing import write_samples
from pipeline.prepare.sources import Source, check_folders, find_sources, unchanged
from pipeline.prepare.staging import Staging
from pipeline.prepare.stores.originals import copied_here, list_sources
from pipeline.prepare.stores.out_folder import RemoteOut
from pipeline.prepare.summary import Summary
from pipeline.prepare.sync.follower import Follower
from pipeline.prepare.sync.origins import names_within, prefix_labels
from pipeline.prepare.workers.on_ray import run_tasks_on_ray
from pipeline.prepare.workers.pool import WorkersCannotStart, run_tasks
from pipeline.prepare.workers.process import restart_time_limit
from pipeline.shards.pieces import Piece
from pipeline.shards.tar_writer import sample_bytes
from settings import PrepareConfig


@dataclass(frozen=True, kw_only=True)
class SampleTask:
    """A source to prepare; the worker writes its samples to `fragment`.

    Attributes:
        labels: labels of the sample that is the whole file.
        part_labels: name of each item -> its labels, if the source may give several samples; else empty.
    """

    source: Source
    fragment: Path
    labels: dict[str, str]
    part_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


Results = Generator[tuple[SampleTask, BaseException | None], None, None]
"""Yields each task when it has ended, and why it failed, or None."""


def prepare(
    src: Location,
    out: Path,
    *,
    config: PrepareConfig,
    labels_path: Path | None = None,
    annotations: Annotations | None = None,
    workers: int | None = None,
    part: tuple[int, int] = (0, 1),
    also: str | None = None,
    sync: bool = False,
    sync_all: bool = False,
    labels_may_miss: bool = False,
    retry: bool = True,
    leave_out: Path | None = None,
    remote: RemoteOut | None = None,
    engine: RayEngine | None = None,
) -> Summary:
    """Prepares the sources of `src` that belong to `part` (i of n) and are not in `out` yet.

    Args:
        labels_path: list of labels; without it the folder names are labels.
        annotations: lists that say what to prepare, and its labels; only what they name is prepared.
        workers: number of worker processes; by default one per core that this process may use.
        also: name of `src` if it is an additional source folder of `out`; its samples' names begin with this and a /.
        sync: whether to remove samples whose file is gone, and to prepare replaced files again.
        sync_all: the same, even if more than half of the files are gone.
        labels_may_miss: whether to continue even if the list does not seem to belong to the sources.
        retry: whether to try again the files that failed in an earlier run for a reason that may have passed.
        leave_out: list of sources that are treated as if they were not in `src`.
        remote: the folder in an object store for which `out` stands, if it does.
        engine: the Ray cluster whose nodes decode the sources; None for worker processes of this machine.

    Raises:
        PrepareError: an argument is wrong, `out` was prepared from another folder, most of its files are gone, the disk
            is full, another run works on the same part, or the cluster cannot be used.
        LabelError, ConfigError: a list cannot be used, or does not seem to belong to the sources.
    """
    src, out = src.resolve(), out.resolve()
    where = remote.url if remote else out
    chosen = _choose(src, where, annotations, config, leave_out, also, may_be_empty=sync_all, may_miss=labels_may_miss)
    follower = Follower(src, out, chosen.sources, also=also, sync=sync or sync_all)
    labels = _labels(chosen, labels_path, src, streams=config.streams, may_miss=labels_may_miss)
    begin(f"comparing {len(chosen.sources):,} files with what {where} holds")
    summary = Summary(skipped=chosen.skipped, synced=sync or sync_all)
    kind, cores = _origin_of_labels(chosen, labels_path), workers or available_cores()
    try:
        with closing(Staging(out, part=part, config=config, labels=kind, retry=retry, remote=remote)) as staging:
            summary.set_aside = staging.set_aside
            assigned = [source for source in follower.sources if int(source.key, 16) % part[1] == part[0]]
            follower.begin(staging, assigned, columns=labels.columns, threads=cores, remove_any=sync_all)
            staging.share()
            run = partial(_run_tasks, config=config, workers=cores, engine=engine, src=src, carry=bool(remote))
            _prepare_part(assigned, staging, prefix_labels(labels, follower.origin), config, run, summary)
            _finish(out, follower, labels, chosen, config=config, summary=summary, remote=remote)
    except OSError as error:
        raise PrepareError(f"cannot continue in {where}: {error}") from None
    except (WorkersCannotStart, ClusterError) as error:
        raise PrepareError(str(error)) from None
    return summary


class _Chosen(NamedTuple):
    """The sources of a run and what is to be prepared from them, the number of other files per suffix, the lists that
    name what to prepare, and the names that are left out."""

    sources: list[Source]
    skipped: Counter[str]
    lists: Lists | None
    left_out: set[str]


def _choose(
    src: Location,
    out: Location,
    annotations: Annotations | None,
    config: PrepareConfig,
    leave_out: Path | None,
    also: str | None,
    *,
    may_be_empty: bool,
    may_miss: bool,
) -> _Chosen:
    check_folders(src, out)
    sources, skipped = _find_sources(src, out, may_be_empty=may_be_empty)
    lists = None
    if annotations is not None:
        lists = read_segments(annotations, sources, streams=config.streams, root=src, may_miss=may_miss)
        sources = lists.with_spans(sources)
    prefix = f"{also}/" if also else ""
    sources, left_out = without_left_out(sources, leave_out, src=src, prefix=prefix, windows=bool(config.windows))
    return _Chosen(sources, skipped, lists, left_out)


def _origin_of_labels(chosen: _Chosen, labels_path: Path | None) -> str:
    if chosen.lists is not None:
        return "annotations"
    return "file" if labels_path is not None else "folders"


def _find_sources(src: Location, out: Location, *, may_be_empty: bool) -> tuple[list[Source], Counter[str]]:
    begin(f"listing the files in {src}")
    if isinstance(src, RemotePath):
        sources, skipped = list_sources(src, exclude=out if isinstance(out, RemotePath) else None)
    else:
        sources, skipped = find_sources(src, exclude=out if isinstance(out, Path) else None)
    if not (sources or may_be_empty):
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common(5)) or "nothing"
        raise PrepareError(f"{src} holds no file with a known video or audio suffix; it holds {kinds}")
    return sources, skipped


def _labels(chosen: _Chosen, path: Path | None, src: Location, *, streams: str, may_miss: bool) -> Labels:
    if chosen.lists is not None:
        return chosen.lists.labels()
    names = [source.name for source in chosen.sources]
    root = src if isinstance(src, Path) else None
    labels = read_labels(path, names, streams=streams, root=root) if path is not None else folder_labels(names)
    if not may_miss:
        labels.check()
    return labels


def _finish(
    out: Path,
    follower: Follower,
    labels: Labels,
    chosen: _Chosen,
    *,
    config: PrepareConfig,
    summary: Summary,
    remote: RemoteOut | None,
) -> None:
    if remote is not None:
        remote.pull()
    begin("writing the manifest")
    if labels.is_unclear:
        # The unusable files are known now, so a row that fits several files may fit only one usable file.
        labels = labels.without(names_within(rejected_sources(out), follower.origin))
    summary.labels = labels
    follower.finish(prefix_labels(labels, follower.origin), from_file=labels.listed is not None, summary=summary)
    # The indexes hold the labels of all sources by now.
    columns = Labels(columns=follower.columns())
    summary.totals = publish(out, config=config, labels=columns, sizes=remote.sizes if remote else None)
    remove_empty_shards(out)
    if chosen.lists is not None:
        summary.coverage = write_coverage(out, chosen.lists, prefix=follower.origin.prefix, left_out=chosen.left_out)
    if remote is not None:
        remote.publish()
        while remote.has_changed():
            # Another machine has finished a shard meanwhile, which the manifest may lack.
            remote.pull()
            summary.totals = publish(out, config=config, labels=columns, sizes=remote.sizes)
            remote.publish()


def _prepare_part(
    sources: Sequence[Source],
    staging: Staging,
    labels: Labels,
    config: PrepareConfig,
    run: Callable[[list[SampleTask]], Results],
    summary: Summary,
) -> None:
    """Prepares the sources that are neither packed, staged nor rejected, and packs all staged samples into shards."""
    unpacked = [source for source in sources if not staging.is_packed(source)]
    summary.already_prepared = len(sources) - len(unpacked)
    packer = _Packer(unpacked, staging, config.shard_samples)
    todo = [source for source in unpacked if not (staging.is_staged(source) or staging.is_rejected(source))]
    for source in todo:
        if source.problem is not None:
            summary.rejected[source.problem.reason] += staging.reject(source, source.problem)
    tasks = [_task(source, staging, labels, config) for source in todo if source.problem is None]
    begin(f"preparing {len(tasks):,} files")
    with closing(run(tasks)) as results:  # on any error the workers end before this function does
        for task, error in show_progress(results, total=len(tasks)):
            if isinstance(error, OSError):
                raise error
            if error is None:
                samples, reasons = staging.stage(task.source)
                summary.prepared += samples
                summary.rejected.update(reasons)
            else:
                if not isinstance(error, RejectedSource):
                    error = RejectedSource(
                        "internal error", f"{type(error).__name__}: {error}; please report it with the file"
                    )
                summary.rejected[error.reason] += staging.reject(task.source, error)
            packer.advance()
    packer.advance()
    packer.finish()


def _task(source: Source, staging: Staging, labels: Labels, config: PrepareConfig) -> SampleTask:
    """The work on a source: the items that are missing."""
    missing = staging.missing(source)
    is_whole = not config.windows and [item.span for item in missing] == [None]
    return SampleTask(
        source=replace(source, spans=tuple(item.span for item in missing)),
        fragment=staging.fragment(source),
        labels=labels.by_source.get(source.name, {}),
        part_labels={} if is_whole else {item.name: labels.by_source.get(item.name, {}) for item in missing},
    )


def _run_tasks(
    tasks: list[SampleTask],
    *,
    config: PrepareConfig,
    workers: int,
    engine: RayEngine | None,
    src: Location,
    carry: bool,
) -> Results:
    work = partial(prepare_sample, config=config)
    limits: dict[str, Any] = {"timeout_seconds": config.timeout_seconds, "memory_mb": config.memory_mb}
    if engine is None:
        yield from run_tasks(work, tasks, workers=max(1, min(workers, len(tasks))), **limits)
    elif tasks:
        shared = [shared_folder(src)] if isinstance(src, Path) else []
        with ExitStack() as stack:
            if not carry:
                shared.append(stack.enter_context(shared_output(tasks[0].fragment.parent)))
            yield from run_tasks_on_ray(work, tasks, engine=engine, shared=tuple(shared), carry=carry, **limits)


class _Packer:
    """Fills shards in the order of the sources, although samples are finished in any order."""

    def __init__(self, sources: Iterable[Source], staging: Staging, shard_samples: int) -> None:
        self._sources = list(sources)
        self._staging = staging
        self._shard_samples = shard_samples
        self._position = 0
        self._group: list[tuple[Source, Piece]] = []

    def advance(self) -> None:
        """Writes each full shard whose sources, and all sources before them, are finished or rejected."""
        while self._position < len(self._sources):
            source = self._sources[self._position]
            if self._staging.is_staged(source):
                self._group += [(source, piece) for piece in self._staging.pieces(source)]
            elif not self._staging.is_rejected(source):
                return
            self._position += 1
            while len(self._group) >= self._shard_samples:
                self._pack(self._shard_samples)

    def finish(self) -> None:
        """Writes the samples gathered so far as a shard, even if it is not full."""
        if self._group:
            self._pack(len(self._group))

    def _pack(self, count: int) -> None:
        self._staging.pack(self._group[:count])
        self._group = self._group[count:]


def prepare_sample(task: SampleTask, *, config: PrepareConfig) -> None:
    """Writes the fragment (each sample as a tar file) of one source; runs in a worker.

    Raises:
        RejectedSource: the source cannot be used, and nothing was written.
        OSError: the fragment cannot be written.
    """
    source = task.source
    if task.part_labels:
        write_samples(source, task.fragment, task.part_labels, config=config, progress=restart_time_limit)
        return
    try:
        with copied_here(source, task.fragment.parent) as here, unchanged(here) as sha256:
            media = normalise(Path(here.path), config)
    except StoreUnreachable:
        raise
    except OSError as error:  # reading the source failed, not writing, so the run can continue
        raise RejectedSource("cannot be read", error.strerror or str(error)) from None
    data = sample_bytes(media, key=source.key, source=source.name, labels=task.labels, config=config, sha256=sha256)
    # A later run trusts whatever fragment it finds, even after a power failure.
    write_atomically(task.fragment, data, durable=True)
