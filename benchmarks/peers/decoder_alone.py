"""DALI decoding clips from memory, without any other work: an upper bound for the throughput of any loader here."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline

from pipeline.load.clip_loader import decode_threads
from pipeline.load.dali_graph import decoder_device, decoding_pipeline
from pipeline.load.dali_runner import GraphRunner
from pipeline.plan.clips import ClipPlan, ClipPlanner
from pipeline.shards.codecs import CODECS, Inputs
from pipeline.shards.manifest import Manifest
from pipeline.shards.reader import ShardReader
from settings import Config

BATCHES = 8
"""Number of encoded batches that are kept in memory and decoded repeatedly."""


def decoder_alone(config: Config, *, device: torch.device, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Decodes batches forever and yields the ids of each batch twice, in place of video and audio.

    Clips, threads and the number of batches in flight are those of our loader over the shards at data.path.
    """
    data = Manifest.open(config.data.path)
    planner = ClipPlanner(config=config, dataset=data, fps=data.storage.fps)
    ids = np.resize(np.arange(len(data)), (BATCHES, config.train.batch_size))
    stride = planner.stride
    reader = ShardReader(manifest=data, frames=config.clip.frames, stride=stride, audio_samples=config.audio_samples)
    plans = [planner.train(batch, epoch=epoch, purpose="benchmark") for batch in ids]
    inputs = [_inputs(reader, plan, config=config, device=device) for plan in plans]
    runner: GraphRunner[Any] = GraphRunner(
        _graph(config, data, stride=stride, device=device), depth=config.data.prefetch, convert=lambda output: output
    )
    running = deque()
    for batch, encoded in zip(itertools.cycle(ids), itertools.cycle(inputs), strict=True):
        running.append((torch.from_numpy(batch), runner.submit(encoded)))
        if len(running) >= config.data.prefetch:
            done, run = running.popleft()
            runner.result(run)
            yield done, done


def _inputs(reader: ShardReader, plan: ClipPlan, *, config: Config, device: torch.device) -> Inputs:
    codec, data = CODECS[reader.manifest.storage.codec], reader.manifest
    inputs = codec.read(reader, plan)
    if device.type == "cpu":
        window = codec.cpu_window(plan, widths=data.width[plan.ids], heights=data.height[plan.ids])
        inputs |= codec.cpu_arguments(window, frames=config.clip.frames)
    return inputs


def _graph(config: Config, data: Manifest, *, stride: int, device: torch.device) -> Callable[[], Pipeline]:
    codec = CODECS[data.storage.codec]

    def build() -> Pipeline:
        threads, batch = decode_threads(config.data.threads), config.train.batch_size
        pipe = decoding_pipeline(config=config, codec=codec, device=device, threads=threads, batch=batch)
        decoder = decoder_device(config=config, codec=codec, shortest_side=data.shortest_side, device=device)
        with pipe:
            pipe.set_outputs(codec.decode(device=decoder, frames=config.clip.frames, stride=stride))
        return pipe

    return build
