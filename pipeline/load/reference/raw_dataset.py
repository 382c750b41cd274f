"""A folder of raw videos as a data set, described by the headers of the files; nothing is prepared in advance."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.terminal import printable
from pipeline.load.reference.processes import call_in_process
from pipeline.load.reference.raw_decoding import Header, read_header
from pipeline.prepare.labels import folder_labels, read_labels
from pipeline.prepare.sources import Source, find_sources
from settings.errors import ConfigError

_log = logging.getLogger(__name__)


class RawDataset:
    """n raw videos sorted by path, their lengths counted in frames at `fps`; implements clip_loader.Dataset.

    Files whose header cannot be read are left out; a logged warning names each with its reason.

    Args:
        root: folder, searched as by pipeline.prepare: ids equal those of the prepared data set if both can use the
            same files.
        labels: csv file as for pipeline.prepare; if empty, folder names become the label column `label`.
        fps: frame rate at which frames are counted, in frames per second.
        sample_rate: sample rate at which audio samples are counted, in Hz.
        workers: number of processes that read the headers.

    Raises:
        ConfigError: `root` is not a folder, or holds no usable video.
        LabelError: the csv file cannot be used.
    """

    def __init__(self, *, root: str | Path, labels: str, fps: float, sample_rate: int, workers: int) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ConfigError(
                f"data.path={str(root)!r} is not a folder; data.loader=decord reads a folder of raw videos"
            )
        self.sample_rate = sample_rate
        self.sources, self.headers = _usable(self.root, workers)
        seconds = np.array([header.seconds for header in self.headers])
        self.frames = np.maximum(np.floor(seconds * fps + 1e-6), 1).astype(np.int32)
        self.width = np.array([header.width for header in self.headers], dtype=np.int32)
        self.height = np.array([header.height for header in self.headers], dtype=np.int32)
        has_audio = np.array([header.has_audio for header in self.headers])
        self.audio_samples = has_audio * np.rint(self.frames / fps * sample_rate).astype(np.int64)
        # Each file counts as one shard, so data.order=shards shuffles all files.
        self.shard = np.arange(len(self.sources))
        names = [source.name for source in self.sources]
        found = read_labels(Path(labels), names, root=self.root) if labels else folder_labels(names)
        if missed := found.describe():
            _log.warning("%s does not fit all files of %s:\n%s", labels, self.root, "\n".join(missed))
        self.label_columns = found.columns
        self._labels = [found.by_source.get(name, {}) for name in names]
        identity = [(name, int(n)) for name, n in zip(names, self.frames, strict=True)]
        self.fingerprint = hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.sources)

    def source(self, index: int) -> str:
        """Path of the video, relative to the folder."""
        return self.sources[index].name

    def rows(self, sources: Sequence[str]) -> np.ndarray:
        """Returns the id of the video with each of these paths, int64 [sources]; -1 if there is none."""
        known = {source.name: row for row, source in enumerate(self.sources)}
        return np.array([known.get(source, -1) for source in sources], dtype=np.int64)

    def labels(self, column: str) -> np.ndarray:
        """int32 [n], indices into `label_names(column)`; -1 if unknown."""
        codes = {name: code for code, name in enumerate(self.label_names(column))}
        return np.array([codes.get(value, -1) for value in self._values(column)], dtype=np.int32)

    def label_names(self, column: str) -> list[str]:
        """Sorted distinct values of the label column."""
        return sorted({value for value in self._values(column) if value})

    def _values(self, column: str) -> list[str]:
        return [values.get(column, "") for values in self._labels]


def _usable(root: Path, workers: int) -> tuple[list[Source], list[Header]]:
    def header(source: Source) -> Header | str:
        if source.problem is not None:
            return str(source.problem)
        try:
            return call_in_process(workers, read_header, str(source.path))
        except ValueError as reason:
            return str(reason)

    found = find_sources(root)[0]
    with ThreadPoolExecutor(workers) as threads:
        headers = list(threads.map(header, found))
    usable = [(source, item) for source, item in zip(found, headers, strict=True) if isinstance(item, Header)]
    bad = [
        printable(f"{source.name}: {item}")
        for source, item in zip(found, headers, strict=True)
        if isinstance(item, str)
    ]
    if bad:
        _log.warning("%d of %d files of %s are left out:\n%s", len(bad), len(found), root, "\n".join(bad))
    if not usable:
        raise ConfigError(f"data.path={str(root)!r} holds no usable video ({len(bad)} files were left out)")
    return [source for source, _ in usable], [header for _, header in usable]
