"""Publishing after a change reads only the index files that are new, and gives what publishing all anew gives."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.prepare import publish as publishing
from pipeline.prepare.labels import Labels
from pipeline.prepare.publish import publish
from pipeline.prepare.records import PrepareError, read_index, write_index
from pipeline.shards.manifest import Manifest
from settings import PrepareConfig
from tests.pipeline.shards.formats import with_index_lines
from tests.pipeline.shards.test_packed_rows import AUDIO_ONLY, row

LABELS = Labels(columns=["kind"])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A prepared folder without shards; of the shards that tests add only the size is looked at."""
    (tmp_path / "out/index").mkdir(parents=True)
    (tmp_path / "out/recipe.json").write_text('{"index": "packed"}')
    return tmp_path / "out"


def add(out: Path, shard: str, *numbers: int, **changes: Any) -> None:
    """Adds or replaces a shard of the samples with these numbers."""
    with (out / f"shard-{shard}.tar").open("wb") as file:
        file.truncate(2**35)
    (out / f"index/shard-{shard}.sha256").write_text(f"{shard:0>64}  x\n")
    write_index(out / f"index/shard-{shard}.rows", [row(number, **changes) for number in numbers])


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the index files of which rows were read."""
    found: list[str] = []
    original = publishing.read_packed

    def read_packed(index: Path) -> Any:
        found.append(index.stem)
        return original(index)

    monkeypatch.setattr(publishing, "read_packed", read_packed)
    return found


def result(out: Path) -> dict[str, bytes]:
    """All that is published."""
    files = [path for path in out.rglob("*") if path.is_file() and path.suffix not in (".rows", ".tar", ".sha256")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def check(out: Path, tmp_path: Path) -> None:
    """Publishes, and compares that with publishing the same shards in another folder for the first time."""
    found = publish(out, config=PrepareConfig(), labels=LABELS)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    for path in out.iterdir():
        if path.name not in ("manifest", "flagged.jsonl", "rejected.jsonl"):
            shutil.copytree(path, fresh / path.name) if path.is_dir() else (fresh / path.name).symlink_to(path)
    wanted = publish(fresh, config=PrepareConfig(), labels=LABELS)
    assert found == wanted
    assert {k: v for k, v in result(fresh).items() if k != "recipe.json"} == {
        k: v for k, v in result(out).items() if k != "recipe.json"
    }
    Manifest.open(out, verify=True)
    shutil.rmtree(fresh)


def test_only_new_and_changed_index_files_are_read(out, tmp_path, read):
    add(out, "b", *range(10, 20))
    add(out, "d", *range(30, 40))
    check(out, tmp_path)
    assert read == ["shard-b", "shard-d"] * 2
    add(out, "a", 5, 25, 45, 99)  # sorts before, between and after the others
    add(out, "c", 1, **AUDIO_ONLY, labels={"kind": "new"})
    read.clear()
    check(out, tmp_path)
    assert read[:2] == ["shard-a", "shard-c"]
    assert len(read) == 6
    add(out, "d", *range(33, 36), labels={"kind": "other"})
    read.clear()
    check(out, tmp_path)
    assert read[0] == "shard-d"
    read.clear()
    assert publish(out, config=PrepareConfig(), labels=LABELS).samples == 18
    assert read == []


def test_a_source_in_two_shards_counts_once_and_comes_back_when_the_other_goes(out, tmp_path, read):
    add(out, "b", 1, 2, 3)
    check(out, tmp_path)
    add(out, "a", 2, width=16, height=16)  # the first shard counts
    check(out, tmp_path)
    assert Manifest.open(out).width.tolist() == [16, 64, 64]  # sorted by source, "kind0/ü2.mp4" is the first
    (out / "index/shard-a.rows").write_bytes(b"")
    check(out, tmp_path)
    assert Manifest.open(out).width.tolist() == [64, 64, 64]


def test_any_changes_give_what_publishing_anew_gives(out, tmp_path):
    rng, taken = random.Random(0), {}
    for _ in range(12):
        shard = rng.choice("abcdef")
        others = {number for name, numbers in taken.items() if name != shard for number in numbers}
        free = [number for number in range(40) if number not in others]
        taken[shard] = rng.sample(free, rng.randrange(0, min(6, len(free)) + 1))
        changes = rng.choice([{}, AUDIO_ONLY, {"labels": {}}, {"labels": {"kind": str(rng.random())}}])
        if taken[shard]:
            add(out, shard, *taken[shard], **changes)
        else:
            add(out, shard, 1)
            (out / f"index/shard-{shard}.rows").write_bytes(b"")
        if any(taken.values()):
            check(out, tmp_path)


@pytest.mark.parametrize(
    "damage", ["manifest/merged.json", "flagged.jsonl", "manifest/*/frames.npy", "manifest/meta.json"]
)
def test_a_damaged_shortcut_is_not_taken(out, tmp_path, read, damage):
    add(out, "a", 1, 2, 3)
    publish(out, config=PrepareConfig(), labels=LABELS)
    expected = result(out)
    (path,) = out.glob(damage)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    read.clear()
    publish(out, config=PrepareConfig(), labels=LABELS)
    assert read == ["shard-a"]
    assert result(out) == expected


def test_json_lines_of_an_older_version_are_merged_with_packed_rows(out, tmp_path):
    add(out, "a", 1, 4)
    with_index_lines(out)
    assert [one["source"] for one in read_index(out / "index/shard-a.jsonl")] == ["kind1/ü1.mp4", "kind0/ü4.mp4"]
    add(out, "b", 2, 3)
    check(out, tmp_path)
    check(out, tmp_path)
    assert len(Manifest.open(out)) == 4


def test_a_damaged_index_file_is_named(out):
    add(out, "a", 1, 2, 3)
    path = out / "index/shard-a.rows"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        PrepareError, match=r"shard-a\.rows or its shard is damaged \(its content differs from its checksum"
    ):
        publish(out, config=PrepareConfig(), labels=LABELS)
