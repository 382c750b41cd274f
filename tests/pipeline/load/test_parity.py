"""Compares the DALI loader with independent implementations: torchaudio, PyAV with torch, and the decord loader."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from pipeline.batch import VIDEO_MEAN, VIDEO_STD, Batch
from pipeline.load import dali_graph
from pipeline.load.clip_loader import ClipLoader
from pipeline.load.cpu_threads import SingleThreadTorchPool
from pipeline.load.dali_runner import GraphRunner, as_tensor
from pipeline.load.log_mel import LogMel, LogMelRunner
from pipeline.loader import make_loader
from pipeline.shards.codecs import jpeg
from settings import AudioConfig, Config


def assert_log_mel_agrees_with_torchaudio(loader: ClipLoader, ids: np.ndarray) -> None:
    """Asserts agreement to 0.01 dB, except in bands 80 dB below a clip's loudest, which hold FFT rounding errors.

    There it asserts 0.1 dB: torchaudio's own results change by 0.03 dB if it computes in double precision.
    """
    config, manifest = loader.config, loader.dataset
    audio = config.audio
    reference = LogMel(audio)
    worst_audible, worst = 0.0, 0.0
    for batch in loader.clips(ids, epoch=0, purpose="train"):
        plan = loader.planner.train(batch.ids.numpy(), epoch=0, purpose="train")
        for b, i in enumerate(batch.ids.tolist()):
            shard = manifest.root / manifest.shards[manifest.shard[i]]
            pcm = np.fromfile(shard, "<i2", count=int(manifest.audio_samples[i]), offset=int(manifest.audio_offset[i]))
            window = np.zeros(config.audio_samples, dtype=np.float32)
            part = pcm[plan.audio_start[b] :][: len(window)]
            window[: len(part)] = part / np.float32(32768)
            expected = reference.decibels(reference.mel(torch.from_numpy(window)))
            ours = batch.audio[b, 0] * audio.std_db + audio.mean_db
            assert ours.shape == expected.shape
            difference = (ours - expected).abs()
            worst = max(worst, float(difference.max()))
            worst_audible = max(worst_audible, float(difference[expected > expected.max() - 80].max()))
    assert worst_audible < 0.01
    assert worst < 0.1


def stored_frames(loader: ClipLoader, i: int) -> np.ndarray:
    """All frames of a stored video by PyAV, uint8 [frames, H, W, 3]."""
    manifest = loader.dataset
    offsets = manifest.frame_offsets[manifest.frame_start[i] : manifest.frame_start[i + 1]].astype(int)
    begin = int(manifest.video_offset[i])
    data = (manifest.root / manifest.shards[manifest.shard[i]]).read_bytes()[begin : begin + offsets[-1]]
    if manifest.storage.codec == "vp9":
        with av.open(io.BytesIO(data)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.thread_count = 1
    packets = [av.Packet(data[b:e]) for b, e in itertools.pairwise(offsets)]
    return np.stack([decoder.decode(packet)[0].to_ndarray(format="rgb24") for packet in packets])


def assert_video_agrees_with_pyav(loader: ClipLoader, ids: np.ndarray) -> None:
    clip = loader.config.clip
    std = torch.tensor(VIDEO_STD).view(3, 1, 1, 1)
    for batch in loader.clips(ids, epoch=0, purpose="train"):
        plan = loader.planner.train(batch.ids.numpy(), epoch=0, purpose="train")
        for b, i in enumerate(batch.ids.tolist()):
            frames = stored_frames(loader, i)
            assert len(frames) == loader.dataset.frames[i]
            wanted = plan.start_frame[b] + np.arange(clip.frames) * loader.planner.stride
            top, left, height, width = plan.window[b]
            window = frames[wanted.clip(max=len(frames) - 1), top : top + height, left : left + width]
            pictures = interpolate(
                torch.from_numpy(window).permute(0, 3, 1, 2).float() / 255,
                size=(clip.size, clip.size),
                mode="bilinear",
                antialias=True,
            ).transpose(0, 1)
            if plan.flip[b]:
                pictures = pictures.flip(-1)
            color = torch.from_numpy(plan.color[b]).float()
            pictures = torch.einsum("dc,cthw->dthw", color[:, :3], pictures) + color[:, 3].view(3, 1, 1, 1)
            ours = batch.video[b] * std + torch.tensor(VIDEO_MEAN).view(3, 1, 1, 1)
            assert 255 * float((ours - pictures).abs().mean()) < 2, f"sample {i}"


@pytest.mark.parametrize("window", [400, 512])
def test_log_mel_agrees_with_torchaudio(corpus, window: int) -> None:
    loader = make_loader(corpus.config("dali-vp9", audio={"window": window, "seconds": 1.0}))
    assert_log_mel_agrees_with_torchaudio(loader, np.arange(10))


def both_ways(config: Config, pcm: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectrograms from the graph for GPUs (run here on a CPU) and from `LogMelRunner`."""
    dali = GraphRunner(
        lambda: dali_graph.audio_graph(config=config, device=torch.device("cpu"), threads=1, batch=len(pcm)),
        depth=2,
        convert=as_tensor,
    )
    runner = LogMelRunner(audio=config.audio, threads=SingleThreadTorchPool(2))
    return dali.result(dali.submit({"pcm": pcm})), runner.result(runner.submit({"pcm": pcm}))


@pytest.mark.parametrize("window", [400, 512])
def test_the_log_mel_graph_for_gpus_agrees_with_the_runner_for_cpus(corpus, window: int) -> None:
    config = corpus.config("dali-vp9", audio={"window": window, "seconds": 1.0})
    # Three quiet tones in noise, and silence.
    tone = 600 * np.sin(np.arange(16000) / 9) + np.random.default_rng(0).normal(0, 30, (3, 16000))
    pcm = np.concatenate([tone, np.zeros((1, 16000))]).astype("<i2")
    on_gpu, on_cpu = both_ways(config, pcm)
    assert on_gpu.shape == on_cpu.shape == (4, config.audio.n_mels, 101)
    assert config.audio.std_db * float((on_gpu - on_cpu).abs().max()) < 0.1
    reference = LogMel(config.audio)(torch.from_numpy(pcm) / 32768)
    assert config.audio.std_db * float((on_cpu - reference).abs().max()) < 0.001


@pytest.mark.parametrize(("samples", "n_fft"), [(100, 512), (160, 512), (256, 512), (4000, 511)])
def test_log_mel_of_short_audio_and_odd_fft_sizes_agrees_too(corpus, samples: int, n_fft: int) -> None:
    config = corpus.config("dali-vp9", audio={"n_fft": n_fft})
    pcm = np.random.default_rng(0).normal(0, 3000, (2, samples)).astype("<i2")
    on_gpu, on_cpu = both_ways(config, pcm)
    assert on_gpu.shape == on_cpu.shape == (2, config.audio.n_mels, 1 + samples // config.audio.hop)
    assert config.audio.std_db * float((on_gpu - on_cpu).abs().max()) < 0.1


def test_a_spectrogram_does_not_depend_on_its_batch_or_the_threads() -> None:
    pcm = np.random.default_rng(0).normal(0, 3000, (7, 8000)).astype("<i2")
    many, one = (LogMelRunner(audio=AudioConfig(), threads=SingleThreadTorchPool(count)) for count in (3, 1))
    together = many.result(many.submit({"pcm": pcm}))
    assert torch.equal(together, one.result(one.submit({"pcm": pcm})))
    for b in range(len(pcm)):
        assert torch.equal(together[b : b + 1], one.result(one.submit({"pcm": pcm[b : b + 1]})))


@pytest.mark.parametrize("backend", ["dali-vp9", "dali-jpeg"])
@pytest.mark.parametrize("hue", [0.0, 30.0])
def test_video_agrees_with_pyav_and_torch(corpus, backend: str, hue: float) -> None:
    assert_video_agrees_with_pyav(make_loader(corpus.config(backend, augment={"hue": hue})), np.arange(10))


@pytest.mark.parametrize("codec", ["vp9", "jpeg"])
def test_real_clips_agree_too(corpus, prepared, real_data: Path, codec: str, tmp_path: Path) -> None:
    for source in sorted((real_data / "videos" / "vggsound_clips").glob("*.mp4"))[:8]:
        (tmp_path / source.name).symlink_to(source)
    path = prepared(tmp_path, storage={"codec": codec})
    loader = make_loader(corpus.config(f"dali-{codec}", data={"path": str(path)}, clip={"frames": 16, "size": 112}))
    assert_log_mel_agrees_with_torchaudio(loader, np.arange(8))
    assert_video_agrees_with_pyav(loader, np.arange(8))


@pytest.mark.parametrize("spared", [-1, 10_000], ids=["crops", "complete rows"])
def test_partially_decoded_jpegs_agree_with_pyav(corpus, monkeypatch: pytest.MonkeyPatch, spared: int) -> None:
    monkeypatch.setattr(jpeg, "_SPARED_PIXELS", spared)
    loader = make_loader(corpus.config("dali-jpeg", augment={"crop_area": [0.1, 0.5]}))
    assert_video_agrees_with_pyav(loader, loader.ids)


@pytest.mark.parametrize("backend", ["dali-vp9", "dali-jpeg"])
def test_the_reference_loader_yields_the_same_clips(corpus, backend: str) -> None:
    ids = np.arange(1, 10)
    ours = make_loader(corpus.config(backend)).uniform_clips(ids, clips=2)
    theirs = make_loader(corpus.config("decord")).uniform_clips(ids, clips=2)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.ids, b.ids)
        assert torch.equal(a.start, b.start)
        pixels = 255 * 0.22 * (a.video - b.video).abs().mean(dim=(1, 2, 3, 4))
        assert pixels.max() < 8
        assert 25 * (a.audio - b.audio).abs().mean() < 1.0


RATE = 16000
FPS = 25
EVENTS = np.arange(0.4, 4.0, 0.8)


@pytest.fixture(scope="session")
def flash_and_beep(tmp_path_factory: pytest.TempPathFactory, video_writer) -> Path:
    """Two videos in which a white flash and a beep begin together at EVENTS and last 0.12 s."""
    folder = tmp_path_factory.mktemp("flash")

    def on(time: np.ndarray) -> np.ndarray:
        since = np.asarray(time)[..., None] - EVENTS
        return ((since >= -1e-6) & (since < 0.12 - 1e-6)).any(axis=-1)

    def pictures() -> Iterator[np.ndarray]:
        for i in range(4 * FPS):
            yield np.full((96, 128, 3), 235 if on(np.array(i / FPS)) else 16, dtype=np.uint8)

    time = np.arange(4 * RATE) / RATE
    for name in ("a", "b"):
        video_writer(folder / f"{name}.mp4", pictures(), 0.5 * np.sin(2 * np.pi * 1000 * time) * on(time), fps=FPS)
    return folder


def event_times(batch: Batch, b: int, *, audio_start: float, hop_seconds: float) -> tuple[list[float], list[float]]:
    """Times within the sample, in seconds, at which the frames turn bright and the audio turns loud."""
    bright = batch.video[b].mean(dim=(0, 2, 3)) > 0
    loud = batch.audio[b, 0].amax(dim=0) > batch.audio[b].max() - 1.0
    flashes = torch.nonzero(bright[1:] & ~bright[:-1])[:, 0] + 1
    beeps = torch.nonzero(loud[1:] & ~loud[:-1])[:, 0] + 1
    return (flashes / FPS + batch.start[b]).tolist(), (beeps * hop_seconds + audio_start).tolist()


@pytest.mark.parametrize("backend", ["dali-vp9", "dali-jpeg", "decord"])
@pytest.mark.parametrize("audio_seconds", [0.0, 2.0])
def test_flash_and_beep_coincide(corpus, prepared, flash_and_beep, backend: str, audio_seconds: float) -> None:
    path = flash_and_beep
    if backend != "decord":
        codec = backend.removeprefix("dali-")
        path = prepared(flash_and_beep, storage={"fps": float(FPS), "short_side": 64, "gop": 10, "codec": codec})
    config = corpus.config(
        backend,
        data={"path": str(path), "labels": ""},
        clip={"frames": 30, "fps": float(FPS), "size": 16},
        audio={"seconds": audio_seconds},
        augment={"enabled": False},
    )
    loader = make_loader(config)
    seen = 0
    for epoch in range(6):
        for batch in loader.clips([0, 1], epoch=epoch, purpose="train"):
            plan = loader.planner.train(batch.ids.numpy(), epoch=epoch, purpose="train")
            for b in range(2):
                flashes, beeps = event_times(
                    batch, b, audio_start=plan.audio_start[b] / RATE, hop_seconds=config.audio.hop / RATE
                )
                for flash in flashes:
                    assert np.abs(EVENTS - flash).min() < 1 / FPS
                    if min(flash - plan.audio_start[b] / RATE, 4.0 - flash) > 0.05:
                        assert np.abs(np.array(beeps) - flash).min() < 1 / FPS
                        seen += 1
    assert seen >= 8
