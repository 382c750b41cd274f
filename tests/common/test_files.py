"""Files are replaced completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.files import file_name, replacing, write_atomically


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize(("data", "expected"), [("ä\n", "ä\n".encode()), (b"\x00\xff", b"\x00\xff")])
def test_a_file_is_replaced_and_nothing_else_is_left(
    tmp_path: Path, data: str | bytes, expected: bytes, durable: bool
) -> None:
    path = tmp_path / "table.json"
    path.write_text("old")
    write_atomically(path, data, durable=durable)
    assert path.read_bytes() == expected
    assert os.listdir(tmp_path) == ["table.json"]


def test_an_error_or_an_interruption_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("old")

    def write_and_fail(error: BaseException) -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("half of the n")
            raise error

    for error in (OSError("no space left"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write_and_fail(error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.json"]


def test_durable_content_is_flushed_before_it_replaces_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        done.append("sync " + Path(f"/proc/self/fd/{descriptor}").resolve().name.split(".")[0])
        sync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        done.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_atomically(tmp_path / "table.json", "new", durable=True)
    assert done == ["sync ", "replace", f"sync {tmp_path.name.split('.')[0]}"]
    done.clear()
    write_atomically(tmp_path / "table.json", "newer")
    assert done == ["replace"]


def test_any_text_is_part_of_a_file_name(tmp_path: Path) -> None:
    texts = [
        "kind",
        "../a/b",
        "..%2Fa%2Fb",
        "\0\n\x1b\udcff",
        "é 日 (1)",
        "x" * 300,
        "x" * 299 + "y",
        "日" * 120,
        file_name("x" * 300),
    ]
    names = [file_name(text) for text in texts]
    assert names[:5] == ["kind", "..%2Fa%2Fb", "..%252Fa%252Fb", "%00%0A%1B%ED%B3%BF", "é 日 (1)"]
    for name in names:
        (tmp_path / f"evaluation-{name}.json").write_text("")
    assert len(list(tmp_path.iterdir())) == len(texts)
