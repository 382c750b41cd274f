"""The array-backed index of a prepared data set: where each sample's bytes lie, and its labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import StorageConfig
from config.load import from_dict

FORMAT = 1
COLUMNS = {
    "shard": np.int32,
    "video_offset": np.int64,
    "frames": np.int32,
    "width": np.int32,
    "height": np.int32,
    "audio_offset": np.int64,
    "audio_samples": np.int64,
}


class ManifestError(ValueError):
    """A manifest that is missing, damaged or does not fit its shards; the message is meant for the user."""


class Manifest:
    """n samples sorted by source path; every array is memory-mapped, so opening a million rows costs next to nothing.

    One clock a sample: frame i is shown at i / storage.fps seconds, PCM sample j at j / sample_rate.

    Attributes:
        root: the folder that holds the shards.
        shards: file names of the shards, relative to `root`.
        shard: int32 [n], index into `shards`.
        video_offset: int64 [n], byte of the shard where the video blob begins; -1 without video.
        frame_start: int64 [n + 1]; frame_offsets[frame_start[i]:frame_start[i + 1]] belong to sample i.
        frame_offsets: uint32, ragged; frames + 1 offsets a sample, relative to video_offset: where each frame begins,
            and where the last one ends. Nothing for a sample without video.
        frames, width, height: int32 [n]; 0 without video.
        audio_offset: int64 [n], byte of the shard where the first PCM sample lies; -1 without audio.
        audio_samples: int64 [n]; equals round(frames / fps * sample_rate) where both tracks exist.
        storage: how the video is encoded.
        sample_rate: Hz of the PCM.
        fingerprint: identity of the data set (sources, labels, lengths), independent of how shards are cut.
    """

    def __init__(self, *, root: Path, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self.root = root
        self.shards: list[str] = list(meta["shards"])
        self.shard: NDArray[np.int32] = arrays["shard"]
        self.video_offset: NDArray[np.int64] = arrays["video_offset"]
        self.frame_start: NDArray[np.int64] = arrays["frame_start"]
        self.frame_offsets: NDArray[np.uint32] = arrays["frame_offsets"]
        self.frames: NDArray[np.int32] = arrays["frames"]
        self.width: NDArray[np.int32] = arrays["width"]
        self.height: NDArray[np.int32] = arrays["height"]
        self.audio_offset: NDArray[np.int64] = arrays["audio_offset"]
        self.audio_samples: NDArray[np.int64] = arrays["audio_samples"]
        self.storage: StorageConfig = from_dict(StorageConfig, meta["storage"], source=f"{root}/manifest/meta.json")
        self.sample_rate: int = meta["sample_rate"]
        self.streams: str = meta["streams"]
        self.fingerprint: str = meta["fingerprint"]
        self.label_columns: list[str] = list(meta["label_columns"])
        self._arrays = arrays

    @classmethod
    def open(cls, path: str | Path) -> Manifest:
        """Opens the manifest of the prepared folder `path` and checks that its shards are all there.

        Raises:
            ManifestError: nothing prepared there, a damaged manifest, a missing or shortened shard.
        """
        root = Path(path)
        meta_path = root / "manifest" / "meta.json"
        try:
            meta = json.loads(meta_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ManifestError(
                f"{root} holds no manifest; make one with: python -m pipeline.prepare SRC {root}"
            ) from None
        except (OSError, ValueError) as error:
            raise ManifestError(f"cannot read {meta_path}: {error}; {_REBUILD}") from None
        try:
            if meta["format"] != FORMAT:
                raise ManifestError(f"{meta_path} has format {meta['format']}, this version reads {FORMAT}; {_REBUILD}")
            arrays = _load_arrays(meta_path.parent / Path(meta["version"]).name, meta)
            _check_shards(root, meta)
            return cls(root=root, meta=meta, arrays=arrays)
        except ManifestError:
            raise
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ManifestError(f"{meta_path} is damaged ({type(error).__name__}: {error}); {_REBUILD}") from None

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """float64 [n], length of each sample."""
        return np.where(self.frames > 0, self.frames / self.storage.fps, self.audio_samples / self.sample_rate)

    def source(self, index: int) -> str:
        """Path of the sample's source, relative to the source folder (undecodable bytes as \\xNN)."""
        return self._text("source", index)

    def labels(self, column: str) -> NDArray[np.int32]:
        """int32 [n], codes into `label_names(column)`, -1 = unknown.

        Raises:
            ManifestError: no such column.
        """
        return self._arrays[f"label{self._column(column)}"]

    def label_names(self, column: str) -> list[str]:
        """Sorted distinct values of the label column."""
        name = f"label{self._column(column)}_names"
        return [self._text(name, code) for code in range(len(self._arrays[f"{name}_start"]) - 1)]

    def _column(self, column: str) -> int:
        if column not in self.label_columns:
            columns = ", ".join(self.label_columns) or "none"
            raise ManifestError(f"{self.root} has no label column {column!r}; it has: {columns}")
        return self.label_columns.index(column)

    def _text(self, name: str, index: int) -> str:
        start = self._arrays[f"{name}_start"]
        return bytes(self._arrays[f"{name}_bytes"][start[index] : start[index + 1]]).decode("utf-8")


_REBUILD = "delete the folder manifest and run pipeline.prepare again: it is rebuilt from the shards' index"


def _load_arrays(folder: Path, meta: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    names = [*COLUMNS, "frame_start", "frame_offsets", "source_bytes", "source_start"]
    for column in range(len(meta["label_columns"])):
        names += [f"label{column}", f"label{column}_names_bytes", f"label{column}_names_start"]
    arrays = {}
    for name in names:
        path = folder / f"{name}.npy"
        # NumPy cannot map a file without elements.
        empty = path.stat().st_size <= 128
        arrays[name] = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
    count = meta["samples"]
    lengths = dict.fromkeys(COLUMNS, count) | {"frame_start": count + 1, "source_start": count + 1}
    lengths |= {f"label{column}": count for column in range(len(meta["label_columns"]))}
    lengths["frame_offsets"] = int(arrays["frame_start"][-1])
    for name, length in lengths.items():
        if arrays[name].shape != (length,):
            raise ManifestError(f"{folder}/{name}.npy has shape {arrays[name].shape}, not ({length},); {_REBUILD}")
    return arrays


def _check_shards(root: Path, meta: Mapping[str, Any]) -> None:
    for name, size in zip(meta["shards"], meta["shard_bytes"], strict=True):
        path = root / name
        if not path.is_file():
            raise ManifestError(f"{path} is missing, though the manifest names it; restore it or prepare again")
        if path.stat().st_size != size:
            found = f"{path} has {path.stat().st_size:,} bytes, the manifest expects {size:,}"
            raise ManifestError(f"{found}; copy it again or prepare again")
