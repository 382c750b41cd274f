"""The source folders of OUT (OUT/sources.json): another one is refused unless --also names it.

Samples are known by their path within the source folder, so the files of two folders could take each other's labels.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from common.files import write_atomically
from common.stores import Location
from pipeline.prepare.labels import Labels
from pipeline.prepare.records import PrepareError, read_index, read_journal, read_versions
from pipeline.prepare.sources import Source, add_prefix
from pipeline.prepare.stores.originals import content_sha256
from pipeline.prepare.sync.edits import locked
from pipeline.shards.index.files import PACKED, index_files
from pipeline.shards.tar_writer import is_text
from settings.load import format_key, format_value

_COMPARED_FILES = 16
"""Number of files whose content decides whether a folder at another path is the same source."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A source folder of OUT.

    Attributes:
        name: what the names of its samples begin with, before a /; "" for the source added without --also.
        paths: where the folder was found, on this machine or others.
        columns: label columns of its samples.
    """

    name: str = ""
    paths: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        return f"{self.name}/" if self.name else ""


class _Known(NamedTuple):
    """A version of a file that OUT has recorded."""

    source: str
    size: int
    mtime_ns: int
    sha256: str | None


class Origins:
    """All source folders of OUT.

    Attributes:
        verified: whether `identify` compared the folder's files with those recorded from another path.

    Raises:
        PrepareError: sources.json is damaged.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self.verified = False
        self._known: list[tuple[str, _Known]] | None = None
        origins = _read(out / "sources.json")
        # Versions before sources.json recorded no path.
        self._all = origins if origins is not None else [Origin()] if self._recorded() else []

    def identify(self, src: Location, sources: Sequence[Source], *, also: str | None) -> tuple[Origin, str]:
        """Finds out which source `src` is.

        Args:
            sources: its files, as named within `src`.
            also: the name given with --also.

        Returns:
            The source, and a remark for the user if it is at another path than before; else "".

        Raises:
            PrepareError: it is none of the sources of OUT and `also` is not given, or `also` cannot be used.
        """
        here = _as_text(src)
        if also is not None:
            also = _checked_name(also)
        origin, remark = self._find(here, src, sources, also), ""
        if here not in origin.paths:
            if origin.paths and self.verified:
                remark = f"{here} holds the files that were prepared from {origin.paths[-1]}, so it is the same source"
            elif origin.paths:
                remark = f"nothing was prepared from {origin.paths[-1]} yet, so {here} takes its place"
            origin = replace(origin, paths=(*origin.paths, here))
        if not origin.name:
            self._check_folders(sources)
        return origin, remark

    def register(self, origin: Origin) -> None:
        """Records `origin`, replacing the one of the same name; keeps what other processes recorded meanwhile."""
        path = self._out / "sources.json"
        with locked(self._out):
            old = _read(path)
            kept = self._all if old is None else old
            at = next((i for i, other in enumerate(kept) if other.name == origin.name), len(kept))
            if at < len(kept):
                seen = [name for name in kept[at].paths if name not in origin.paths]
                origin = replace(origin, paths=(*seen, *origin.paths))
            self._all = [*kept[:at], origin, *kept[at + 1 :]]
            if old != self._all:
                text = json.dumps({"sources": [asdict(one) for one in self._all]}, ensure_ascii=False, indent=1)
                write_atomically(path, text + "\n", durable=True)

    def owns(self, origin: Origin, source: str) -> bool:
        """Whether the sample named `source` comes from `origin`."""
        if origin.name:
            return source.startswith(origin.prefix)
        return not any(source.startswith(other.prefix) for other in self._all if other.name)

    def columns(self) -> list[str]:
        """The label columns of all sources."""
        return list(dict.fromkeys(column for origin in self._all for column in origin.columns))

    def _find(self, here: str, src: Location, sources: Sequence[Source], also: str | None) -> Origin:
        listed = [origin for origin in self._all if here in origin.paths]
        named = [origin for origin in self._all if also in (None, origin.name)]
        if also is None and len(listed) == 1:
            return listed[0]
        if also is None and not self._all:
            return Origin()
        for origin in named:
            if also is not None and origin in listed:
                return origin
            if self._is_same(origin, src, sources, alone=len(named) == 1):
                return origin
        if also is None:
            raise PrepareError(self._refusal(here))
        if named:
            taken = f"--also {also} is the name of {named[0].paths[-1]} in {self._out}"
            raise PrepareError(f"{taken}, and {here} does not hold those files; choose another name")
        for origin in listed:
            if self._is_same(origin, src, sources, alone=True):
                name = f"with --also {origin.name}" if origin.name else "without --also"
                raise PrepareError(f"{src} was prepared into {self._out} {name}; run that command again")
        self._check_new_name(also, here)
        return Origin(name=also)

    def _is_same(self, origin: Origin, src: Location, sources: Sequence[Source], *, alone: bool) -> bool:
        """Whether `sources` are the files of `origin`; `alone` is the answer if nothing of it was recorded yet."""
        known = {key: version for key, version in self._recorded() if self.owns(origin, version.source)}
        self.verified = bool(known and origin.paths)
        return _is_same(known, add_prefix(sources, src, origin.prefix), origin) if known else alone

    def _recorded(self) -> list[tuple[str, _Known]]:
        """The key and version of each rejected file and each sample, of all sources."""
        if self._known is None:
            entries = (
                entry for path in sorted((self._out / "index").glob("*.rejected")) for entry in read_journal(path)
            )
            self._known = [(_file_key(entry), _version(entry)) for entry in entries if entry["size"] >= 0]
            for path in index_files(self._out):
                # A damaged index is set aside later, so its readable rows are all there is to know the source by.
                with suppress(PrepareError):
                    rows = read_versions(path) if path.suffix == PACKED else read_index(path)
                    self._known.extend((_file_key(row), _version(row)) for row in rows)
        return self._known

    def _refusal(self, here: str) -> str:
        folders = [
            (origin.paths[-1] if origin.paths else "a folder that was not recorded")
            + (f" (as {origin.name})" if origin.name else "")
            for origin in self._all
        ]
        shown = ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")
        return (
            f"{self._out} was prepared from {shown}, and {here} does not hold those files. Give --also NAME to add "
            "its files under names that begin with NAME/, or prepare into another folder"
        )

    def _check_new_name(self, name: str, here: str) -> None:
        for origin in self._all:
            if _folded(origin.name) == _folded(name):
                raise PrepareError(
                    f"--also {name} differs from {origin.name}, another source of {self._out}, only in case"
                )
            for path in origin.paths:
                if here != path and (Path(path).is_relative_to(here) or Path(here).is_relative_to(path)):
                    raise PrepareError(f"{here} and {path}, from which {self._out} was prepared, share files")
        tops = (known.source.split("/")[0] for _, known in self._recorded() if "/" in known.source)
        if _folded(name) in map(_folded, tops):
            raise PrepareError(
                f"--also {name}: {self._out} holds samples of a folder of that name; choose another name"
            )

    def _check_folders(self, sources: Iterable[Source]) -> None:
        names = {_folded(origin.name): origin.name for origin in self._all if origin.name}
        for source in sources:
            top = source.name.split("/")[0]
            if _folded(top) in names:
                taken = names[_folded(top)]
                raise PrepareError(
                    f"{source.path}: {format_key('', top)} is the name of a source added to {self._out} with "
                    f"--also {taken}; rename the folder"
                )


def prefix_labels(labels: Labels, origin: Origin) -> Labels:
    """Returns `labels` with the prefix of `origin` before each source name, as its samples are named."""
    return replace(labels, by_source={origin.prefix + name: values for name, values in labels.by_source.items()})


def names_within(names: Iterable[str], origin: Origin) -> set[str]:
    """Returns those of `names` that begin with the prefix of `origin`, without the prefix."""
    return {name.removeprefix(origin.prefix) for name in names if name.startswith(origin.prefix)}


def _is_same(known: Mapping[str, _Known], sources: Sequence[Source], origin: Origin) -> bool:
    """Whether most of the files of a folder, or most of those recorded, are there in the version recorded."""
    found = {source.key: source for source in sources}
    shared = sorted(known.keys() & found.keys())
    compared = shared[:: -(-len(shared) // _COMPARED_FILES) or 1]
    same = sum(_is_version(found[key], known[key]) for key in compared)
    if not origin.paths:
        # Its path was not recorded, so only files that certainly differ (in size) count against the folder.
        other = sum(found[key].size != known[key].size for key in compared)
        return same > 0 or 2 * other <= len(compared)
    return 2 * same > len(compared) and 2 * len(shared) >= min(len(known), len(found))


def _is_version(source: Source, known: _Known) -> bool:
    if source.size != known.size:
        return False
    if known.sha256 is None:
        return source.mtime_ns == known.mtime_ns
    try:
        return content_sha256(source.path) == known.sha256
    except OSError:
        return False


def _file_key(record: Mapping[str, Any]) -> str:
    """The key of the file of a sample or rejection, which has one of its own if it is a part of the file."""
    return record.get("file_key", record["key"])


def _version(record: Mapping[str, Any]) -> _Known:
    digest = record.get("sha256")
    file = record.get("file", record["source"])
    return _Known(file, record["size"], record["mtime_ns"], digest if isinstance(digest, str) else None)


def _checked_name(name: str) -> str:
    name = unicodedata.normalize("NFC", name)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise PrepareError(f"--also must be one word of letters, digits and . _ -, not {format_value(name)}")
    return name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _as_text(path: Location) -> str:
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _read(path: Path) -> list[Origin] | None:
    """Reads sources.json; None if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        origins = [
            Origin(name=one["name"], paths=tuple(one["paths"]), columns=tuple(one["columns"]))
            for one in content["sources"]
        ]
        if not all(is_text(text) for one in origins for text in (one.name, *one.paths, *one.columns)):
            raise ValueError("a name, path or column is not text")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        found = " ".join(str(error).split())
        raise PrepareError(f"cannot read {path} ({found}); restore it, or delete it if OUT has a single SRC") from None
    return origins
