"""DALI decoding clips from memory and nothing else: an upper bound for the throughput of any loader here."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline

from pipeline.load.clip_loader import decode_threads
from pipeline.load.dali_graph import decoded, decoder_device, decoding_pipeline, video_arguments
from pipeline.load.dali_runner import GraphRunner, Inputs
from pipeline.plan.clips import ClipPlanner
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import ShardReader
from settings import Config

BATCHES = 8
"""Number of encoded batches that are held in memory and decoded over and over."""


def decoder_alone(config: Config, *, device: torch.device, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Decodes batches forever and yields each one's ids, twice: in place of video and audio.

    Clips, threads and the number of batches in flight are those of our loader over the shards at data.path.
    """
    data = Manifest.open(config.data.path)
    planner = ClipPlanner(config=config, dataset=data, fps=data.storage.fps)
    ids = np.resize(np.arange(len(data)), (BATCHES, config.train.batch_size))
    stride = planner.stride
    reader = ShardReader(manifest=data, frames=config.clip.frames, stride=stride, audio_samples=config.audio_samples)
    plans = [planner.train(batch, epoch=epoch, purpose="benchmark") for batch in ids]
    inputs = [_inputs(reader, plan, config=config, codec=data.storage.codec, device=device) for plan in plans]
    runner: GraphRunner[Any] = GraphRunner(
        _graph(config, data, stride=stride, device=device), depth=config.data.prefetch, own=lambda output: output
    )
    running = deque()
    for batch, encoded in zip(itertools.cycle(ids), itertools.cycle(inputs), strict=True):
        running.append((torch.from_numpy(batch), runner.submit(encoded)))
        if len(running) >= config.data.prefetch:
            done, run = running.popleft()
            runner.result(run)
            yield done, done


def _inputs(reader: ShardReader, plan: Any, *, config: Config, codec: str, device: torch.device) -> Inputs:
    if codec == "vp9":
        encoded, first = reader.vp9(plan)
        return {"encoded": encoded, "first": first}
    if device.type == "cuda":
        return {"encoded": reader.jpeg(plan)}
    widths = reader.manifest.width[plan.ids]
    crop = video_arguments(plan, codec=codec, frames=config.clip.frames, widths=widths, device=device)
    return {"encoded": reader.jpeg(plan), **crop}


def _graph(config: Config, data: Manifest, *, stride: int, device: torch.device) -> Callable[[], Pipeline]:
    codec, shortest = data.storage.codec, int(np.minimum(data.width, data.height).min())

    def build() -> Pipeline:
        threads, batch = decode_threads(config.data.threads), config.train.batch_size
        pipe = decoding_pipeline(config=config, codec=codec, device=device, threads=threads, batch=batch)
        decoder = decoder_device(config=config, codec=codec, shortest_side=shortest, device=device)
        with pipe:
            frames = decoded(codec=codec, frames=config.clip.frames, stride=stride, device=device, decoder=decoder)
            pipe.set_outputs(frames)
        return pipe

    return build
