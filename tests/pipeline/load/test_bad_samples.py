"""Samples that cannot be read in training are replaced, reproducibly and up to a limit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.batch import Batch
from pipeline.loader import make_loader
from pipeline.plan.bad_samples import BadSample, BadSamples, SampleError, TooManyBadSamples
from pipeline.shards.reader import ShardError
from tests.pipeline.shards.formats import without_checksums

SAMPLE = 5
IDS = list(range(10))
EPOCH = 3
"""An epoch whose second batch contains SAMPLE."""


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def remove_shard(path: Path, manifest) -> set[int]:
    """Deletes the shard of SAMPLE; like the next two functions, returns the samples that it makes unreadable."""
    path.unlink()
    return set(np.flatnonzero(manifest.shard == manifest.shard[SAMPLE]).tolist())


def cut_shard(path: Path, manifest) -> set[int]:
    with path.open("r+b") as file:
        file.truncate(int(manifest.video_offset[SAMPLE]) + 100)
    same = np.flatnonzero(manifest.shard == manifest.shard[SAMPLE])
    return {i for i in same.tolist() if manifest.video_offset[i] >= manifest.video_offset[SAMPLE]}


def spoil_payload(path: Path, manifest) -> set[int]:
    """Overwrites the payload of SAMPLE: its headers still parse, but its frames cannot be decoded."""
    begin, end = manifest.frame_start[SAMPLE : SAMPLE + 2]
    for offset in manifest.frame_offsets[begin : end - 1 : 8].tolist():
        place = int(manifest.video_offset[SAMPLE]) + offset
        if manifest.storage.codec == "vp9":
            overwrite(path, place + 16, b"\xff" * 20)
        else:
            overwrite(path, path.read_bytes().index(b"\xff\xc4", place) + 5, b"\xff" * 16)
    return {SAMPLE}


DAMAGES = [remove_shard, cut_shard, spoil_payload]


class Copy:
    """A copy of the shards that tests may damage after they have made their loaders."""

    def __init__(self, corpus, codec: str, folder: Path) -> None:
        shutil.copytree(getattr(corpus, codec), folder)
        without_checksums(folder)  # so that damaged frames reach the decoder
        self.corpus, self.codec, self.folder = corpus, codec, folder

    def loader(self, *, rank: int = 0, world_size: int = 1, limit: float = 0.5, **data):
        data = {"path": str(self.folder), "max_bad_fraction": limit, **data}
        return make_loader(self.corpus.config(f"dali-{self.codec}", data=data), rank=rank, world_size=world_size)

    def damage(self, how) -> set[int]:
        manifest = self.loader().dataset
        return how(self.folder / manifest.shards[manifest.shard[SAMPLE]], manifest)


@pytest.fixture
def copy(corpus, tmp_path: Path):
    return lambda codec="jpeg": Copy(corpus, codec, tmp_path / "shards")


def assert_equal(ones, others) -> None:
    assert [batch.ids.tolist() for batch in ones] == [batch.ids.tolist() for batch in others]
    for one, other in zip(ones, others, strict=True):
        for left, right in zip(one[:4], other[:4], strict=True):
            assert torch.equal(left, right)


@pytest.mark.parametrize("codec", ["vp9", "jpeg"])
@pytest.mark.parametrize("how", DAMAGES)
def test_bad_samples_are_replaced_and_the_others_are_unchanged(copy, codec, how) -> None:
    copy = copy(codec)
    loader = copy.loader()
    healthy = list(copy.loader().clips(IDS, epoch=3, purpose="train"))
    own = {int(i): (b.video[k], b.audio[k], b.start[k]) for b in healthy for k, i in enumerate(b.ids)}
    bad = copy.damage(how)
    batches = list(loader.clips(IDS, epoch=3, purpose="train"))
    assert {one.sample for one in loader.bad_samples} == bad
    for wanted, batch in zip(healthy, batches, strict=True):
        for k, (asked, got) in enumerate(zip(wanted.ids.tolist(), batch.ids.tolist(), strict=True)):
            assert got not in bad
            assert got == asked or asked in bad
            for value, expected in zip((batch.video[k], batch.audio[k], batch.start[k]), own[got], strict=True):
                assert torch.equal(value, expected)


@pytest.mark.parametrize("how", DAMAGES)
def test_replacements_do_not_depend_on_world_size_position_or_history(copy, how) -> None:
    copy = copy()
    loaders = {(rank, size): copy.loader(rank=rank, world_size=size) for size in (1, 2, 4) for rank in range(size)}
    resumed = copy.loader()
    bad = copy.damage(how)
    alone = list(loaders[0, 1].epoch(EPOCH))
    assert len(alone) == 2
    assert len(loaders[0, 1].bad_samples) > 0
    for size in (2, 4):
        shares = zip(*(loaders[rank, size].epoch(EPOCH) for rank in range(size)), strict=True)
        columns = (zip(*(batch[:4] for batch in share), strict=True) for share in shares)
        joined = [Batch(*map(torch.cat, each)) for each in columns]
        assert_equal(alone, joined)
    assert not bad & {int(i) for batch in alone for i in batch.ids}
    # Compare with a loader that already knows the bad samples, and with one that starts in the middle.
    assert_equal(alone, list(loaders[0, 1].epoch(EPOCH)))
    assert_equal(alone[1:], list(resumed.epoch(EPOCH, start_step=1)))


def test_another_epoch_draws_another_replacement(copy) -> None:
    copy = copy()
    loader = copy.loader()
    copy.damage(spoil_payload)
    drawn = {int(next(loader.clips([SAMPLE], epoch=epoch, purpose="train")).ids[0]) for epoch in range(8)}
    assert len(drawn) > 2


def test_only_samples_of_the_split_are_drawn(copy) -> None:
    copy = copy()
    loader = copy.loader(split="train")
    copy.damage(spoil_payload)
    drawn = {int(next(loader.clips([SAMPLE], epoch=epoch, purpose="train")).ids[0]) for epoch in range(20)}
    assert drawn <= set(loader.ids.tolist()) - {SAMPLE}


def test_test_clips_are_never_replaced(copy) -> None:
    copy = copy()
    loader = copy.loader(limit=1.0)
    copy.damage(spoil_payload)
    with pytest.raises(ShardError, match=rf"sample {SAMPLE} \(video5.mp4\) in shard .* does not decode"):
        list(loader.uniform_clips(IDS, clips=1))
    assert len(loader.bad_samples) == 0


def test_one_warning_per_bad_sample_names_its_replacement(copy, caplog) -> None:
    copy = copy()
    loader = copy.loader()
    copy.damage(spoil_payload)
    ids = [int(batch.ids[0]) for _ in range(3) for batch in loader.clips([SAMPLE], epoch=0, purpose="train")]
    (bad,) = loader.bad_samples
    assert bad == BadSample(
        sample=SAMPLE,
        source="video5.mp4",
        file=str(copy.folder / "shard-000001.tar"),
        reason="it does not decode",
        replacement=ids[0],
    )
    assert caplog.text.count(f"sample {SAMPLE} (video5.mp4) in {bad.file} cannot be used: it does not decode") == 1
    assert f"using sample {ids[0]} instead" in caplog.text


def test_bad_samples_count_when_their_batch_is_yielded(copy) -> None:
    copy = copy()
    loader = copy.loader(prefetch=4)
    copy.damage(spoil_payload)
    batches = loader.clips([0, 1, 2, 3, SAMPLE, 6, 7, 8], epoch=0, purpose="train")
    next(batches)
    assert len(loader.bad_samples) == 0
    next(batches)
    assert len(loader.bad_samples) == 1


def test_the_first_bad_sample_ends_a_run_that_allows_none(copy) -> None:
    copy = copy()
    loader = copy.loader(limit=0.0)
    copy.damage(spoil_payload)
    with pytest.raises(TooManyBadSamples, match=r"1 of 10 samples .*max_bad_fraction=0 allows 0"):
        list(loader.clips(IDS, epoch=0, purpose="train"))


def test_a_missing_shard_is_reported_once_with_all_its_samples(copy) -> None:
    copy = copy()
    loader = copy.loader(limit=0.3)
    copy.damage(remove_shard)
    with pytest.raises(TooManyBadSamples) as raised:
        list(loader.clips(IDS, epoch=0, purpose="train"))
    text = str(raised.value)
    assert text.startswith("4 of 10 samples cannot be read or decoded, and data.max_bad_fraction=0.3 allows 3:")
    assert text.count("shard-000001.tar: it cannot be opened (No such file or directory)") == 1
    assert "4 (video4.mp4), 5 (video5.mp4), 6 (video6.mp4), 7 (video7.mp4)" in text
    assert "prepare the data again" in text


def test_the_search_for_a_replacement_ends_if_nothing_can_be_read(copy) -> None:
    copy = copy()
    loader = copy.loader(limit=1.0)
    shutil.rmtree(copy.folder)
    with pytest.raises(SampleError, match=r"none of 64 samples drawn in place of sample 0 can be read:\n.*shard-0000"):
        list(loader.clips(IDS, epoch=0, purpose="train"))


def test_a_sample_on_a_failing_disk_is_bad(copy, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = copy().loader()
    shard = int(loader.dataset.shard[SAMPLE])
    preadv = os.preadv

    def failing(descriptor, buffers, offset, *flags):
        if descriptor == loader._reader.files._open._files[shard].descriptor:
            raise OSError(5, "Input/output error")
        return preadv(descriptor, buffers, offset, *flags)

    monkeypatch.setattr("os.preadv", failing)
    (batch,) = loader.clips([SAMPLE], epoch=0, purpose="train")
    assert loader.dataset.shard[int(batch.ids[0])] != shard
    assert next(iter(loader.bad_samples)).reason == "it cannot be read (Input/output error)"


def test_with_shuffled_pairs_the_sample_of_the_bad_audio_is_named(copy) -> None:
    copy = copy()
    loader = copy.loader(shuffle_pairs=True)
    wanted = int(np.flatnonzero(loader.planner.partners(loader.ids, 0) == 9)[0])
    manifest = loader.dataset
    with (copy.folder / manifest.shards[manifest.shard[9]]).open("r+b") as file:
        file.truncate(int(manifest.audio_offset[9]))
    (batch,) = loader.clips([wanted], epoch=0, purpose="train")
    assert batch.ids.tolist() != [wanted]
    assert [one.sample for one in loader.bad_samples] == [9]


def test_both_loaders_draw_the_same_replacements(copy, corpus, tmp_path: Path) -> None:
    copy = copy()
    shards = copy.loader()
    copy.damage(spoil_payload)
    shutil.copytree(corpus.raw, tmp_path / "raw")
    data = {"path": str(tmp_path / "raw"), "max_bad_fraction": 0.5}
    raw = make_loader(corpus.config("decord", data=data))
    (tmp_path / "raw" / "video5.mp4").write_bytes(b"replaced after the scan")
    ids = [
        [batch.ids.tolist() for epoch in range(2) for batch in loader.clips([4, SAMPLE], epoch=epoch, purpose="train")]
        for loader in (shards, raw)
    ]
    assert ids[0] == ids[1]
    (bad,) = raw.bad_samples
    assert (bad.sample, bad.reason) == (SAMPLE, "decord cannot decode the video")


def bad(sample: int, reason: str = "it is gone") -> BadSample:
    return BadSample(sample=sample, source=f"{sample}.mp4", file="a.tar", reason=reason, replacement=0)


def share(ranks: list[BadSamples]) -> list[bool]:
    everyone = [one.state()[len(one) - one._unshared :] for one in ranks]
    return [one.share(any_rank=lambda _: any(everyone), gather=lambda _: everyone) for one in ranks]


def test_ranks_merge_their_bad_samples_and_stop_together() -> None:
    ranks = [BadSamples(samples=100, max_fraction=0.04) for _ in range(2)]
    ranks[0].note([bad(1), bad(2)])
    ranks[1].note([bad(2), bad(3)])
    assert share(ranks) == [True, True]
    assert [len(one) for one in ranks] == [3, 3]
    assert share(ranks) == [False, False]
    ranks[0].note([bad(4)])
    ranks[1].note([bad(5)])
    everyone = [[one.state()[-1]] for one in ranks]
    for one in ranks:
        with pytest.raises(TooManyBadSamples, match=r"5 of 100 samples"):
            one.share(any_rank=lambda _: True, gather=lambda _: everyone)


def test_the_list_survives_a_checkpoint_and_is_written_to_a_file(tmp_path: Path) -> None:
    one, other = (BadSamples(samples=10, max_fraction=1.0) for _ in range(2))
    one.note([bad(7), bad(3), bad(7)])
    other.restore(one.state())
    assert list(other) == list(one)
    other.write(tmp_path / "bad_samples.jsonl")
    lines = (tmp_path / "bad_samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["sample"] for line in lines] == [7, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["bad_samples.jsonl"]


def test_a_long_list_is_shortened_in_the_message() -> None:
    known = BadSamples(samples=1000, max_fraction=0.0)
    with pytest.raises(TooManyBadSamples) as raised:
        known.note([bad(i, reason=f"reason {i % 30}") for i in range(900)])
    assert len(str(raised.value).splitlines()) == 23
    assert "and 10 more like these" in str(raised.value)
    assert "and 10 more\n" in str(raised.value)
