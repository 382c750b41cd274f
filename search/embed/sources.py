"""Where rows come from: prepared shards. `folder.py` has the other kind of source, a folder of videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from evaluation.features import MODALITIES
from pipeline.load.dali_loader import DaliLoader
from pipeline.prepare.labels import Labels
from pipeline.prepare.sources import Source as File
from pipeline.shards.manifest import Manifest
from search.embed.store import EmbedError, Part
from search.embed.vectors import Embedded, Embedder
from search.embed.windows import Windows
from search.encoders import TrainedEncoders
from settings.search import EmbedConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """What embeds any source: encoders, settings, and where to compute."""

    encoders: TrainedEncoders
    """Encoders on `device`."""
    config: EmbedConfig
    device: str
    processes: int
    """Number of processes on this machine that share its cores."""

    def embedder(self, dataset: Manifest, *, modalities: tuple[str, ...]) -> Embedder:
        """Returns what embeds the samples of prepared data."""
        config = self.encoders.config
        data = config.data.without_split(path=str(dataset.root), loader="dali", labels="", max_bad_fraction=0.0)
        loader = DaliLoader(
            config=replace(config, data=replace(data, threads=0)),
            device=self.device,
            batch_size=self.config.batch_size,
            dataset=dataset,
        )
        return Embedder(
            loader,
            self.encoders.model,
            dim=self.encoders.dim,
            modalities=modalities,
            clips=self.config.clips_per_row,
            processes=self.processes,
        )


class Source(Protocol):
    """Files to embed, divided into parts."""

    parts: int
    """Number of parts."""
    unit: str
    """What the progress counts, in the plural."""
    settings: tuple[str, ...]
    """Names of the settings that shape the parts of this kind of source."""
    modalities: tuple[str, ...]
    """The streams of which rows may have vectors."""
    label_columns: list[str]

    def describe(self) -> dict[str, Any]:
        """Kind, path and fingerprint, for embeddings.json."""

    def work(self, parts: Iterable[int]) -> int:
        """How many times `embed` yields for these parts."""

    def files(self, number: int) -> tuple[list[File], Labels]:
        """The files of a part and their labels, for a process that has not listed them; empty for shards."""

    def embed(self, parts: Iterable[int]) -> Iterator[Part | None]:
        """Embeds parts in order; yields a part when it is finished, and None for progress between."""


class ShardSource:
    """Prepared shards; a part has a fixed number of rows.

    Raises:
        ManifestError: the folder holds no complete prepared data set.
        EmbedError: the data set lacks the streams that config.streams asks for, or has no samples.
    """

    unit = "batches of clips"
    settings: tuple[str, ...] = ("part_rows",)

    def __init__(self, dataset: Manifest, job: Job) -> None:
        self._dataset, self._size = dataset, job.config.part_rows
        self.modalities = modalities_of(dataset, job.config.streams)
        self.label_columns = dataset.label_columns
        if not len(dataset):
            raise EmbedError(f"{dataset.root} holds no samples")
        self._windows = Windows(np.asarray(dataset.seconds), every=job.config.every)
        self.parts = -(-len(self._windows) // self._size)
        self._job = job

    @cached_property
    def embedder(self) -> Embedder:
        """What embeds the samples; made when it is needed, for a process that leaves the work to others lacks it."""
        return self._job.embedder(self._dataset, modalities=self.modalities)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "shards",
            "path": str(self._dataset.root.resolve()),
            "fingerprint": self._dataset.fingerprint,
        }

    def work(self, parts: Iterable[int]) -> int:
        last = len(self._windows) - (self.parts - 1) * self._size
        return sum(self.embedder.batches(last if part + 1 == self.parts else self._size) for part in parts)

    def files(self, number: int) -> tuple[list[File], Labels]:
        return [], Labels(columns=[])

    def embed(self, parts: Iterable[int]) -> Iterator[Part | None]:
        labels = LabelTexts(self._dataset)
        rows = (self._windows.part(number, size=self._size) for number in parts)
        for embedded in self.embedder.embed(rows):
            yield None if embedded is None else part_of(embedded, self._dataset, labels, self.modalities)


class LabelTexts:
    """The labels of a data set as texts."""

    def __init__(self, dataset: Manifest) -> None:
        self._codes = {column: dataset.labels(column) for column in dataset.label_columns}
        self._names = {column: dataset.label_names(column) for column in dataset.label_columns}

    def of(self, ids: np.ndarray) -> dict[str, list[str | None]]:
        """Column -> the label of each of `ids`, None where it is unknown."""
        return {
            column: [self._names[column][code] if code >= 0 else None for code in codes[ids].tolist()]
            for column, codes in self._codes.items()
        }


def part_of(embedded: Embedded, dataset: Manifest, labels: LabelTexts, modalities: tuple[str, ...]) -> Part:
    """The part that a finished piece of a data set makes."""
    number, ids, begin, end = embedded.rows
    return Part(
        number=number,
        sources=[dataset.source(sample) for sample in ids.tolist()],
        start=begin,
        end=end,
        labels=labels.of(ids),
        vectors=embedded.vectors,
        present={modality: np.ones(len(ids), dtype=bool) for modality in modalities},
        unreadable=[
            {"source": dataset.source(sample), "reason": reason}
            for sample, reason in sorted(embedded.unreadable.items())
        ],
    )


def modalities_of(dataset: Manifest, streams: str) -> tuple[str, ...]:
    """The streams to embed, of those that the data set has.

    Raises:
        EmbedError: the data set lacks the only stream asked for.
    """
    has = MODALITIES if dataset.streams == "both" else (dataset.streams,)
    wanted = MODALITIES if streams == "both" else (streams,)
    found = tuple(modality for modality in MODALITIES if modality in has and modality in wanted)
    if not found:
        raise EmbedError(f"streams={streams}, but the data in {dataset.root} have only {dataset.streams}")
    return found
