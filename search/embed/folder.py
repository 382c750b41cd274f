"""A folder of videos as a source of rows: each part is prepared as temporary shards, embedded and removed."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.environment import available_cores
from common.stores import Location
from common.terminal import printable
from evaluation.features import MODALITIES
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.labels import Labels
from pipeline.prepare.run import SampleTask, prepare_sample
from pipeline.prepare.sources import Source as File
from pipeline.prepare.workers.pool import run_tasks
from pipeline.shards.manifest import Manifest
from pipeline.shards.manifest_writer import write_manifest
from pipeline.shards.tar_writer import write_shard
from search.decoding import storage_of
from search.embed.sources import Job, modalities_of
from search.embed.store import Part
from search.embed.vectors import Embedded
from search.embed.windows import Windows
from settings import Config, PrepareConfig, from_dict, to_dict
from settings.search import EmbedConfig

log = logging.getLogger(__name__)

SCRATCH = ".part-{number:05d}"
"""Name of a part's folder of temporary shards within OUT."""
WITHOUT = {"no audio track": "video", "no video track": "audio"}
"""Maps a reason for which preparation rejects a file to the stream that the file has."""
_SHARD = "shard-000000.tar"


class FolderSource:
    """A folder of videos; a part has a fixed number of files.

    Args:
        src: the folder, here or in an object store, from which workers copy one file at a time.
        out: the folder for temporary shards.
        files: the files of `src`, in order.
        labels: their labels.
        first: number of the part that begins with the first of `files`.
    """

    unit = "files"
    settings: tuple[str, ...] = ("part_files", "max_seconds")

    def __init__(
        self, src: Location, out: Path, files: list[File], labels: Labels, job: Job, *, first: int = 0
    ) -> None:
        self._first = first
        self._src, self._out, self._files, self._labels, self._job = src, out, files, labels, job
        self._size = job.config.part_files
        self._prepare = prepare_config(job.encoders.config, job.config)
        self._workers = available_cores(processes=job.processes)
        self.parts = -(-len(files) // self._size)
        self.modalities: tuple[str, ...] = MODALITIES if job.config.streams == "both" else (job.config.streams,)
        self.label_columns = labels.columns

    def describe(self) -> dict[str, Any]:
        listing = [[file.name, file.size, file.mtime_ns, self._labels.by_source.get(file.name)] for file in self._files]
        digest = hashlib.sha256(json.dumps([listing, self.label_columns], sort_keys=True).encode())
        return {"kind": "folder", "path": str(self._src), "fingerprint": digest.hexdigest()[:16]}

    def work(self, parts: Iterable[int]) -> int:
        return sum(max(1, sum(file.problem is None for file in self._part(number))) for number in parts)

    def embed(self, parts: Iterable[int]) -> Iterator[Part | None]:
        for number in parts:
            scratch = self._out / SCRATCH.format(number=number)
            shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was killed
            try:
                yield from self._embed_part(number, scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
                gc.collect()  # the part's loader holds threads and open files, and is in reference cycles

    def _part(self, number: int) -> list[File]:
        place = (number - self._first) * self._size
        return self._files[place : place + self._size]

    def files(self, number: int) -> tuple[list[File], Labels]:
        files = self._part(number)
        known = {file.name: self._labels.by_source[file.name] for file in files if file.name in self._labels.by_source}
        return files, Labels(columns=self.label_columns, by_source=known)

    def _embed_part(self, number: int, scratch: Path) -> Iterator[Part | None]:
        files = self._part(number)
        problems = {file.name: file.problem for file in files if file.problem is not None}
        usable = [file for file in files if file.problem is None]
        rows = _PartRows(files, self.modalities)
        streams = self._prepare.streams
        for ended, (file, error) in enumerate(self._decode(usable, scratch, streams), start=1):
            if error is not None:
                problems[file.name] = error
            if ended < len(usable):
                yield None
        self._collect([file for file in usable if file.name not in problems], scratch, streams, rows)
        # A file that lacks one of both streams is decoded again, for the other.
        lacking = {file: WITHOUT.get(_reason(problems, file)) for file in usable} if streams == "both" else {}
        for only in WITHOUT.values():
            group = [file for file, stream in lacking.items() if stream == only]
            for file, error in self._decode(group, scratch, only):
                if error is None:
                    del problems[file.name]
                else:
                    problems[file.name] = error
            self._collect([file for file in group if file.name not in problems], scratch, only, rows)
        yield rows.part(number, self._labels, self._job.encoders.dim, problems)

    def _decode(self, files: list[File], scratch: Path, streams: str) -> Iterator[tuple[File, RejectedSource | None]]:
        """Decodes files in workers; yields each as it ends, with the reason if it cannot be used."""
        if not files:
            return
        (scratch / streams).mkdir(parents=True)
        tasks = [SampleTask(source=file, fragment=scratch / streams / f"{file.key}.tar", labels={}) for file in files]
        config = self._config(streams)
        results = run_tasks(
            partial(prepare_sample, config=config),
            tasks,
            workers=max(1, min(self._workers, len(tasks))),
            timeout_seconds=config.timeout_seconds,
            memory_mb=config.memory_mb,
        )
        with closing(results):
            for task, error in results:
                if isinstance(error, OSError):
                    raise error
                if error is not None and not isinstance(error, RejectedSource):
                    error = RejectedSource("internal error", f"{type(error).__name__}: {error}")
                yield task.source, error

    def _collect(self, files: list[File], scratch: Path, streams: str, rows: _PartRows) -> None:
        """Packs the decoded files as a shard and embeds them."""
        if not files:
            return
        scratch = scratch / streams
        config = self._config(streams)
        packed = write_shard(scratch / _SHARD, [scratch / f"{file.key}.tar" for file in files])
        for file, row in zip(files, packed, strict=True):
            (scratch / f"{file.key}.tar").unlink()
            if "cut_at_max_seconds" in row["flags"]:
                log.warning("%s is longer than max_seconds=%g and was cut", printable(file.name), config.max_seconds)
        write_manifest(
            scratch,
            (row | {"shard": 0, "labels": {}} for row in packed),
            shards=[_SHARD],
            shard_bytes=[(scratch / _SHARD).stat().st_size],
            label_columns=[],
            storage=config.storage,
            sample_rate=config.sample_rate,
            streams=streams,
        )
        dataset = Manifest.open(scratch)
        windows = Windows(np.asarray(dataset.seconds), every=self._job.config.every)
        embedder = self._job.embedder(dataset, modalities=modalities_of(dataset, streams))
        for embedded in embedder.embed([windows.part(0, size=len(windows))]):
            if embedded is not None:
                rows.add(embedded, dataset)

    def _config(self, streams: str) -> PrepareConfig:
        return from_dict(PrepareConfig, to_dict(self._prepare) | {"streams": streams})


class _PartRows:
    """Gathers the rows of a part, which may come from several manifests, in the order of its files."""

    def __init__(self, files: list[File], modalities: tuple[str, ...]) -> None:
        self._files, self._modalities = files, modalities
        self._rows: dict[str, list[tuple[float, float, dict[str, np.ndarray]]]] = {}
        self._unreadable: dict[str, str] = {}

    def add(self, embedded: Embedded, dataset: Manifest) -> None:
        _, ids, begin, end = embedded.rows
        for row, sample in enumerate(ids.tolist()):
            vectors = {modality: rows[row] for modality, rows in embedded.vectors.items()}
            entry = (float(begin[row]), float(end[row]), vectors)
            self._rows.setdefault(dataset.source(sample), []).append(entry)
        self._unreadable |= {dataset.source(sample): reason for sample, reason in embedded.unreadable.items()}

    def part(self, number: int, labels: Labels, dim: int, problems: dict[str, RejectedSource]) -> Part:
        reasons = {name: str(problem) for name, problem in problems.items()} | self._unreadable
        names = [file.name for file in self._files]
        rows = [(name, *row) for name in names for row in self._rows.get(name, [])]
        vectors = {m: np.zeros((len(rows), dim), np.float32) for m in self._modalities}
        present = {m: np.zeros(len(rows), dtype=bool) for m in self._modalities}
        for place, (_, _, _, found) in enumerate(rows):
            for modality, vector in found.items():
                vectors[modality][place] = vector
                present[modality][place] = True
        sources = [name for name, *_ in rows]
        texts: dict[str, list[str | None]] = {
            column: [labels.by_source.get(name, {}).get(column) or None for name in sources]
            for column in labels.columns
        }
        return Part(
            number=number,
            sources=sources,
            start=np.array([start for _, start, _, _ in rows], np.float64),
            end=np.array([end for _, _, end, _ in rows], np.float64),
            labels=texts,
            vectors=vectors,
            present=present,
            unreadable=[{"source": name, "reason": reasons[name]} for name in names if name in reasons],
        )


def prepare_config(config: Config, embed: EmbedConfig) -> PrepareConfig:
    """How files are decoded."""
    return PrepareConfig(
        storage=storage_of(config),
        streams=embed.streams,
        sample_rate=config.audio.sample_rate,
        max_seconds=embed.max_seconds,
        timeout_seconds=embed.timeout_seconds,
        memory_mb=embed.memory_mb,
    )


def _reason(problems: dict[str, RejectedSource], file: File) -> str:
    problem = problems.get(file.name)
    return problem.reason if problem is not None else ""
