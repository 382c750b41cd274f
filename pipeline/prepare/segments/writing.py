"""Writes all samples of a file that gives several, one by one, to its fragment (see the glossary); runs in a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from common.files import replacing
from common.stores.errors import StoreUnreachable
from pipeline.lists.spans import Span, fragment_of
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.segments.cutting import cut
from pipeline.prepare.segments.part import Task
from pipeline.prepare.sources import Source, part_key, unchanged
from pipeline.prepare.stores.originals import copied_here
from pipeline.shards.pieces import rejections_member
from pipeline.shards.tar_writer import NormalisedMedia, sample_bytes
from settings import PrepareConfig

_EXPECTED_AT_END = ("too short", "beyond the end of the file")
"""Reasons that are not reported for a window of an item that has samples: the end of the item left it too little."""


def write_samples(
    source: Source,
    fragment: Path,
    labels: Mapping[str, Mapping[str, str]],
    *,
    config: PrepareConfig,
    progress: Callable[[], None],
) -> None:
    """Writes all samples of the items of `source`, and the rejections of its other items, to `fragment`.

    Args:
        labels: name of an item -> its labels.
        progress: called whenever a sample is finished, and at least once per max_seconds of decoded material.

    Raises:
        RejectedSource: the file cannot be used, and nothing was written.
        StoreUnreachable: the store that holds the file does not answer.
        OSError: the fragment cannot be written.
    """
    with replacing(fragment, durable=True) as unfinished, unfinished.open("wb") as file:
        try:
            with copied_here(source, fragment.parent) as here, unchanged(here) as sha256:
                writer = _Writer(file, source, labels, config, sha256)
                for task, result in cut(Path(here.path), source.spans, config, progress=progress):
                    writer.add(task, result)
            writer.finish()
        except _WriteError as error:
            raise error.error from None
        except StoreUnreachable:
            raise
        except OSError as error:  # reading the source failed, not writing, so the run can continue
            raise RejectedSource("cannot be read", error.strerror or str(error)) from None


class _WriteError(Exception):
    """An OSError of writing, which must not be mistaken for one of reading the source."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class _Writer:
    """Appends samples to a fragment. If an item has only one window, this sample gets the name of the item."""

    def __init__(
        self,
        file: BinaryIO,
        source: Source,
        labels: Mapping[str, Mapping[str, str]],
        config: PrepareConfig,
        sha256: str,
    ) -> None:
        self._file = file
        self._source = source
        self._labels = labels
        self._config = config
        self._sha256 = sha256
        self._first: dict[Span | None, tuple[Task, NormalisedMedia]] = {}
        self._written: set[Span | None] = set()
        self._rejected: list[tuple[Task, RejectedSource]] = []

    def add(self, task: Task, result: NormalisedMedia | RejectedSource) -> None:
        """Appends a sample or notes a rejection; an item's first window is held back until a second one comes."""
        if isinstance(result, RejectedSource):
            self._rejected.append((task, result))
        elif not task.is_window:
            self._write(task.item, task.item, result)
        elif task.item in self._written:
            self._write(task.span, task.item, result)
        elif task.item in self._first:
            first, media = self._first.pop(task.item)
            self._write(first.span, task.item, media)
            self._write(task.span, task.item, result)
        else:
            self._first[task.item] = task, result

    def finish(self) -> None:
        """Appends the windows that were held back because they are the only ones of their items, and the rejections."""
        for item, (_, media) in self._first.items():
            self._write(item, item, media)
        rejections: dict[str, RejectedSource] = {}
        for task, problem in self._rejected:
            if task.item not in self._written:
                rejections.setdefault(fragment_of(task.item), problem)  # one for the whole item
            elif problem.reason not in _EXPECTED_AT_END:
                rejections[task.span.fragment] = problem
        entries = [
            {"item": fragment, "reason": problem.reason, "detail": problem.detail}
            for fragment, problem in rejections.items()
        ]
        self._append(rejections_member(self._source.key, entries))

    def _write(self, span: Span | None, item: Span | None, media: NormalisedMedia) -> None:
        """Appends a sample named after `span`; this differs from `item` for one of several windows of the item."""
        self._written.add(item)
        source, fragment = self._source, fragment_of(span)
        part: dict[str, object] = {} if span is None else {"file": source.name, "start": span.start, "end": span.end}
        if span != item:
            part["item"] = fragment_of(item)
        data = sample_bytes(
            media,
            key=part_key(source.key, fragment),
            source=source.name + fragment,
            labels=self._labels.get(source.name + fragment_of(item), {}),
            config=self._config,
            sha256=self._sha256,
            part=part,
        )
        self._append(data)

    def _append(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise _WriteError(error) from None
