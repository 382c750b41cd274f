"""Crash-safe state of preparation: every sample, rejection and shard is durable before it is referenced.

OUT/recipe.json             the settings that all samples share
OUT/sources.json            the source folders (see `origins`)
OUT/.staging/PART/          samples (KEY.SIZE-MTIME.tar) that wait for their shard; each is written atomically
OUT/shard-*.tar             shards; a shard is valid once its index exists
OUT/index/SHARD.sha256      SHA-256 of that shard
OUT/index/SHARD.jsonl       one row per sample of that shard: source, offsets, lengths, labels
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
from common.trees import flatten
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.records import PrepareError, damaged_message, index_records, read_journal
from pipeline.prepare.repair import check_shard, is_whole, set_aside
from pipeline.prepare.sources import PackedSample, Source
from pipeline.prepare.stores.originals import remove_copies
from pipeline.prepare.stores.out_folder import RemoteOut
from pipeline.shards.checksums import index_line
from pipeline.shards.tar_writer import RowError, write_shard
from settings import PrepareConfig
from settings.load import format_key, format_value, to_dict

_LIMITS = ("timeout_seconds", "memory_mb")
"""Settings that limit the work on a source. They do not affect the samples, so they may differ between runs."""

_RETRIED_BY_DEFAULT = ("out of memory", "timed out", "internal error", "decoder crashed", "cannot be read")
"""Rejection reasons whose cause may be the machine, not the file; they are retried unless --no-retry is given."""

_ALWAYS_RETRIED = ("changed while being read", "missing")
"""Rejection reasons that may have ended without a change of the file, such as an unmounted disk; always retried."""


class Staging:
    """The state of OUT for one part (i of n) of the sources.

    Args:
        labels: where labels come from, `file` or `folders`; it is part of the recipe.
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
        self._limits = [getattr(config, name) for name in _LIMITS]
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
        _check_recipe(out, config, labels)
        self.samples = [
            PackedSample.of(path.stem, row)
            for path in sorted((out / "index").glob("*.jsonl"))
            for row in self._sound_rows(path)
        ]
        self.set_packed(sample.key for sample in self.samples)
        retried = _ALWAYS_RETRIED + _RETRIED_BY_DEFAULT if self._retry else _ALWAYS_RETRIED
        self._rejected = {
            entry["key"]: (entry["size"], entry["mtime_ns"])
            for entry in read_journal(self._journal)
            if entry["limits"] == self._limits and (entry["size"] < 0 or entry["reason"] not in retried)
        }
        self._staged = self._tidy()
        if self._journal.exists() and not self._journal.read_bytes().endswith(b"\n"):
            # A killed run left an incomplete line; end it, so that the next entry starts on a line of its own.
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write("\n")

    def _sound_rows(self, index: Path) -> list[dict[str, Any]]:
        """Returns the rows of an index; none if it or its shard is damaged, which are then set aside."""
        name = index.stem
        try:
            rows = list(index_records(index))
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
        """Returns the path at which the finished sample of `source` waits for its shard."""
        return self._folder / _fragment_name(source)

    def set_packed(self, keys: Iterable[str]) -> None:
        """Sets the keys of the sources that need not be prepared, because a sample of them is in a shard."""
        self._packed = set(keys)

    def clear(self) -> None:
        """Removes all samples that wait for their shard."""
        for name in self._staged:
            (self._folder / name).unlink()
        self._staged = set()

    def is_packed(self, source: Source) -> bool:
        """Whether a sample of the source is in a shard, and it need not be prepared again."""
        return source.key in self._packed

    def is_staged(self, source: Source) -> bool:
        """Whether the sample is finished and waits for its shard."""
        return self.fragment(source).name in self._staged

    def is_rejected(self, source: Source) -> bool:
        """Whether this version of the file was rejected under the current limits, and not for a passing reason."""
        return self._rejected.get(source.key) == (source.size, source.mtime_ns)

    def stage(self, source: Source) -> None:
        """Records that the sample of `source` is on disk as `fragment(source)`."""
        self._staged.add(self.fragment(source).name)

    def reject(self, source: Source, problem: RejectedSource) -> None:
        """Appends a rejection to the journal."""
        entry: dict[str, object] = {
            "source": source.name,
            "reason": problem.reason,
            "detail": problem.detail,
            "key": source.key,
        }
        entry |= {"size": source.size, "mtime_ns": source.mtime_ns, "limits": self._limits}
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._rejected[source.key] = (source.size, source.mtime_ns)

    def pack(self, sources: Sequence[Source]) -> None:
        """Packs the staged samples of `sources` into the next shard and writes its index.

        Raises:
            PrepareError: a staged sample is damaged.
        """
        # Take the first free number: the index of a damaged shard was moved away, so its number is used again.
        names = (f"{self._shard}-{number:06d}" for number in itertools.count())
        name = next(name for name in names if not (self.out / "index" / f"{name}.jsonl").exists())
        fragments = [self.fragment(source) for source in sources]
        if self._journal.exists():
            sync(self._journal)  # which sources a shard leaves out depends on the rejections before it
        try:
            with replacing(self.out / f"{name}.tar", durable=True) as unfinished:
                rows = write_shard(unfinished, fragments)
                digest = file_sha256(unfinished)
        except RowError as error:
            raise PrepareError(str(error)) from None
        write_atomically(self.out / "index" / f"{name}.sha256", f"{digest}  {name}.tar\n", durable=True)
        with (
            replacing(self.out / "index" / f"{name}.jsonl", durable=True) as unfinished,
            unfinished.open("w", encoding="utf-8") as file,
        ):
            for source, row in zip(sources, rows, strict=True):
                version = {"key": source.key, "size": source.size, "mtime_ns": source.mtime_ns}
                file.write(index_line(version | row | {"lines": len(sources)}))
        for source, fragment in zip(sources, fragments, strict=True):
            self._packed.add(source.key)
            self._staged.discard(fragment.name)
            fragment.unlink()
        self.share()

    def share(self) -> None:
        """Copies what OUT holds to the object store for which it stands, if it does."""
        if self._remote is not None:
            self._remote.push()

    def _tidy(self) -> set[str]:
        """Removes unfinished files, and fragments that are damaged or packed; returns the names of the others."""
        # With several parts, another machine may be writing the other files at this moment.
        pattern = ".*.tmp" if self._is_only_part else f".{self._shard}-*.tmp"
        for folder in (self.out, self.out / "index"):
            for path in folder.glob(pattern):
                path.unlink()
        if self._is_only_part:
            for path in (self.out / "manifest").glob("*.tmp"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_copies(self._folder)
        waiting = set()
        packed = {_fragment_name(sample) for sample in self.samples}
        for path in self._folder.iterdir():
            if path.suffix == ".tmp" or path.name in packed:
                path.unlink()
            elif path.suffix == ".tar":
                if is_whole(path):
                    waiting.add(path.name)
                else:
                    path.unlink()
        return waiting


def _fragment_name(version: Source | PackedSample) -> str:
    return f"{version.key}.{version.size}-{version.mtime_ns}.tar"


def _check_recipe(out: Path, config: PrepareConfig, labels: str) -> None:
    recipe = {"labels": labels} | {key: value for key, value in to_dict(config).items() if key not in _LIMITS}
    path = out / "recipe.json"
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip("\0 \n"):  # a power failure emptied it, although it had been synced
            raise FileNotFoundError(path)
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError(f"it must hold a JSON object, not {format_value(content)}")
        old = flatten(content)
    except FileNotFoundError:
        if any(out.glob("shard-*.tar")):
            raise PrepareError(f"{out} holds shards but no recipe.json; prepare into an empty folder") from None
        write_atomically(path, json.dumps(recipe, indent=1) + "\n", durable=True)
        return
    except (OSError, ValueError, RecursionError) as error:
        raise PrepareError(f"cannot read {path}: {error}") from None
    new = flatten(recipe)
    differing = [
        f"{format_key('', key)} was {_setting(old, key)} and is now {_setting(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if differing:
        remedy = "Use the same settings, or another folder"
        if old.get("labels") != new["labels"]:
            remedy += f"; to change only labels: python -m pipeline.labels {out} LABELS"
        raise PrepareError(f"{out} was prepared with other settings: {'; '.join(differing)}. {remedy}")


def _setting(recipe: Mapping[str, Any], key: str) -> str:
    return format_value(recipe[key]) if key in recipe else "unset"
