"""Several prepared data sets as one: what data.mix names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from pipeline.shards.manifest import Manifest
from settings import MixedSetConfig
from settings.errors import ConfigError


class MixedManifest:
    """The samples of several data sets, one data set after the other, in the order of data.mix.

    So a data set that is added at the end changes no id of the others.

    Args:
        parts: the data sets by their names.

    Attributes:
        parts: see Args.
        firsts: int64 [sets], the id of the first sample of each data set.
        frames, width, height, audio_samples: as of a `Manifest`; the frames of a sample are at the frame rate of its
            data set.
        shard: int64 [n], the shard of each sample among those of all data sets.
        sample_rate: sampling rate of the first data set, in Hz.
        label_columns: the label columns that any of them has.
        fingerprint: identifies the content of all of them, and their order.

    Raises:
        ConfigError: two of them are the same data set.
    """

    def __init__(self, parts: Mapping[str, Manifest]) -> None:
        self.parts = dict(parts)
        self._manifests = list(parts.values())
        sizes = [len(part) for part in self._manifests]
        self.firsts = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        self._count = sum(sizes)
        self.frames = np.concatenate([part.frames for part in self._manifests])
        self.width = np.concatenate([part.width for part in self._manifests])
        self.height = np.concatenate([part.height for part in self._manifests])
        self.audio_samples = np.concatenate([part.audio_samples for part in self._manifests])
        shards = np.cumsum([0, *(len(part.shards) for part in self._manifests[:-1])])
        self.shard = np.concatenate([part.shard + first for part, first in zip(self._manifests, shards, strict=True)])
        self.sample_rate = self._manifests[0].sample_rate
        self.label_columns = list(dict.fromkeys(name for part in self._manifests for name in part.label_columns))
        seen: dict[str, str] = {}
        for name, part in self.parts.items():
            if part.fingerprint in seen:
                other = seen[part.fingerprint]
                raise ConfigError(
                    f"data.mix.{name}.path and data.mix.{other}.path hold the same samples: remove one, and add up "
                    "their weights"
                )
            seen[part.fingerprint] = name
        self.fingerprint = hashlib.blake2b("\n".join(seen).encode(), digest_size=16).hexdigest()

    @classmethod
    def open(cls, mix: Mapping[str, MixedSetConfig], *, cache_dir: str = "") -> MixedManifest:
        """Opens the data sets of data.mix.

        Args:
            cache_dir: as for `Manifest.open`.

        Raises:
            ManifestError: a path holds no complete prepared data set.
            ConfigError: two of them are the same data set.
        """
        return cls({name: Manifest.open(one.path, cache_dir=cache_dir) for name, one in mix.items()})

    def __len__(self) -> int:
        return self._count

    @property
    def shortest_side(self) -> int:
        """Shortest side of all frames, in pixels."""
        return min(part.shortest_side for part in self._manifests)

    def raise_if_damaged(self) -> None:
        """As `Manifest.raise_if_damaged`, for each data set."""
        for part in self._manifests:
            part.raise_if_damaged()

    def finish_check(self) -> None:
        """As `Manifest.finish_check`, for each data set."""
        for part in self._manifests:
            part.finish_check()

    def locate(self, index: int) -> tuple[Manifest, int]:
        """Returns the data set of a sample, and the id that the sample has there."""
        number = int(np.searchsorted(self.firsts, index, side="right")) - 1
        return self._manifests[number], index - int(self.firsts[number])

    def source(self, index: int) -> str:
        """Path of the sample's source, relative to the source folder of its data set."""
        part, own = self.locate(index)
        return part.source(own)

    def label_names(self, column: str) -> list[str]:
        """Sorted distinct values of the label column in all data sets that have it."""
        having = (part for part in self._manifests if column in part.label_columns)
        return sorted({name for part in having for name in part.label_names(column)})

    def labels(self, column: str) -> np.ndarray:
        """int32 [n], indices into `label_names(column)`; -1 if unknown, as in a data set without the column."""
        codes = {name: code for code, name in enumerate(self.label_names(column))}
        found = []
        for part in self._manifests:
            if column not in part.label_columns:
                found.append(np.full(len(part), -1, dtype=np.int32))
                continue
            # The last entry stands for samples without a label, whose code is -1.
            table = np.array([*(codes[name] for name in part.label_names(column)), -1], dtype=np.int32)
            found.append(table[part.labels(column)])
        return np.concatenate(found)
