"""A torch DataLoader (or SPDL's thread pipeline) around one of the decoders, with everything else as cheap as possible.

Audio is read from PCM files, and colour and normalisation are one affine map as in our own graph: the comparison should
depend on the decoding of stored video, not on how carefully the rest is written.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2.functional import resize

from benchmarks.peers.decoders import DECODERS
from benchmarks.tools.corpus import Recording
from pipeline.load.log_mel import LogMel
from pipeline.plan.clips import ClipPlanner, color_maps
from settings import Config


class PeerClips(torch.utils.data.Dataset):
    """Clips of stored videos, made from the same plans as our loader's.

    Args:
        config: the sections clip, audio and augment, the seed and train.batch_size are used.
        recordings: the videos; a video's id is its index in this list.
        ids: int64 id of each clip's video, in order; an id may occur several times.
        epoch: with the seed, it decides the random choices of each clip.
        decoder: a key of DECODERS.
    """

    def __init__(self, *, config: Config, recordings: list[Recording], ids: np.ndarray, epoch: int, decoder: str):
        self.config, self.recordings, self.decode = config, recordings, DECODERS[decoder]
        planner = ClipPlanner(config=config, dataset=Geometry(recordings, config), fps=config.clip.fps)
        self.plan = planner.train(ids, epoch=epoch, purpose="benchmark")
        self.log_mel = LogMel(config.audio)
        self.color_maps = color_maps(self.plan)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, b: int) -> tuple[torch.Tensor, torch.Tensor]:
        recording, clip = self.recordings[self.plan.ids[b]], self.config.clip
        seconds = self.plan.start[b] + np.arange(clip.frames) / clip.fps
        top, left, height, width = self.plan.window[b].tolist()
        frames = self.decode(recording.video, seconds)[:, :, top : top + height, left : left + width]
        frames = resize(frames, [clip.size, clip.size], antialias=True)
        if self.plan.flip[b]:
            frames = frames.flip(-1)
        matrix, offset = (torch.from_numpy(maps[b]).to(frames.device) for maps in self.color_maps)
        video = torch.addmm(offset[:, None], matrix, frames.transpose(0, 1).reshape(3, -1).float())
        return video.view(3, clip.frames, clip.size, clip.size), self._log_mel(
            recording.audio, self.plan.audio_start[b]
        )

    def _log_mel(self, path: Path, start: int) -> torch.Tensor:
        length = self.config.audio_samples
        with wave.open(str(path)) as file:
            file.setpos(min(int(start), file.getnframes()))
            pcm = np.frombuffer(file.readframes(length), dtype=np.int16)
        samples = torch.from_numpy(np.pad(pcm, (0, length - len(pcm)))).float() / 32768
        return self.log_mel(samples).unsqueeze(0)


class Geometry:
    """The lengths and frame sizes of recordings, in the form that ClipPlanner reads."""

    def __init__(self, recordings: list[Recording], config: Config) -> None:
        seconds = np.array([recording.seconds for recording in recordings])
        self.frames = np.floor(seconds * config.clip.fps + 1e-6).astype(np.int64)
        self.width = np.array([recording.width for recording in recordings])
        self.height = np.array([recording.height for recording in recordings])
        self.audio_samples = np.rint(self.frames / config.clip.fps * config.audio.sample_rate).astype(np.int64)


def data_loader(clips: PeerClips, *, workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches from torch's DataLoader."""
    return iter(
        torch.utils.data.DataLoader(
            clips,
            batch_size=clips.config.train.batch_size,
            num_workers=workers,
            prefetch_factor=2,
            worker_init_fn=_one_thread,
        )
    )


def threaded_loader(clips: PeerClips, *, workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches from an SPDL pipeline of threads.

    SPDL's decoding releases the GIL, so threads suffice; decoding on a GPU needs them, because forked workers cannot
    share this process's GPU.
    """
    from spdl.pipeline import PipelineBuilder

    executor = ThreadPoolExecutor(workers)
    pipeline = (
        PipelineBuilder()
        .add_source(range(len(clips)))
        .pipe(clips.__getitem__, executor=executor, concurrency=workers, output_order="input")
        .aggregate(clips.config.train.batch_size)
        .pipe(torch.utils.data.default_collate)
        .add_sink(2)
        .build(num_threads=1)
    )
    with pipeline.auto_stop():
        yield from pipeline


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
