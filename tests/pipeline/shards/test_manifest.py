"""The manifest: ragged offsets, labels and order, and the detection of damage."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pipeline.shards.manifest import Manifest, ManifestError
from pipeline.shards.manifest_writer import write_manifest
from settings import StorageConfig
from tests.pipeline.shards.formats import reseal

SIZE = 70_000
"""Size of the shard in bytes."""


def row(source: str, sizes: list[int], **labels: str) -> dict[str, object]:
    return {
        "source": source, "shard": 0, "video_offset": 512 if sizes else -1, "first_frame": 32, "frame_bytes": sizes,
        "width": 64, "height": 48, "audio_offset": 4096, "audio_samples": 1600 * len(sizes) or 800, "labels": labels,
    }  # fmt: skip


def write(root: Path, rows, columns=("word",), name: str = "shard-000000.tar") -> Manifest:
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(bytes(SIZE))
    arrays = write_manifest(
        root, rows, shards=[name], shard_bytes=[SIZE], label_columns=list(columns), storage=StorageConfig(fps=10),
        sample_rate=16000, streams="both",
    )  # fmt: skip
    manifest = Manifest.open(root)
    assert len(manifest) == len(arrays["frames"])
    return manifest


def test_rows_are_sorted_and_keep_their_frames_and_labels(tmp_path):
    rows = [row("c", [5, 6, 7], word="x"), row("a", [1], word="z"), row("b", []), row("é", [9, 9], word="x")]
    manifest = write(tmp_path, rows)
    assert [manifest.source(i) for i in range(4)] == ["a", "b", "c", "é"]
    slices = [manifest.frame_offsets[manifest.frame_start[i] : manifest.frame_start[i + 1]].tolist() for i in range(4)]
    assert slices == [[32, 33], [], [32, 37, 43, 50], [32, 41, 50]]
    assert manifest.frames.tolist() == [1, 0, 3, 2]
    assert manifest.label_names("word") == ["x", "z"]
    assert manifest.labels("word").tolist() == [1, -1, 0, 0]
    np.testing.assert_allclose(manifest.seconds, [0.1, 0.05, 0.3, 0.2])
    assert manifest.frame_offsets.dtype == np.uint32


def test_the_fingerprint_depends_on_content_but_not_on_layout(tmp_path):
    rows = [row("a", [5, 6], word="x"), row("b", [7], word="y")]
    base = write(tmp_path / "1", rows).fingerprint
    assert write(tmp_path / "2", rows[::-1], name="shard-0of2-000000.tar").fingerprint == base
    assert write(tmp_path / "3", [rows[0] | {"frame_bytes": [5, 7]}, rows[1]]).fingerprint != base
    assert write(tmp_path / "4", [rows[0] | {"labels": {"word": "y"}}, rows[1]]).fingerprint != base


def test_ten_thousand_classes_keep_their_names(tmp_path):
    manifest = write(tmp_path, [row(f"{i:05}", [1], word=f"class {i:05}") for i in range(10_000)])
    assert manifest.labels("word").tolist() == list(range(10_000))
    assert manifest.label_names("word")[9_999] == "class 09999"


def test_opening_maps_the_arrays_into_memory_without_reading_them(tmp_path):
    write(tmp_path, (row(f"{i:07}", [100] * 20, word="x") for i in range(50_000)))
    tracemalloc.start()
    manifest = Manifest.open(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(manifest.frame_offsets) == 50_000 * 21
    assert peak < 1_500_000  # of 8 MB


def test_publishing_again_replaces_the_version_but_open_readers_keep_theirs(tmp_path):
    old = write(tmp_path, [row("a", [5], word="x")])
    new = write(tmp_path, [row("a", [5], word="x"), row("b", [6], word="y")])
    assert (len(old), old.source(0)) == (1, "a")
    assert len(new) == 2
    assert len([path for path in (tmp_path / "manifest").iterdir() if path.is_dir()]) == 1


def test_an_unknown_column_is_refused_with_a_list_of_the_known_ones(tmp_path):
    with pytest.raises(ManifestError, match="no label column 'colour'; it has: word"):
        write(tmp_path, [row("a", [1], word="x")]).labels("colour")


def save(root: Path, name: str, values: np.ndarray) -> None:
    """Replaces an array, as if preparation had written these values."""
    np.save(next(root.glob(f"manifest/*/{name}.npy")), values)
    reseal(root)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "manifest/meta.json").unlink(), "holds no manifest; make one with: python -m pipeline"),
        (lambda root: (root / "manifest/meta.json").write_text("{"), "cannot read"),
        (lambda root: (root / "manifest/meta.json").write_text("[]"), "is damaged"),
        (lambda root: reseal(root, format=99), "has format 99"),
        (lambda root: reseal(root, samples=7), r"has shape \(1,\), not \(7,\)"),
        (lambda root: reseal(root, storage={"fps": "fast"}), "fps must be a number"),
        (lambda root: reseal(root, storage={"fps": -1}), "is damaged"),
        (lambda root: reseal(root, shards=["../../x.tar"]), "which is not the name of a file next to"),
        (lambda root: reseal(root, shards=["/etc/passwd"]), "which is not the name of a file next to"),
        (lambda root: reseal(root, version=".."), r"version is '\.\.'"),
        (lambda root: reseal(root, sample_rate="fast"), "sample_rate is 'fast'"),
        (lambda root: reseal(root, label_columns="word"), "label_columns is 'word'"),
        (lambda root: (root / "manifest/meta.json").write_text("[" * 99_999), "cannot read"),
        (lambda root: next(root.glob("manifest/*/frames.npy")).write_bytes(b""), "is damaged"),
        (lambda root: np.save(next(root.glob("manifest/*/frames.npy")), np.ones(1, np.float32)), "float32"),
        (lambda root: save(root, "shard", np.ones(1, np.int32)), "beyond the 1 shards"),
        (
            lambda root: save(root, "source_start", np.array([0, 2])),
            "source_start.npy is damaged: its offsets do not rise",
        ),
        (
            lambda root: save(root, "audio_samples", np.array([1599])),
            "differ from the lengths of the videos.* sample 0",
        ),
        (
            # A byte too late for three checksums of 4 bytes.
            lambda root: save(root, "checksum_offset", np.array([SIZE - 3 * 4 + 1])),
            "checksum_offset.npy .* outside the shard",
        ),
        (lambda root: next(root.glob("manifest/*/frames.npy")).write_bytes(b"\x93NUMPY"), "is damaged"),
        (lambda root: next(root.glob("manifest/*/frames.npy")).unlink(), "is damaged"),
        (lambda root: next(root.glob("*.tar")).write_bytes(bytes(9)), "has 9 bytes, the manifest expects 70,000"),
        (lambda root: next(root.glob("*.tar")).unlink(), "is missing"),
    ],
)
def test_damage_is_reported_in_one_line(tmp_path, damage, message):
    write(tmp_path, [row("a", [1], word="x")])
    damage(tmp_path)
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest.open(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["", ".", "..", "/", "../.."])
def test_publishing_over_an_edited_manifest_removes_only_a_version(tmp_path, version):
    write(tmp_path, [row("a", [1], word="x")])
    (tmp_path / "manifest" / "kept").mkdir()
    reseal(tmp_path, version=version)
    write(tmp_path, [row("b", [1], word="x")])
    assert (tmp_path / "manifest" / "kept").is_dir()


def test_label_codes_without_a_name_are_refused(tmp_path):
    manifest = write(tmp_path, [row("a", [1], word="x")])
    save(tmp_path, "label0", np.array([5], np.int32))
    with pytest.raises(ManifestError, match="beyond 1 names"):
        Manifest.open(manifest.root).labels("word")


def test_pickled_arrays_are_refused(tmp_path):
    write(tmp_path, [row("a", [1], word="x")])
    np.save(next(tmp_path.glob("manifest/*/frames.npy")), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ManifestError, match="damaged"):
        Manifest.open(tmp_path)
