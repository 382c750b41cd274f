"""Finds the file that a row of a list names. Every list is matched with files by this one finder."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from functools import cached_property
from unicodedata import normalize

from pipeline.lists.spans import split_fragment

_VIDEO = """
    3g2 3gp asf avi divx dv f4v flv m2t m2ts m2v m4v mjpeg mjpg mkv mov mp4 mpe mpeg mpg mts mxf ogm ogv qt rm rmvb
    ts vob webm wmv xvid
"""
_AUDIO = "aac ac3 aif aiff amr au caf flac m4a mka mp2 mp3 oga ogg opus wav wma wv"
AUDIO_SUFFIXES = frozenset(f".{name}" for name in _AUDIO.split())
MEDIA_SUFFIXES = AUDIO_SUFFIXES | frozenset(f".{name}" for name in _VIDEO.split())
SILENT_SUFFIXES = frozenset({".m2v", ".mjpeg", ".mjpg"})
"""Suffixes of formats that hold no sound."""


def split_suffix(name: str) -> tuple[str, str]:
    """Splits off a media suffix, returned in lower case; any other ending, as in `clip.v2`, belongs to the name.

    The suffix of a part of a file is that of the file: `clip.mp4#t=1,2` is (`clip#t=1,2`, `.mp4`).
    """
    file, fragment = split_fragment(name) if "#t=" in name else (name, "")
    stem, suffix = posixpath.splitext(file)
    return (stem + fragment, suffix.lower()) if suffix.lower() in MEDIA_SUFFIXES else (name, "")


def promises(name: str, streams: str | None) -> bool:
    """Whether a file with this suffix usually has the tracks that `streams` (both, video, audio) asks for."""
    suffix = split_suffix(name)[1]
    sound_only = suffix in AUDIO_SUFFIXES and streams in ("both", "video")
    return not sound_only and not (suffix in SILENT_SUFFIXES and streams in ("both", "audio"))


class Finder:
    """Finds files by the paths or names that lists give; see `find`.

    Args:
        names: paths within a folder, separated by /.
        roots: the folder itself, as lists may spell it; a path that begins with one of them is within the folder.
    """

    def __init__(self, names: Iterable[str], *, roots: Sequence[str] = ()) -> None:
        self._roots = [normalize("NFC", posixpath.normpath(root)).rstrip("/") + "/" for root in roots]
        self._paths: dict[str, str | list[str]] = {}
        self._stems: dict[str, str | list[str]] = {}
        for name in names:
            path = split_suffix(normalize("NFC", name))[0]
            _add(self._paths, path, name)
            _add(self._stems, posixpath.basename(path), name)

    def find(self, text: str) -> list[str]:
        """Returns the names that `text` fits: none, one or, if it is ambiguous, several.

        A text fits the file at exactly this path, apart from Unicode's normal form, a leading ./, the backslashes of
        Windows and the media suffix: .avi fits .mp4 unless there is an .avi, because files are often converted after a
        list was made. A text that gives no folder fits the files of this name in all folders; one that gives a folder
        never fits a file in another folder.
        """
        for path, in_folder in self._readings(text):
            if found := self._pick(self._paths, path, text):
                return found
            if not in_folder and (found := self._pick(self._stems, path, text)):
                return found
        return []

    def is_gap(self, text: str) -> bool:
        """Whether the folder and the file name that `text` gives both exist, but no such file in that folder."""
        return any(
            in_folder and posixpath.dirname(path) in self._folders and _stem(path) in self._stems
            for path, in_folder in self._readings(text)
        )

    def hint(self, text: str) -> str:
        """Says which file a text that fits none may have meant; empty if there is no such file."""
        for path, in_folder in self._readings(text):
            if name := self._folded.get(split_suffix(path)[0].casefold()):
                return f"differs only in case from {name!r}"
            if in_folder and (names := _values(self._stems, _stem(path))):
                return f"not in that folder; {names[0]!r} has the same name"
        return ""

    def _readings(self, text: str) -> list[tuple[str, bool]]:
        """The spellings of `text` to look up, the most literal first, and whether each gives a folder."""
        if not text:
            return []
        # On Linux a name may contain a backslash.
        spelled = [text, text.replace("\\", "/")] if "\\" in text else [text]
        paths = [posixpath.normpath(normalize("NFC", spelling)) for spelling in spelled]
        within = [path[len(root) :] for path in paths for root in self._roots if path.startswith(root)]
        return [(path, "/" in path) for path in paths] + [(path, True) for path in within]

    @staticmethod
    def _pick(table: dict[str, str | list[str]], path: str, text: str) -> list[str]:
        others = _values(table, split_suffix(path)[0])
        same = [name for name in others if f"/{normalize('NFC', name)}".endswith(f"/{path}")]
        return [name for name in same if name == text] or same or _values(table, path) or others

    @cached_property
    def _folders(self) -> set[str]:
        return {posixpath.dirname(path) for path in self._paths}

    @cached_property
    def _folded(self) -> dict[str, str]:
        folded = {}
        for table in (self._stems, self._paths):
            folded.update({path.casefold(): _values(table, path)[0] for path in table})
        return folded


def _stem(path: str) -> str:
    return split_suffix(posixpath.basename(path))[0]


def _add(table: dict[str, str | list[str]], key: str, name: str) -> None:
    # Nearly all keys have one name; a list for each would take half of the memory.
    table[key] = [*_values(table, key), name] if key in table else name


def _values(table: dict[str, str | list[str]], key: str) -> list[str]:
    found = table.get(key, [])
    return [found] if isinstance(found, str) else found
