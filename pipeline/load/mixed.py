"""Reads and decodes batches of a mix, whose data sets may differ in codec and frame rate.

A batch is divided into the clips of each data set. Each part is read by a reader of that data set. Data sets of the
same codec and stride share a decoder, as a DALI graph is built for one codec and one stride.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from common.stores import RemotePath
from pipeline.batch import Batch
from pipeline.load.dali_runner import DecodeError
from pipeline.load.decoder import Decoder, InFlight, StoredFrames
from pipeline.plan.batch_plan import BatchPlan
from pipeline.plan.clips import ClipPlan
from pipeline.plan.mixed_planner import MixedPlanner, rows_by_set, shift_ids
from pipeline.shards.codecs import CODECS
from pipeline.shards.mix import MixedManifest
from pipeline.shards.reader import ShardReader
from pipeline.shards.shard_files import RemoteShards, open_cache, shard_files
from settings import Config, StorageConfig

MakeDecoder = Callable[[Config, StoredFrames, int], Decoder]
"""Creates a decoder from the settings, a description of the stored frames, and the stride."""


class MixedReader:
    """Reads clips of a mix; all methods may be called by several threads.

    Args:
        dataset: the data sets; all have video and audio.
        planner: the planner of the clips; only its strides are used.
        config: only data, clip and audio are used.
        in_threads: see `ShardReader`.
    """

    def __init__(
        self,
        dataset: MixedManifest,
        planner: MixedPlanner,
        config: Config,
        *,
        in_threads: Callable[[], None] | None = None,
    ) -> None:
        is_remote = any(isinstance(part.root, RemotePath) for part in dataset.parts.values())
        cache = open_cache(config.data) if is_remote else None
        self._firsts = dataset.firsts
        self._codecs = [CODECS[part.storage.codec] for part in dataset.parts.values()]
        self._readers = [
            ShardReader(
                manifest=part,
                frames=config.clip.frames,
                stride=stride,
                audio_samples=config.audio_samples,
                files=shard_files(part, cache),
                in_threads=in_threads,
                first_id=first,
            )
            for part, stride, first in zip(
                dataset.parts.values(), planner.strides, dataset.firsts.tolist(), strict=True
            )
        ]
        self.remote = RemoteParts([reader.remote for reader in self._readers]) if is_remote else None
        """The shards of the data sets in object stores; None if all are on this machine."""

    @property
    def removed(self) -> int:
        """How often `distrust` has removed a copy."""
        return sum(reader.removed for reader in self._readers)

    def waited(self) -> float:
        """Like `ShardReader.waited`, for all data sets together."""
        return sum(reader.waited() for reader in self._readers)

    def distrust(self, i: int) -> None:
        """Like `ShardReader.distrust`, for an id of the mix."""
        reader = self._reader_of(i)
        reader.distrust(i - reader.first_id)

    def file_of(self, i: int) -> str:
        """Like `ShardReader.file_of`, for an id of the mix."""
        reader = self._reader_of(i)
        return reader.file_of(i - reader.first_id)

    def _reader_of(self, i: int) -> ShardReader:
        return self._readers[int(np.searchsorted(self._firsts, i, side="right")) - 1]

    def shards_of(self, plan: ClipPlan) -> np.ndarray:
        """Returns the numbers in `remote` of the shards that hold the clips of a plan, sorted."""
        assert self.remote is not None
        found = [
            self._readers[number].shards_of(shift_ids(plan[rows], by=-self._readers[number].first_id))
            + self.remote.firsts[number]
            for number, rows in rows_by_set(plan.ids, self._firsts)
            if self._readers[number].remote is not None
        ]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def parts(self, plan: ClipPlan) -> list[tuple[int, np.ndarray, InFlight]]:
        """Reads the clips of a plan; returns `InFlight.parts`.

        Raises:
            ShardError: a shard does not hold what its manifest promises; the error names the sample.
        """
        parts = []
        for number, rows in rows_by_set(plan.ids, self._firsts):
            part, reader = plan[rows], self._readers[number]
            local = shift_ids(part, by=-reader.first_id)
            video, pcm = self._codecs[number].read(reader, local), reader.pcm(local)
            parts.append((number, rows, InFlight(plan=BatchPlan(part), video=video, pcm=pcm)))
        return parts

    def pcm(self, plan: ClipPlan) -> np.ndarray:
        """Like `ShardReader.pcm`, for a plan with ids of the mix."""
        found = rows_by_set(plan.ids, self._firsts)
        order = np.argsort(np.concatenate([rows for _, rows in found]))
        readers = [self._readers[number] for number, _ in found]
        parts = [shift_ids(plan[rows], by=-one.first_id) for one, (_, rows) in zip(readers, found, strict=True)]
        return np.concatenate([one.pcm(part) for one, part in zip(readers, parts, strict=True)])[order]


class RemoteParts:
    """The shards of those data sets of a mix that are in object stores, numbered one data set after the other.

    Args:
        parts: access to the shards of each data set; None for one on this machine.

    Attributes:
        firsts: the number of the first shard of each data set.
        files: all shards.
        cache: where their copies are; None without copies.
    """

    def __init__(self, parts: Sequence[RemoteShards | None]) -> None:
        self._parts = parts
        counts = [0 if part is None else len(part.files) for part in parts]
        self.firsts = np.cumsum([0, *counts[:-1]]).tolist()
        self.files = [file for part in parts if part is not None for file in part.files]
        self.cache = next(part.cache for part in parts if part is not None)

    def close(self, shards: Iterable[int]) -> None:
        """As `RemoteShards.close`."""
        wanted = list(shards)
        for first, part in zip(self.firsts, self._parts, strict=True):
            if part is not None:
                part.close(shard - first for shard in wanted if first <= shard < first + len(part.files))


@dataclass(kw_only=True)
class _Frames:
    """The frames of the data sets that share a decoder; see `StoredFrames`."""

    storage: StorageConfig
    width: np.ndarray
    height: np.ndarray
    shortest_side: int


class MixedDecoder:
    """A `Decoder` of batches that `MixedReader` has read.

    Args:
        dataset: the data sets.
        strides: stored frames from one frame of a clip to the next, of each data set.
        config: clip and data are used here; `make` gets all of it.
        make: creates the decoders.
    """

    def __init__(self, *, dataset: MixedManifest, strides: Sequence[int], config: Config, make: MakeDecoder) -> None:
        manifests = list(dataset.parts.values())
        kinds = [(part.storage.codec, stride) for part, stride in zip(manifests, strides, strict=True)]
        decoders: dict[tuple[str, int], Decoder] = {}
        depths = []
        for kind, count in Counter(kinds).items():
            first = manifests[kinds.index(kind)]
            frames = _Frames(
                storage=first.storage,
                width=dataset.width,
                height=dataset.height,
                shortest_side=min(p.shortest_side for p, k in zip(manifests, kinds, strict=True) if k == kind),
            )
            # Each of the `count` data sets that share this decoder submits its own part of a batch.
            data = replace(config.data, prefetch=count * config.data.prefetch)
            decoders[kind] = make(replace(config, data=data), frames, kind[1])
            depths.append(decoders[kind].depth // count)
        self.depth = min(depths)
        self._decoders = [decoders[kind] for kind in kinds]
        self._samples_per_clip = [CODECS[codec].samples_per_clip(config.clip.frames) for codec, _ in kinds]

    def submit(self, item: InFlight) -> None:
        assert item.parts is not None
        for number, _, part in item.parts:
            self._decoders[number].submit(part)

    def result(self, item: InFlight) -> Batch:
        """See `Decoder.result`; the samples of a DecodeError are rows of the batch."""
        assert item.parts is not None
        found = [(rows, self._result(number, rows, part)) for number, rows, part in item.parts]
        plan, batches = item.plan.plan, [batch for _, batch in found]
        video, audio = [batch.video for batch in batches], [batch.audio for batch in batches]
        places = [torch.from_numpy(rows) for rows, _ in found]
        return Batch(
            _joined(video, places),
            _joined(audio, places),
            torch.from_numpy(plan.ids),
            torch.from_numpy(plan.start),
            plan,
        )

    def _result(self, number: int, rows: np.ndarray, part: InFlight) -> Batch:
        try:
            return self._decoders[number].result(part)
        except DecodeError as error:
            wrong = sorted({int(rows[place // self._samples_per_clip[number]]) for place in error.samples})
            raise DecodeError(str(error), wrong) from error


def _joined(parts: Sequence[torch.Tensor | None], places: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the batch whose rows `places[i]` are those of parts[i], in the memory format of the parts."""
    tensors = [part for part in parts if part is not None]
    assert len(tensors) == len(parts)  # a mix has both streams
    if len(tensors) == 1:
        return tensors[0]
    first, count = tensors[0], sum(map(len, tensors))
    stride = (first[0].numel(), *first.stride()[1:])
    joined = torch.empty_strided((count, *first.shape[1:]), stride, dtype=first.dtype, device=first.device)
    for part, place in zip(tensors, places, strict=True):
        joined[place.to(joined.device, non_blocking=True)] = part
    return joined
