"""Crash-safe state of preparation: every sample, rejection and shard is durable before it is referenced.

OUT/recipe.json             the settings that all samples share
OUT/sources.json            the source folders (see `origins`)
OUT/.staging/PART/          fragments (KEY.SIZE-MTIME.tar): samples of a file that wait for their shard; atomic
OUT/shard-*.tar             shards; a shard is valid once its index exists
OUT/index/SHARD.sha256      SHA-256 of that shard
OUT/index/SHARD.rows        one row per sample of that shard: source, offsets, lengths, labels
OUT/index/PART.rejected     journal of rejections, one JSON object per line
OUT/damaged/                shards that were found damaged, with their index; their sources are prepared again
"""

from __future__ import annotations

import fcntl
import itertools
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from common.files import file_sha256, make_folder, replacing, sync, write_atomically
from pipeline.lists.spans import parse_fragment
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.records import (
    LIMITS,
    PrepareError,
    check_recipe,
    damaged_message,
    index_suffix,
    index_versions,
    read_journal,
    write_index,
)
from pipeline.prepare.repair import check_shard, read_whole, set_aside
from pipeline.prepare.sources import Item, PackedSample, Source, packed_keys, part_key
from pipeline.prepare.stores.originals import remove_copies
from pipeline.prepare.stores.out_folder import RemoteOut
from pipeline.shards.index.files import index_files
from pipeline.shards.pieces import Piece, RowError, read_pieces
from pipeline.shards.tar_writer import write_shard
from settings import PrepareConfig

_RETRIED_BY_DEFAULT = ("out of memory", "timed out", "internal error", "decoder crashed", "cannot be read")
"""Rejection reasons whose cause may be the machine, not the file; they are retried unless --no-retry is given."""

_ALWAYS_RETRIED = ("changed while being read", "missing")
"""Rejection reasons that may have ended without a change of the file, such as an unmounted disk; always retried."""


class Staging:
    """The state of OUT for one part (i of n) of the sources.

    Args:
        labels: where labels come from, `file`, `folders` or `annotations`; it is part of the recipe.
        retry: whether files whose rejection may have been the machine's fault are tried again.
        remote: the folder in an object store for which OUT stands, if it does; full shards are copied there.

    Attributes:
        set_aside: names of shards that were damaged and have been moved to OUT/damaged.

    Raises:
        PrepareError: OUT cannot be written or was prepared with other settings, or another process works on this part.
    """

    def __init__(
        self,
        out: Path,
        *,
        part: tuple[int, int],
        config: PrepareConfig,
        labels: str,
        retry: bool = True,
        remote: RemoteOut | None = None,
    ) -> None:
        self.out = out
        self._remote = remote
        self.set_aside: list[str] = []
        self._is_only_part = part[1] == 1
        self._part = "part" if part[1] == 1 else f"part-{part[0]}of{part[1]}"
        self._shard = "shard" if part[1] == 1 else f"shard-{part[0]}of{part[1]}"
        self._retry = retry
        self._limits = [getattr(config, name) for name in LIMITS]
        self._folder = out / ".staging" / self._part
        self._journal = out / "index" / f"{self._part}.rejected"
        try:
            make_folder(self._folder)
            make_folder(out / "index")
            self._lock = (self._folder / "lock").open("w")
        except OSError as error:
            raise PrepareError(f"cannot write to {out}: {error.strerror}") from None
        try:
            self._read_state(config, labels)
        except BaseException:
            self._lock.close()
            raise

    def _read_state(self, config: PrepareConfig, labels: str) -> None:
        out = self.out
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = f"another pipeline.prepare is working on {out} ({self._part}); wait for it, or stop it"
            raise PrepareError(message) from None
        check_recipe(out, config, labels)
        self._index_suffix = index_suffix(out)
        self.samples = [PackedSample.of(path.stem, row) for path in index_files(out) for row in self._sound_rows(path)]
        self.set_packed(packed_keys(self.samples))
        retried = _ALWAYS_RETRIED + _RETRIED_BY_DEFAULT if self._retry else _ALWAYS_RETRIED
        self._rejected = {
            entry["key"]: (entry["size"], entry["mtime_ns"])
            for entry in read_journal(self._journal)
            if entry["limits"] == self._limits and (entry["size"] < 0 or entry["reason"] not in retried)
        }
        self._staged = dict[str, list[Piece]]()
        self._unread_rejections = dict[str, list[dict[str, str]]]()
        if self._journal.exists() and not self._journal.read_bytes().endswith(b"\n"):
            # A killed run left an incomplete line; end it, so that the next entry starts on a line of its own.
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write("\n")
        self._tidy()

    def _sound_rows(self, index: Path) -> list[dict[str, Any]]:
        """Returns the rows of an index; none if it or its shard is damaged, which are then set aside."""
        name = index.stem
        try:
            rows = index_versions(index)
            if self._remote is None or not self._remote.holds(f"{name}.tar", rows):
                check_shard(self.out / f"{name}.tar", rows)
            return rows
        except RowError as error:
            if self._remote is not None:
                raise PrepareError(self._remote.damaged_message(name, error)) from None
            # The shards of another part may only be moved by a run that works on that part.
            if not (self._is_only_part or name.startswith(f"{self._shard}-")):
                raise PrepareError(damaged_message(index, error)) from None
            set_aside(self.out, name)
            self.set_aside.append(name)
            return []

    def close(self) -> None:
        """Releases the lock on this part, and removes its folder if no sample waits there."""
        with suppress(OSError):
            for path in self._folder.glob(".*.tmp"):  # of killed workers
                path.unlink()
            remove_copies(self._folder)
            if not self._staged:
                (self._folder / "lock").unlink(missing_ok=True)
                self._folder.rmdir()
                self._folder.parent.rmdir()
        self._lock.close()

    def fragment(self, source: Source) -> Path:
        """Returns the path at which the finished samples of `source` wait for their shard."""
        return self._folder / _fragment_name(source.key, source)

    def set_packed(self, keys: Iterable[str]) -> None:
        """Sets the keys of the samples and items that need not be prepared, because they are in shards."""
        self._packed = set(keys)

    def clear(self) -> None:
        """Removes all samples that wait for their shard."""
        for name in self._staged:
            (self._folder / name).unlink()
        self._staged = {}

    def missing(self, source: Source) -> list[Item]:
        """The items of a source that are neither in a shard nor rejected."""
        return [item for item in source.items if not (item.key in self._packed or self._is_rejected(source, item))]

    def is_packed(self, source: Source) -> bool:
        """Whether samples of the source are in shards, and nothing of it need be prepared."""
        return any(item.key in self._packed for item in source.items) and not self.missing(source)

    def is_rejected(self, source: Source) -> bool:
        """Whether this version of the file was rejected under the current limits, and not for a passing reason."""
        return all(self._is_rejected(source, item) for item in source.items)

    def is_staged(self, source: Source) -> bool:
        """Whether all missing samples are finished and wait for their shard."""
        name = _fragment_name(source.key, source)
        if name not in self._staged:
            return False
        # A killed run may have written the fragment, but not yet the journal.
        self._reject_items(source, self._unread_rejections.pop(name, []))
        found = {_item_key(source, piece) for piece in self._staged[name]}
        return all(item.key in found for item in self.missing(source))

    def pieces(self, source: Source) -> list[Piece]:
        """The staged samples of a source that are not in a shard yet; others than its items are dropped."""
        fragment = self.fragment(source)
        wanted = {item.key for item in source.items}
        kept = [
            piece
            for piece in self._staged[fragment.name]
            if piece.key not in self._packed and _item_key(source, piece) in wanted
        ]
        self._set_waiting(fragment, kept)
        return kept

    def stage(self, source: Source) -> tuple[int, list[str]]:
        """Records that the samples of `source` are on disk as `fragment(source)`, and rejects what it says is unusable.

        Returns:
            The number of samples, and the reasons of the rejections.

        Raises:
            PrepareError: the fragment is damaged.
        """
        fragment = self.fragment(source)
        try:
            pieces, rejections = read_pieces(fragment)
        except RowError as error:
            raise PrepareError(f"{fragment} is damaged ({error}); run the same command again") from None
        self._reject_items(source, rejections)
        self._set_waiting(fragment, pieces)
        return len(pieces), [rejection["reason"] for rejection in rejections]

    def reject(self, source: Source, problem: RejectedSource) -> int:
        """Appends rejections of all missing items to the journal; returns their number."""
        missing = self.missing(source)
        for item in missing:
            self._reject(source, item, problem)
        return len(missing)

    def _is_rejected(self, source: Source, item: Item) -> bool:
        return self._rejected.get(item.key) == (source.size, source.mtime_ns)

    def _reject_items(self, source: Source, rejections: Sequence[Mapping[str, str]]) -> None:
        for entry in rejections:
            fragment = entry["item"]
            item = Item(parse_fragment(fragment), source.name + fragment, part_key(source.key, fragment))
            if not self._is_rejected(source, item):
                self._reject(source, item, RejectedSource(reason=entry["reason"], detail=entry["detail"]))

    def _reject(self, source: Source, item: Item, problem: RejectedSource) -> None:
        entry: dict[str, object] = {
            "source": item.name,
            "reason": problem.reason,
            "detail": problem.detail,
            "key": item.key,
        }
        entry |= {"size": source.size, "mtime_ns": source.mtime_ns, "limits": self._limits}
        if item.span is not None:
            entry |= {"file": source.name, "file_key": source.key}
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._rejected[item.key] = (source.size, source.mtime_ns)

    def _set_waiting(self, fragment: Path, pieces: list[Piece]) -> None:
        """Records which samples of a fragment wait for their shard; without any it is removed."""
        if pieces:
            self._staged[fragment.name] = pieces
        else:
            self._staged.pop(fragment.name, None)
            fragment.unlink(missing_ok=True)

    def pack(self, samples: Sequence[tuple[Source, Piece]]) -> None:
        """Packs staged samples, each with its source, into the next shard and writes its index.

        Raises:
            PrepareError: a staged sample is damaged.
        """
        # Take the first free number: the index of a damaged shard was moved away, so its number is used again.
        names = (f"{self._shard}-{number:06d}" for number in itertools.count())
        taken = {path.stem for path in index_files(self.out)}
        name = next(name for name in names if name not in taken)
        if self._journal.exists():
            sync(self._journal)  # which sources a shard leaves out depends on the rejections before it
        try:
            with replacing(self.out / f"{name}.tar", durable=True) as unfinished:
                rows = write_shard(unfinished, [piece for _, piece in samples])
                digest = file_sha256(unfinished)
        except RowError as error:
            raise PrepareError(str(error)) from None
        write_atomically(self.out / "index" / f"{name}.sha256", f"{digest}  {name}.tar\n", durable=True)
        versions = (_version(source, piece, row) for (source, piece), row in zip(samples, rows, strict=True))
        rows = [version | row for version, row in zip(versions, rows, strict=True)]
        write_index(self.out / "index" / f"{name}{self._index_suffix}", rows)
        self._packed.update(piece.key for _, piece in samples)
        done = {piece for _, piece in samples}
        for path in dict.fromkeys(piece.path for _, piece in samples):
            self._set_waiting(path, [piece for piece in self._staged[path.name] if piece not in done])
        self.share()

    def share(self) -> None:
        """Copies what OUT holds to the object store for which it stands, if it does."""
        if self._remote is not None:
            self._remote.push()

    def _tidy(self) -> None:
        """Removes unfinished files, and fragments that are damaged or packed; the others wait for their shard."""
        # With several parts, another machine may be writing the other files at this moment.
        pattern = ".*.tmp" if self._is_only_part else f".{self._shard}-*.tmp"
        for folder in (self.out, self.out / "index"):
            for path in folder.glob(pattern):
                path.unlink()
        if self._is_only_part:
            for path in (self.out / "manifest").glob("*.tmp"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_copies(self._folder)
        packed = {(_fragment_name(sample.file_key, sample), sample.key) for sample in self.samples}
        for path in self._folder.iterdir():
            if path.suffix == ".tmp":
                path.unlink()
            elif path.suffix == ".tar":
                pieces, rejections = read_whole(path) or ([], [])
                self._unread_rejections[path.name] = rejections
                self._set_waiting(path, [piece for piece in pieces if (path.name, piece.key) not in packed])


def _fragment_name(file_key: str, version: Source | PackedSample) -> str:
    return f"{file_key}.{version.size}-{version.mtime_ns}.tar"


def _item_key(source: Source, piece: Piece) -> str:
    return piece.key if piece.item is None else part_key(source.key, piece.item)


def _version(source: Source, piece: Piece, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the index says of a packed sample besides its row: the version of the file, and the part of it."""
    version: dict[str, Any] = {"key": piece.key, "size": source.size, "mtime_ns": source.mtime_ns}
    if "file" in row:
        version |= {"file_key": source.key}
    if piece.item is not None:
        version |= {"windows": piece.windows}
    return version
