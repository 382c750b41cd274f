"""Decoding for a GPU: two DALI graphs turn the bytes of shards into finished video and audio tensors."""

from __future__ import annotations

from functools import partial

import torch
from nvidia.dali import Pipeline

from pipeline.batch import Batch
from pipeline.load.clip_loader import decode_threads
from pipeline.load.dali_graph import (
    audio_graph,
    decoder_device,
    decoding_pipeline,
    pcm_type,
    resampled,
    resampling_arguments,
)
from pipeline.load.dali_runner import GraphRunner, as_tensor
from pipeline.load.decoder import InFlight, StoredFrames
from pipeline.shards.codecs import CODECS
from settings import Config


class GpuDecoder:
    """A `Decoder` whose DALI graphs decode, crop, resize, flip, colour and normalise, and compute spectrograms.

    VP9 is decoded on the CPU unless data.vp9_decoder is nvdec; the rest of the work is on the GPU.

    Args:
        config: data, clip and audio are read.
        dataset: the prepared data set.
        stride: stored frames from one frame of a clip to the next.
        device: the GPU.
        batch: largest number of clips in a batch.
    """

    def __init__(self, *, config: Config, dataset: StoredFrames, stride: int, device: torch.device, batch: int) -> None:
        self._config, self._dataset, self._stride, self._device, self._batch = config, dataset, stride, device, batch
        self._codec = CODECS[dataset.storage.codec]
        self._threads = decode_threads(config.data.threads)
        self._samples = self._codec.samples_per_clip(config.clip.frames)
        self.depth = config.data.prefetch
        self._video = GraphRunner(self._video_graph, depth=self.depth, convert=as_tensor)
        build_audio = partial(audio_graph, config=config, device=device, threads=self._threads, batch=batch)
        self._audio = GraphRunner(build_audio, depth=self.depth, convert=as_tensor)

    def submit(self, item: InFlight) -> None:
        video = audio = None
        if item.video is not None:
            arguments = resampling_arguments(item.plan.plan, samples_per_clip=self._samples)
            video = self._video.submit({**item.video, **arguments})
        if item.pcm is not None:
            audio = self._audio.submit({"pcm": item.pcm.astype(pcm_type(self._config), copy=False)})
        item.handle = video, audio
        item.video = item.pcm = None

    def result(self, item: InFlight) -> Batch:
        video, audio = item.handle
        frames = mel = None
        if video is not None:
            clip = self._config.clip
            frames = self._video.result(video).view(-1, clip.frames, clip.size, clip.size, 3).permute(0, 4, 1, 2, 3)
        if audio is not None:
            mel = self._audio.result(audio).unsqueeze(1)
        return Batch.of_plan(item.plan.plan, video=frames, audio=mel)

    def _video_graph(self) -> Pipeline:
        config = self._config
        decoder = decoder_device(
            config=config, codec=self._codec, shortest_side=self._dataset.shortest_side, device=self._device
        )
        pipe = decoding_pipeline(
            config=config, codec=self._codec, device=self._device, threads=self._threads, batch=self._batch
        )
        with pipe:
            frames = self._codec.decode(device=decoder, frames=config.clip.frames, stride=self._stride)
            pipe.set_outputs(resampled(frames if decoder == "mixed" else frames.gpu(), config.clip.size))
        return pipe
