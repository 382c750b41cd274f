"""Detects sources that cannot be prepared, and explains why to their owner."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

_MAGIC = [
    (b"version https://git-lfs", "a git-LFS pointer whose file was never fetched; run git lfs pull"),
    # FFmpeg would open the files that these lists name, which may be any file that the user can read.
    (b"ffconcat", "a list of files (FFmpeg concat script)"),
    (b"#EXTM3U", "a playlist (m3u8)"),
    (b"<?xml", "XML text"),
    (b"<MPD", "a playlist (DASH)"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b'{"', "JSON text"),
]
"""First bytes of other kinds of files, and what the files are."""
_HEAD_BYTES = 65536
"""Number of bytes at the start of a file that are inspected."""


class RejectedSource(Exception):
    """A source that cannot be prepared.

    Attributes:
        reason: one of a fixed set of short phrases, by which the summary counts rejections.
        detail: what was found in this file; may be empty.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def file_problem(path: Path) -> RejectedSource | None:
    """Returns why `path` cannot be read as a file; None if it is a regular file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return RejectedSource(
            "missing", f"a link to {path.readlink()}, which does not exist" if path.is_symlink() else ""
        )
    except OSError as error:
        return RejectedSource("cannot be read", error.strerror or str(error))
    if stat.S_ISREG(mode):
        return None
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return RejectedSource("not a file", next((name for is_kind, name in kinds if is_kind(mode)), "a device"))


def content_problem(path: Path) -> RejectedSource | None:
    """Recognises files that are not media despite their suffix; None if nothing is recognised."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        return RejectedSource("cannot be read", error.strerror or str(error))
    if not head:
        return RejectedSource("empty file")
    text = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, kind in _MAGIC:
        if text.startswith(magic):
            return RejectedSource("not a media file", kind)
    if text[:1] == b"<" and b"<html" in text.lower():
        return RejectedSource("not a media file", "an HTML page, probably the error page of a failed download")
    return None


def open_problem(path: Path, error: Exception) -> RejectedSource:
    """Returns why FFmpeg could not open a file that is not empty; `error` is what FFmpeg raised."""
    with path.open("rb") as file:
        if not any(file.read(_HEAD_BYTES)):
            return RejectedSource("not a media file", "it begins with zero bytes, probably an unfinished download")
    boxes = _top_level_boxes(path)
    if "ftyp" in boxes and "moov" not in boxes and "moof" not in boxes:
        return RejectedSource(
            "truncated or damaged", "an MP4 file without its index (moov), probably an unfinished download"
        )
    if getattr(error, "errno", None) == errno.EINVAL:
        return RejectedSource("not a media file", "its format is none of the video and audio formats that are read")
    return RejectedSource(
        "not a media file", f"FFmpeg does not recognise it ({getattr(error, 'strerror', None) or error})"
    )


def _top_level_boxes(path: Path) -> list[str]:
    """Returns the names of the first 64 top-level boxes of an MP4 file; empty for other files."""
    names: list[str] = []
    with path.open("rb") as file:
        while len(names) < 64:
            header = file.read(16)
            size = int.from_bytes(header[:4], "big")
            if len(header) < 8 or not header[4:8].isalnum():
                break
            names.append(header[4:8].decode("ascii"))
            if size == 1:
                size = int.from_bytes(header[8:16], "big")
            if size < 8:
                break
            file.seek(size - len(header), 1)
    return names
