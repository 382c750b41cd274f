"""Audio augmentation: every loader and both decoders give the same, and it is what torchaudio defines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.batch import Batch
from pipeline.load import sets
from pipeline.load.clip_loader import ClipLoader
from pipeline.load.gpu_decoder import GpuDecoder
from pipeline.load.log_mel import LogMel
from pipeline.loader import make_loader
from pipeline.plan.batch_plan import BatchPlan
from pipeline.plan.selection import Selection
from settings import Config, ConfigError
from tests.pretend_gpu import GpuTensor, PretendGpu

EVERYTHING = {
    "shift_seconds": 0.5,
    "mix": 0.5,
    "gain_db": 12.0,
    "time_masks": 2,
    "time_mask_frames": 30,
    "frequency_masks": 1,
    "frequency_mask_bands": 12,
}
IDS = np.arange(1, 10)


def config_of(corpus, backend: str = "dali-vp9", **settings: object) -> Config:
    return corpus.config(backend, audio_augment=settings or EVERYTHING)


def audio_of(loader: ClipLoader, ids: np.ndarray = IDS) -> torch.Tensor:
    return torch.cat([batch.audio for batch in loader.clips(ids, epoch=3, purpose="train")])


def stored_pcm(loader: ClipLoader, i: int) -> np.ndarray:
    manifest = loader.dataset
    shard = manifest.root / manifest.shards[manifest.shard[i]]
    return np.fromfile(shard, "<i2", count=int(manifest.audio_samples[i]), offset=int(manifest.audio_offset[i]))


def window(loader: ClipLoader, i: int, start: int) -> torch.Tensor:
    """The stored audio of sample `i` from PCM sample `start`, float64 in [-1, 1], silent after its end."""
    found = torch.zeros(loader.config.audio_samples, dtype=torch.float64)
    part = stored_pcm(loader, i)[start:][: len(found)]
    found[: len(part)] = torch.from_numpy(part / 32768)
    return found


@pytest.mark.parametrize("backend", ["dali-vp9", "dali-jpeg"])
def test_augmented_spectrograms_are_those_of_torchaudio(corpus, backend: str) -> None:
    loader = make_loader(config_of(corpus, backend))
    found = audio_of(loader)
    plan = loader.planner.train(IDS, epoch=3, purpose="train")
    for b, i in enumerate(IDS):
        mixed, share = plan.audio.mixed_ids[b], plan.audio.mixed_share[b]
        assert mixed != i
        own = window(loader, i, plan.audio_start[b])
        other = window(loader, mixed, plan.audio.mixed_start[b])
        wave = plan.audio.gain[b] * ((1 - share) * own + share * other)
        expected = LogMel(loader.config.audio)(wave.float())
        masked = torch.zeros_like(expected, dtype=torch.bool)
        for first, end in plan.audio.time_masks[b]:
            masked[:, first:end] = True
        for first, end in plan.audio.frequency_masks[b]:
            masked[first:end] = True
        assert not found[b, 0][masked].any()
        difference = (found[b, 0] - expected)[~masked].abs() * loader.config.audio.std_db
        assert difference.max() < 0.1


def test_the_reference_loader_gives_nearly_the_same(corpus) -> None:
    ours, theirs = (audio_of(make_loader(config_of(corpus, backend))) for backend in ("dali-vp9", "decord"))
    assert torch.equal(ours == 0, theirs == 0)  # the masks
    assert 25 * (ours - theirs).abs().mean() < 1.0


def test_the_graph_for_gpus_gives_the_same(corpus) -> None:
    # Only the audio: the video has its own test.
    loader = make_loader(config_of(corpus))
    batches = list(loader.clips(IDS, epoch=3, purpose="train"))
    test = next(loader.uniform_clips(IDS[:4], clips=1))  # 16-bit PCM in the same graph
    decoder = GpuDecoder(
        config=loader.config, dataset=loader.dataset, stride=loader.planner.stride, device=torch.device("cpu"), batch=4
    )
    for expected in (*batches, test):
        item = loader._read(BatchPlan(expected.plan))
        item.video = None
        decoder.submit(item)
        found = decoder.result(item).audio
        assert torch.equal(found == 0, expected.audio == 0)
        assert 25 * (found - expected.audio).abs().max() < 0.1


def test_masks_on_a_gpu_are_set_there_without_waiting(corpus) -> None:
    loader = make_loader(config_of(corpus))
    plan = loader.planner.train(IDS, epoch=3, purpose="train")
    spectrograms = torch.randn(len(IDS), 1, loader.config.audio.n_mels, loader.config.audio_frames)
    expected = Batch.of_plan(plan, video=None, audio=spectrograms.clone()).audio
    with PretendGpu() as pretended:
        found = Batch.of_plan(plan, video=None, audio=spectrograms.as_subclass(GpuTensor)).audio
        assert found.is_cuda
    assert pretended.waits == []
    assert torch.equal(found.as_subclass(torch.Tensor), expected)
    assert (expected == 0).any()


def test_a_gain_adds_its_decibels_above_the_floor_and_leaves_silence_silent(corpus) -> None:
    plain, loud = make_loader(corpus.config("dali-vp9")), make_loader(config_of(corpus, gain_db=40.0))
    before, after = audio_of(plain, np.arange(10)), audio_of(loud, np.arange(10))
    gain = 20 * np.log10(loud.planner.train(np.arange(10), epoch=3, purpose="train").audio.gain)
    config = plain.config.audio
    floor = (-100 - config.mean_db) / config.std_db
    expected = (before + torch.from_numpy(gain / config.std_db).float().view(-1, 1, 1, 1)).clamp_min(floor)
    heard = before > floor + 1e-4  # what lies on the floor is not known
    assert 25 * (after - expected)[heard].abs().max() < 0.05
    # Sample 0 is shorter than a clip: the end of its window is digital silence, which no gain makes audible.
    assert (before[0, 0, :, -1] == floor).all()
    assert torch.equal(after[0, 0, :, -1], before[0, 0, :, -1])


@pytest.mark.parametrize("backend", ["dali-vp9", "decord"])
def test_augmented_clips_do_not_depend_on_batch_size_or_rank(corpus, backend: str) -> None:
    config = config_of(corpus, backend)
    batches = list(make_loader(config).epoch(1))
    shares = zip(*(make_loader(config, rank=rank, world_size=2).epoch(1) for rank in range(2)), strict=True)
    for batch, parts in zip(batches, shares, strict=True):
        assert torch.equal(torch.cat([part.audio for part in parts]), batch.audio)
    alone = make_loader(config, batch_size=1)
    for batch in batches:
        for b, i in enumerate(batch.ids.tolist()):
            (one,) = alone.clips([i], epoch=1, purpose="train")
            assert torch.equal(one.audio[0], batch.audio[b])


def test_test_clips_and_settings_for_evaluation_are_not_augmented(corpus) -> None:
    plain = next(make_loader(corpus.config("dali-vp9")).uniform_clips(IDS[:4], clips=1))
    assert torch.equal(next(make_loader(config_of(corpus)).uniform_clips(IDS[:4], clips=1)).audio, plain.audio)
    trained = replace(config_of(corpus), clip=replace(config_of(corpus).clip, per_sample=2))
    assert trained.for_evaluation() == corpus.config("dali-vp9")


def test_mixing_needs_another_sample(corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "select_split", lambda *_, **__: Selection(1))
    with pytest.raises(ConfigError, match=r"audio_augment.mix needs at least two samples, but .* has 1"):
        make_loader(config_of(corpus, mix=0.2), batch_size=1)
