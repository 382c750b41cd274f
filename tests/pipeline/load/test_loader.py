"""The contract of the loaders, tested for both backends."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.batch import Batch
from pipeline.load.clip_loader import ClipLoader
from pipeline.loader import make_loader
from pipeline.plan.clips import ClipPlan
from pipeline.shards.reader import ShardError
from settings import Config, to_yaml
from settings.errors import ConfigError

BACKENDS = ["dali-vp9", "dali-jpeg", "decord"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def loader(corpus, backend) -> ClipLoader:
    return make_loader(corpus.config(backend))


def by_id(batches: list[Batch]) -> dict[int, tuple[torch.Tensor, torch.Tensor, float]]:
    return {
        int(batch.ids[b]): (batch.video[b], batch.audio[b], float(batch.start[b]))
        for batch in batches
        for b in range(len(batch.ids))
    }


def assert_same_clips(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for i in a:
        assert torch.equal(a[i][0], b[i][0]), f"video of sample {i}"
        assert torch.equal(a[i][1], b[i][1]), f"audio of sample {i}"
        assert a[i][2] == b[i][2]


def assert_same_batches(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert all(torch.equal(s, t) for s, t in zip(x[:4], y[:4], strict=True))


def test_batches_have_the_documented_shapes_and_types(loader: ClipLoader) -> None:
    config = loader.config
    batches = list(loader.epoch(0))
    assert len(loader) == len(batches) == 2
    assert loader.ids.tolist() == list(range(10))
    for batch in batches:
        assert batch.video.shape == (4, 3, 8, 48, 48)
        assert batch.audio.shape == (4, 1, config.audio.n_mels, config.audio_frames)
        assert batch.video.dtype == batch.audio.dtype == torch.float32
        assert batch.ids.dtype == torch.int64
        assert batch.start.dtype == torch.float64
        assert batch.video.is_contiguous(memory_format=torch.channels_last_3d)
        assert batch.video.isfinite().all()
        assert batch.audio.isfinite().all()


def test_an_epoch_repeats_exactly_and_the_next_one_differs(corpus, backend) -> None:
    loader = make_loader(corpus.config(backend))
    first = list(loader.epoch(0))
    assert_same_batches(first, list(loader.epoch(0)))
    assert_same_batches(first, list(make_loader(corpus.config(backend)).epoch(0)))
    later, before = by_id(list(loader.epoch(1))), by_id(first)
    shared = later.keys() & before.keys()
    assert not any(torch.equal(later[i][0], before[i][0]) for i in shared)


def test_starting_at_a_step_equals_advancing_to_it(loader: ClipLoader) -> None:
    assert_same_batches(list(loader.epoch(3))[1:], list(loader.epoch(3, start_step=1)))
    assert list(loader.epoch(3, start_step=2)) == []


def test_steps_continue_across_epochs(loader: ClipLoader) -> None:
    expected = [*loader.epoch(0, start_step=1), *loader.epoch(1), *loader.epoch(2, start_step=0)][:4]
    assert len(loader) == 2
    assert_same_batches(expected, list(loader.steps(1, 5)))
    assert list(loader.steps(5, 5)) == []


def test_an_iterator_abandoned_at_exit_prints_nothing(corpus, backend, tmp_path) -> None:
    (tmp_path / "config.yaml").write_text(to_yaml(corpus.config(backend)))
    script = """
import sys
from pathlib import Path
from settings import Config, load_config
from pipeline.loader import make_loader
if __name__ == "__main__":
    batches = make_loader(load_config(Config, Path(sys.argv[1]), [])).steps(0, 100)
    print(len(next(batches).ids))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "config.yaml"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")


def test_a_samples_tensors_do_not_depend_on_batch_size_threads_or_prefetch(corpus, backend) -> None:
    reference = by_id(list(make_loader(corpus.config(backend)).clips(np.arange(10), epoch=1, purpose="pool")))
    other = corpus.config(backend, train={"batch_size": 3}, data={"threads": 2, "prefetch": 1})
    assert_same_clips(reference, by_id(list(make_loader(other).clips(np.arange(9, -1, -1), epoch=1, purpose="pool"))))


def test_ranks_share_the_global_batches_of_one_process(corpus, backend) -> None:
    config = corpus.config(backend)
    alone = list(make_loader(config).epoch(0))
    ranks = [make_loader(config, rank=rank, world_size=2) for rank in range(2)]
    assert {len(loader) for loader in ranks} == {2}
    shares = [list(loader.epoch(0)) for loader in ranks]
    for step, batch in enumerate(alone):
        assert torch.equal(torch.cat([share[step].ids for share in shares]), batch.ids)
        assert torch.equal(torch.cat([share[step].video for share in shares]), batch.video)
        assert torch.equal(torch.cat([share[step].audio for share in shares]), batch.audio)


def test_the_receiver_may_modify_the_tensors(loader: ClipLoader) -> None:
    ids = np.tile(np.arange(10), 3)
    kept, copies = [], []
    for batch in loader.clips(ids, epoch=0, purpose="pool"):
        kept.append(batch)
        copies.append(Batch(*(tensor.clone() for tensor in batch[:4])))
    assert_same_batches(kept, copies)
    for batch in kept:
        batch.video.zero_()
    assert_same_batches(copies, list(loader.clips(ids, epoch=0, purpose="pool")))
    del loader
    gc.collect()
    assert_same_batches([Batch(batch.video.zero_(), *batch[1:]) for batch in copies], kept)


def test_an_iterator_may_be_abandoned_midway(loader: ClipLoader) -> None:
    expected = list(loader.clips(np.arange(10), epoch=0, purpose="pool"))
    for _ in range(3):
        iterator = loader.clips(np.arange(10), epoch=5, purpose="pool")
        next(iterator)
        del iterator
    assert_same_batches(expected, list(loader.clips(np.arange(10), epoch=0, purpose="pool")))


def test_iterators_may_be_interleaved(loader: ClipLoader) -> None:
    training, test = loader.epoch(0), loader.uniform_clips(np.arange(10), clips=1)
    expected = list(loader.epoch(0)), list(loader.uniform_clips(np.arange(10), clips=1))
    turns = [next(training), next(test), next(test), next(training), next(test)]
    assert_same_batches([turns[0], turns[3]], expected[0])
    assert_same_batches([turns[1], turns[2], turns[4]], expected[1])


def test_two_loaders_may_be_used_at_once(corpus, backend) -> None:
    loaders = [make_loader(corpus.config(backend)), make_loader(corpus.config(backend, train={"batch_size": 2}))]
    expected = [list(loader.epoch(0)) for loader in loaders]
    iterators = [loader.epoch(0) for loader in loaders]
    mixed: list[list[Batch]] = [[], []]
    for turn in (0, 1, 1, 1, 0, 1):
        mixed[turn].append(next(iterators[turn]))
    assert_same_batches(mixed[0], expected[0])
    assert_same_batches(mixed[1], expected[1][:4])


def test_clips_keep_the_order_of_the_ids_and_differ_between_purposes(loader: ClipLoader) -> None:
    ids = torch.tensor([9, 2, 2, 5, 1, 3])
    pool = list(loader.clips(ids, epoch=0, purpose="pool"))
    assert [len(batch.ids) for batch in pool] == [4, 2]
    assert torch.equal(torch.cat([batch.ids for batch in pool]), ids)
    assert torch.equal(pool[0].video[1], pool[0].video[2])
    other = list(loader.clips(ids, epoch=0, purpose="probe"))
    assert not torch.equal(pool[0].video, other[0].video)
    assert list(loader.clips(ids[:0], epoch=0, purpose="pool")) == []


def test_uniform_clips_are_ordered_by_sample_and_then_by_time(loader: ClipLoader) -> None:
    ids = [4, 0, 7]
    batches = list(loader.uniform_clips(ids, clips=3))
    assert [len(batch.ids) for batch in batches] == [4, 4, 1]
    assert torch.cat([batch.ids for batch in batches]).tolist() == [4, 4, 4, 0, 0, 0, 7, 7, 7]
    start = torch.cat([batch.start for batch in batches]).view(3, 3)
    frames = torch.from_numpy(np.asarray(loader.dataset.frames)[ids])
    assert (start[:, 0] == 0).all()
    assert torch.allclose(start[:, 2], (frames - 8).clamp(min=0).double() / 10)
    with pytest.raises(ValueError, match="clips must be at least 1"):
        loader.uniform_clips(ids, clips=0)


def test_a_clip_of_a_short_sample_repeats_its_last_frame_and_ends_in_silence(loader: ClipLoader) -> None:
    (batch,) = loader.uniform_clips([0], clips=1)
    frames = int(loader.dataset.frames[0])
    assert frames == 6
    shown = batch.video[0].transpose(0, 1)
    assert not torch.equal(shown[frames - 2], shown[frames - 1])
    assert all(torch.equal(shown[frames - 1], later) for later in shown[frames:])
    silence = (-100 - loader.config.audio.mean_db) / loader.config.audio.std_db
    assert torch.allclose(batch.audio[0, 0, :, -15:], torch.tensor(silence))
    assert (batch.audio[0, 0, :, :50] > silence + 1).any()


def test_training_uses_only_the_selected_split(corpus, backend) -> None:
    loader = make_loader(corpus.config(backend, data={"split": "test"}, train={"batch_size": 2}))
    assert loader.ids.tolist() == [8, 9]
    assert sorted(torch.cat([batch.ids for batch in loader.epoch(0)]).tolist()) == [8, 9]
    assert loader.dataset.label_names("kind") == ["k0", "k1", "k2"]
    assert loader.dataset.labels("kind").tolist() == [i % 3 for i in range(10)]
    with pytest.raises(ConfigError, match=r"data.split='tset' .*did you mean test\? .*test, train"):
        make_loader(corpus.config(backend, data={"split": "tset"}))


def test_shuffled_pairs_combine_a_video_with_another_samples_audio(corpus, backend) -> None:
    plain = by_id(list(make_loader(corpus.config(backend)).clips(range(10), epoch=0, purpose="train")))
    config = corpus.config(backend, data={"shuffle_pairs": True})
    loader = make_loader(config)
    shuffled = by_id(list(loader.clips(range(10), epoch=0, purpose="train")))
    for i in range(10):
        assert torch.equal(plain[i][0], shuffled[i][0])
        assert not torch.equal(plain[i][1], shuffled[i][1])
    again = make_loader(config).clips(range(10), epoch=1, purpose="train")
    assert not any(torch.equal(clip[1], plain[i][1]) for i, clip in by_id(list(again)).items())
    true_pairs = make_loader(corpus.config(backend)).uniform_clips(range(10), clips=1)
    assert_same_batches(list(true_pairs), list(loader.uniform_clips(range(10), clips=1)))


def test_order_shards_visits_each_sample_once(corpus, backend) -> None:
    config = corpus.config(backend, data={"order": "shards", "window": 2}, train={"batch_size": 5})
    loader = make_loader(config)
    ids = torch.cat([batch.ids for batch in loader.epoch(0)])
    assert sorted(ids.tolist()) == list(range(10))
    if backend != "decord":
        shards = loader.dataset.shard[ids.numpy()]
        assert np.count_nonzero(np.diff(shards)) <= 6


def test_impossible_settings_are_refused(corpus, backend) -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size=11 is larger than the data set, which has 10 samples"):
        make_loader(corpus.config(backend, train={"batch_size": 11})).epoch(0)
    with pytest.raises(ConfigError, match=r"train.batch_size=4 must be a multiple of the number of processes"):
        make_loader(corpus.config(backend), rank=0, world_size=3)
    with pytest.raises(ValueError, match="id 10 is not in the data set, which has 10 samples"):
        make_loader(corpus.config(backend)).clips([10], epoch=0, purpose="pool")
    with pytest.raises(ConfigError, match=r"data.loader='dally' is not known; did you mean dali"):
        make_loader(corpus.config(backend, data={"loader": "dally"}))


def test_the_batch_size_argument_overrides_the_setting(corpus, backend) -> None:
    config = corpus.config(backend)
    loader = make_loader(config, batch_size=1)
    assert (loader.batch_size, len(loader)) == (1, 10)
    (batch,) = loader.clips([7], epoch=0, purpose="train")
    assert_same_batches([batch], list(make_loader(config).clips([7], epoch=0, purpose="train")))


def test_a_batch_carries_its_plan_and_a_plan_can_be_carried_out(loader: ClipLoader) -> None:
    batches = list(loader.clips([3, 1, 4, 1, 5], epoch=2, purpose="pool"))
    plan = loader.planner.train(np.array([3, 1, 4, 1, 5]), epoch=2, purpose="pool")
    assert plan.audio is None
    for name, expected in vars(plan).items():
        if name == "audio":
            continue
        assert np.array_equal(np.concatenate([getattr(batch.plan, name) for batch in batches]), expected), name
    assert_same_batches(batches, list(loader.carry_out(plan)))


def per_sample(corpus, backend: str, clips: int, **sections: dict[str, object]) -> Config:
    return corpus.config(backend, **{**sections, "clip": {"per_sample": clips}})


def test_several_clips_of_a_sample_differ_and_the_first_is_that_of_a_run_with_one(corpus, backend) -> None:
    ones = by_id(list(make_loader(corpus.config(backend)).clips(range(10), epoch=2, purpose="train")))
    loader = make_loader(per_sample(corpus, backend, 2))
    assert len(loader) == 5  # 10 samples, of which a batch of 4 clips holds 2
    batches = list(loader.epoch(2))
    assert_same_batches(batches, list(make_loader(per_sample(corpus, backend, 2)).epoch(2)))
    assert sorted(int(i) for batch in batches for i in batch.ids[::2]) == list(range(10))
    for batch in batches:
        assert torch.equal(batch.ids[::2], batch.ids[1::2])
        assert batch.plan.number.tolist() == [0, 1, 0, 1]
        assert_same_clips(
            by_id([Batch(*(column[::2] for column in batch[:4]))]), {int(i): ones[int(i)] for i in batch.ids}
        )
        assert (batch.video[::2] != batch.video[1::2]).flatten(1).any(dim=1).all()
        longer = batch.ids[::2] != 0  # sample 0 is shorter than a clip
        assert (batch.start[::2] != batch.start[1::2])[longer].float().mean() > 0.5 or not longer.any()


def test_the_clips_of_a_sample_are_on_one_rank(corpus) -> None:
    config = per_sample(corpus, "dali-vp9", 2)
    alone = list(make_loader(config).epoch(1))
    ranks = [list(make_loader(config, rank=rank, world_size=2).epoch(1)) for rank in range(2)]
    for batch, *parts in zip(alone, *ranks, strict=True):
        joined = [torch.cat(columns) for columns in zip(*(part[:4] for part in parts), strict=True)]
        assert_same_batches([batch], [Batch(*joined)])
        assert all(len(set(part.ids.tolist())) == 1 for part in parts)
    assert_same_batches(alone[3:], list(make_loader(config).epoch(1, start_step=3)))
    message = r"batch_size=4 must be a multiple of clip.per_sample=4 times the number of processes, which is 2"
    with pytest.raises(ConfigError, match=message):
        make_loader(per_sample(corpus, "dali-vp9", 4), world_size=2)


def test_several_clips_of_any_samples(corpus) -> None:
    loader = make_loader(per_sample(corpus, "dali-vp9", 2))
    batches = list(loader.clips([7, 3, 5], epoch=0, purpose="pool", per_sample=2))
    assert [batch.ids.tolist() for batch in batches] == [[7, 7, 3, 3], [5, 5]]
    ones = list(loader.clips([7, 3, 5], epoch=0, purpose="pool"))
    assert [batch.ids.tolist() for batch in ones] == [[7, 3, 5]]
    assert torch.equal(ones[0].video[0], batches[0].video[0])
    with pytest.raises(ValueError, match="batches of 4 clips do not hold 3 clips of each sample"):
        loader.clips([7], epoch=0, purpose="pool", per_sample=3)


def test_several_clips_of_mismatched_pairs_have_the_audio_of_one_other_sample(corpus) -> None:
    loader = make_loader(per_sample(corpus, "dali-vp9", 2, data={"shuffle_pairs": True}))
    plans = [batch.plan for batch in loader.epoch(0)]
    ids, audio_ids, start = (
        np.concatenate([getattr(p, name) for p in plans]) for name in ("ids", "audio_ids", "audio_start")
    )
    assert not (ids == audio_ids).any()
    assert np.array_equal(audio_ids[::2], audio_ids[1::2])
    assert (start[::2] != start[1::2]).mean() > 0.5


def test_the_clips_of_a_bad_sample_are_replaced_by_different_clips_of_one_other(corpus) -> None:
    loader = make_loader(per_sample(corpus, "dali-vp9", 2, data={"max_bad_fraction": 0.5}))
    read = loader._reader.pcm

    def refuse(plan: ClipPlan) -> np.ndarray:
        if 4 in plan.ids:
            raise ShardError("sample 4 is damaged", sample=4, file="shard", reason="damaged")
        return read(plan)

    loader._reader.pcm = refuse
    (batch,) = loader.clips([4, 2], epoch=0, purpose="train", per_sample=2)
    other = int(batch.ids[0])
    assert batch.ids.tolist() == [other, other, 2, 2]
    assert other != 4
    assert batch.plan.number.tolist() == [0, 1, 0, 1]
    (expected,) = loader.clips([other], epoch=0, purpose="train", per_sample=2)
    assert torch.equal(batch.video[:2], expected.video)
    assert [bad.sample for bad in loader.bad_samples] == [4]
