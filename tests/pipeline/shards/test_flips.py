"""Whichever bit of a prepared data set changes, what the loader hands over is unchanged or the damage is named."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline.loader import make_loader
from pipeline.shards.manifest import Manifest, ManifestError
from pipeline.shards.reader import ShardError
from pipeline.shards.verification import verify_shards
from settings import Config, from_dict
from tests.pipeline.shards.formats import AUDIO, format_1, format_2, handed_over

FLIPS = 60
"""Number of flips per kind of file and codec."""


@pytest.fixture(scope="module", params=["jpeg", "vp9"])
def codec(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def old(codec, tmp_path_factory) -> Path:
    return format_1(tmp_path_factory.mktemp("old"), codec)


@pytest.fixture(scope="module")
def folder(old, tmp_path_factory) -> Path:
    return format_2(old, tmp_path_factory.mktemp("new"))


def flips(path: Path, rng: random.Random, count: int):
    """Flips one random bit of the file after the other; each is restored before the next."""
    data = path.read_bytes()
    for _ in range(count):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        yield
    path.write_bytes(data)


def load(folder: Path, intact: list, manifest: Manifest | None = None) -> str:
    try:
        return "unchanged" if handed_over(manifest or Manifest.open(folder)) == intact else "silent"
    except ManifestError as error:
        return "manifest named" if str(folder / "manifest") in str(error) else "unnamed"
    except ShardError as error:
        return "sample named" if "shard-00000" in error.file and error.sample is not None else "unnamed"


def test_both_formats_hand_over_the_same(old, folder):
    before, now = Manifest.open(old), Manifest.open(folder)
    assert handed_over(now) == handed_over(before)
    assert now.fingerprint == before.fingerprint
    assert before.checksum_offset.tolist() == [-1, -1, -1]
    assert min(now.checksum_offset) > 0


def test_no_flip_in_a_shard_is_silent_and_every_one_is_found_by_verification(folder):
    manifest, rng, found = Manifest.open(folder, verify=True), random.Random(1), Counter()
    intact = handed_over(manifest)
    assert list(verify_shards(manifest)) == [[], []]
    for shard in manifest.shards:
        for _ in flips(folder / shard, rng, FLIPS):
            outcome = load(folder, intact, manifest)
            found[outcome] += 1
            (damage,) = [damage for part in verify_shards(manifest) for damage in part]
            assert damage.file == folder / shard
            assert (damage.sample is None) == (outcome == "unchanged")
    assert found["silent"] == found["unnamed"] == 0
    assert found["sample named"] > FLIPS  # most of a shard are frames and sound


def test_no_flip_in_the_manifest_is_silent(folder):
    intact, rng, found = handed_over(Manifest.open(folder)), random.Random(2), Counter()
    for path in [folder / "manifest" / "meta.json", *sorted(folder.glob("manifest/*/*.npy"))]:
        for _ in flips(path, rng, FLIPS if path.suffix == ".json" else FLIPS // 12):
            found[load(folder, intact)] += 1
    assert found.keys() == {"manifest named"}


def test_a_wrong_offset_is_found_in_use_where_frame_offsets_are_too_many_to_check_at_opening(folder, monkeypatch):
    intact, rng, found = handed_over(Manifest.open(folder)), random.Random(3), Counter()
    monkeypatch.setattr("pipeline.shards.manifest._HASHED_BYTES", 0)
    path = next(folder.glob("manifest/*/frame_offsets.npy"))
    for _ in flips(path, rng, FLIPS):
        found[load(folder, intact)] += 1
        with pytest.raises(ManifestError, match=r"frame_offsets\.npy is damaged"):
            Manifest.open(folder, verify=True)
    assert found["silent"] == found["unnamed"] == 0
    assert found["sample named"] > FLIPS // 5


def test_no_flip_in_a_large_manifest_is_silent_once_it_has_been_checked(folder, monkeypatch):
    monkeypatch.setattr("pipeline.shards.manifest._CHECKED_BYTES", 0)
    rng = random.Random(4)
    for rank in ("0", "1"):  # the first process of a machine checks; another one does when it is asked to
        monkeypatch.setenv("LOCAL_RANK", rank)
        manifest = Manifest.open(folder)
        manifest.finish_check()
        for path in sorted(folder.glob("manifest/*/*.npy")):
            for _ in flips(path, rng, 2):
                with pytest.raises(ManifestError, match=rf"{path.name} (is damaged|has shape)"):
                    Manifest.open(folder).finish_check()
        manifest.raise_if_damaged()


def test_a_large_manifest_that_is_replaced_before_it_was_checked_stays_in_use(old, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.shards.manifest._CHECKED_BYTES", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")  # which checks only when it is asked to
    manifest = Manifest.open(old)
    intact = handed_over(manifest)
    version = next(path for path in (old / "manifest").iterdir() if path.is_dir())
    version.rename(tmp_path / "replaced")
    manifest.finish_check()
    assert handed_over(manifest) == intact
    assert "was replaced before it was checked" in caplog.text
    (tmp_path / "replaced").rename(version)


def test_damage_that_is_found_later_ends_the_loader(folder, codec, monkeypatch):
    monkeypatch.setattr("pipeline.shards.manifest._CHECKED_BYTES", 0)
    path = next(folder.glob("manifest/*/width.npy"))
    values, data = np.load(path), path.read_bytes()
    np.save(path, values + 2)
    settings = {"clip": {"frames": 4, "size": 32}, "data": {"path": str(folder)}, "train": {"batch_size": 2}}
    loader = make_loader(from_dict(Config, settings | {"audio": AUDIO}))
    with suppress(ManifestError):
        loader.dataset.finish_check()
    with pytest.raises(ManifestError, match=r"width\.npy is damaged: its SHA-256"):
        next(loader.steps(0, 1))
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["frame_offsets", "frame_start", "video_offset", "audio_offset", "checksum_offset"])
def test_a_number_of_another_sample_does_not_pass_for_its_own(folder, name, monkeypatch):
    """Even if opening did not compare the arrays with their checksums."""
    monkeypatch.setattr("pipeline.shards.content._check_hashes", lambda *_: None)
    path = next(folder.glob(f"manifest/*/{name}.npy"))
    values, data = np.load(path), path.read_bytes()
    np.save(path, np.roll(values, 1))
    with pytest.raises((ManifestError, ShardError)):
        handed_over(Manifest.open(folder))
    path.write_bytes(data)
