"""Copies of stored files: the limit, marked copies, staleness, full disks, and processes that are killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.stores import location
from common.stores.cache import PART, CachedFile, CacheError, FileCache
from common.stores.errors import StoreFileChanged, StoreFileDamaged

SIZE = 1000


@pytest.fixture
def files(tmp_path: Path) -> list[CachedFile]:
    """Four files of 1000 bytes in a store."""
    root = location(f"memory://{tmp_path.name}")
    for number in range(4):
        (root / f"{number}.tar").write_bytes(bytes([number]) * SIZE)
    return [CachedFile(root / f"{number}.tar", SIZE, "") for number in range(4)]


def cache_of(tmp_path: Path, *, files: float) -> FileCache:
    return FileCache(tmp_path / "cache", limit=int(files * SIZE))


def held(cache: FileCache, files: list[CachedFile]) -> list[bool]:
    return [cache.holds(file) for file in files]


def test_a_copy_has_the_content_of_the_file(files, tmp_path) -> None:
    cache = cache_of(tmp_path, files=4)
    for number, file in enumerate(files):
        assert cache.fetch(file)
        assert cache.path(file).read_bytes() == bytes([number]) * SIZE


def test_the_limit_is_kept_and_the_oldest_copies_go(files, tmp_path) -> None:
    cache = cache_of(tmp_path, files=2.5)
    for number, file in enumerate(files):
        assert cache.fetch(file)
        os.utime(cache.path(file), (number, number))
        assert cache.used() <= cache.limit
    assert held(cache, files) == [False, False, True, True]


def test_marked_copies_stay_whoever_marked_them(files, tmp_path) -> None:
    cache, other = cache_of(tmp_path, files=2), cache_of(tmp_path, files=2)
    assert cache.fetch(files[0])
    assert cache.fetch(files[1])
    other.mark(files[:2])
    assert not cache.fetch(files[2])
    assert held(cache, files) == [True, True, False, False]
    other.mark(files[1:2])
    assert cache.fetch(files[2])
    assert held(cache, files) == [False, True, True, False]
    del other
    assert cache.fetch(files[3])


def test_a_file_larger_than_the_cache_is_not_copied(files, tmp_path) -> None:
    assert not cache_of(tmp_path, files=0.5).fetch(files[0])


def test_a_changed_file_is_another_file(files, tmp_path) -> None:
    cache, one = cache_of(tmp_path, files=4), files[0]
    before, after = CachedFile(one.path, SIZE, "1"), CachedFile(one.path, SIZE, "2")
    assert cache.fetch(before)
    assert not cache.holds(after)


def test_a_file_that_changes_while_it_is_copied_is_refused(store, tmp_path) -> None:
    path = location(store.make_bucket()) / "x"
    path.write_bytes(bytes(SIZE))
    file = CachedFile(path, SIZE, path.stat().etag)
    path.write_bytes(bytes([1]) * SIZE)
    cache = cache_of(tmp_path, files=4)
    with pytest.raises(StoreFileChanged, match=r"x has changed since this command began \(etag"):
        cache.fetch(file)
    assert cache.used() == 0


def test_a_copy_with_another_checksum_does_not_count(files, tmp_path) -> None:
    cache, one = cache_of(tmp_path, files=4), files[0]
    with pytest.raises(StoreFileDamaged, match="SHA-256"):
        cache.fetch(CachedFile(one.path, SIZE, "", "0" * 64))
    assert cache.used() == 0


def test_a_full_disk_is_an_error_that_leaves_nothing(files, tmp_path, monkeypatch) -> None:
    def full(descriptor: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("common.stores.cache.allocate", full)
    cache = cache_of(tmp_path, files=4)
    with pytest.raises(CacheError, match="cannot be written: No space left on device"):
        cache.fetch(files[0])
    assert cache.used() == 0


def test_room_on_the_disk_is_left_for_others(files, tmp_path, monkeypatch) -> None:
    usage = type("Usage", (), {"total": 10**12, "free": 2**30 + SIZE // 2})()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match="its disk has only"):
        cache_of(tmp_path, files=4).fetch(files[0])


def test_a_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=r"the cache folder .*file/x cannot be used"):
        FileCache(tmp_path / "file/x", limit=1)


def test_a_killed_process_leaves_neither_a_half_copy_nor_a_lock(files, tmp_path) -> None:
    """The process marks a copy, begins another one, and is killed in the middle of it."""
    cache = cache_of(tmp_path, files=2)
    assert cache.fetch(files[0])
    code = """
import os, signal, sys
from pathlib import Path
from common.stores import location
from common.stores.cache import CachedFile, FileCache
folder, url, etag = sys.argv[1:]
cache = FileCache(Path(folder), limit=2000)
cache.mark([CachedFile(location(url) / "0.tar", 1000, "")])
def dies():
    print("copying", flush=True)
    signal.pause()
cache.fetch(CachedFile(location(url) / "1.tar", 1000, ""), stopping=dies)
"""
    arguments = [str(cache.folder), str(files[0].path.parent), ""]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"copying\n"
    (half,) = cache.folder.glob(f"*{PART}")
    assert half.stat().st_size == SIZE  # its room is taken
    assert not cache.fetch(files[1])  # another process is at it
    assert not cache.fetch(files[2])  # no room: the other process has marked the one copy, and writes the other
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not cache.holds(files[1])
    assert cache.fetch(files[1])
    assert cache.fetch(files[2])
    assert cache.used() <= cache.limit
