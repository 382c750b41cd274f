"""Files that are not media are rejected with a reason."""

from __future__ import annotations

import os
import struct

import pytest

from pipeline.media.rejection import RejectedSource
from pipeline.prepare.media import normalise
from settings import PrepareConfig


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (bytes(70000), "zero bytes"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
        (b"PK\x03\x04" + bytes(50), "a ZIP archive"),
        (b"ffconcat version 1.0\nfile 'other.mp4'\n", "a list of files"),
        (b"#EXTM3U\n#EXTINF:10,\nhttp://localhost/x.ts\n", "a playlist"),
        (struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + struct.pack(">I4s", 90000, b"mdat"), "without its index"),
        (bytes(range(1, 255)) * 40, "FFmpeg does not recognise it"),
    ],
)
def test_other_content_is_recognised(tmp_path, content, message):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(RejectedSource, match=message):
        normalise(path, PrepareConfig())


def test_missing_files_folders_and_pipes_are_rejected(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("nowhere.mp4")
    for name, message in [
        ("absent.mp4", "missing"),
        ("folder.mp4", "not a file: a folder"),
        ("pipe.mp4", "not a file: a named pipe"),
        ("link.mp4", "missing: a link to nowhere.mp4"),
    ]:
        with pytest.raises(RejectedSource, match=message):
            normalise(tmp_path / name, PrepareConfig())
