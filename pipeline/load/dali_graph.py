"""The DALI graphs: encoded bytes and plans in, on a GPU normalised tensors out.

No operator here is random: crops, flips and colours come in as per-sample arguments. `device` decides where operators
run and nothing else. Video and audio are two graphs because a JPEG clip enters as T samples and its audio as one, and
DALI wants one batch size within a graph.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType, DALIImageType

from pipeline.doctor.checks import decode_with_dali
from pipeline.load.resampling import color_maps
from pipeline.plan.clips import ClipPlan
from settings import AudioConfig, Config

NVDEC_SMALLEST_VP9 = 128
"""Pixels; NVDEC refuses VP9 frames with a shorter side."""

_SPARED_PIXELS = 128
"""Of a row; below, decoding only the crop's columns of a JPEG costs more than it spares (docs/performance.md)."""

_log = logging.getLogger(__name__)


def video_graph(
    *, config: Config, codec: str, stride: int, shortest_side: int, device: torch.device, threads: int, batch: int
) -> Pipeline:
    """Decodes and, on a GPU, crops, resizes, flips, colours and normalises; on a CPU `Resampler` does that.

    Inputs: those of `video_arguments` and `encoded` (vp9: an IVF file a clip; jpeg: an image a frame). Output on a GPU:
    float32 [B, T, size, size, 3] for vp9, [B * T, size, size, 3] for jpeg; on a CPU uint8, for vp9 the whole frames
    [T, H, W, 3] of each clip, for jpeg the `jpeg_window` [h, w, 3] of each frame.
    """
    decoder = decoder_device(config=config, codec=codec, shortest_side=shortest_side, device=device)
    pipe = decoding_pipeline(config=config, codec=codec, device=device, threads=threads, batch=batch)
    with pipe:
        frames = decoded(codec=codec, frames=config.clip.frames, stride=stride, device=device, decoder=decoder)
        if device.type == "cuda":
            frames = resampled(frames if decoder == "mixed" else frames.gpu(), config.clip.size)
        pipe.set_outputs(frames)
    return pipe


def decoding_pipeline(*, config: Config, codec: str, device: torch.device, threads: int, batch: int) -> Pipeline:
    """A pipeline for the operators of `decoded`: for jpeg each frame is a sample."""
    samples = batch if codec == "vp9" else batch * config.clip.frames
    return _pipeline(device, threads, samples, config.data.prefetch)


def decoder_device(*, config: Config, codec: str, shortest_side: int, device: torch.device) -> str:
    """Where frames are decoded, in DALI's words: mixed or cpu."""
    if device.type == "cpu":
        return "cpu"
    if codec == "vp9" and not (config.data.vp9_decoder == "nvdec" and _nvdec_takes(shortest_side)):
        return "cpu"
    return "mixed"


def decoded(*, codec: str, frames: int, stride: int, device: torch.device, decoder: str) -> Any:
    """DALI's operators from bytes to frames, within a pipeline that is being defined; see `video_graph`."""
    encoded = fn.external_source(name="encoded", dtype=DALIDataType.UINT8, ndim=1)
    if codec == "vp9":
        return fn.decoders.video(
            encoded,
            device=decoder,
            start_frame=fn.external_source(name="first", dtype=DALIDataType.INT32, ndim=0),
            sequence_length=frames,
            stride=stride,
            pad_mode="edge",
        )
    if device.type == "cuda":
        # Fancy upsampling of the chroma is what decoding on a CPU always does.
        return fn.decoders.image(encoded, device=decoder, output_type=DALIImageType.RGB, jpeg_fancy_upsampling=True)
    corner, shape = (fn.external_source(name=name, dtype=DALIDataType.INT32, ndim=1) for name in ("corner", "shape"))
    return fn.decoders.image_slice(
        encoded, start=corner, shape=shape, axes=[0, 1], device=decoder, output_type=DALIImageType.RGB
    )


def resampled(frames: Any, size: int) -> Any:
    """DALI's operators for what `Resampler` does on a CPU, within a pipeline that is being defined."""
    roi_start, roi_end, offset = (
        fn.external_source(name=name, dtype=DALIDataType.FLOAT, ndim=1) for name in ("roi_start", "roi_end", "offset")
    )
    matrix = fn.external_source(name="matrix", dtype=DALIDataType.FLOAT, ndim=2)
    frames = fn.resize(frames, size=[size, size], roi_start=roi_start, roi_end=roi_end, antialias=True)
    return fn.coord_transform(frames, M=matrix, T=offset)


def jpeg_window(plan: ClipPlan, *, widths: np.ndarray) -> np.ndarray:
    """The part of its frames that is decoded of each clip on a CPU, int64 [N, 4] (top, left, height, width).

    The crop, or its whole rows where they are not much longer: of rows cut on both sides libjpeg-turbo first writes
    more around the caches and the decoder then reads it back, which takes as long as decoding some 128 pixels.

    Args:
        widths: [N], pixels, of the frames.
    """
    whole = plan.window.copy()
    whole[:, 1], whole[:, 3] = 0, widths
    return np.where((whole - plan.window)[:, 3:] <= _SPARED_PIXELS, whole, plan.window)


def video_arguments(
    plan: ClipPlan, *, codec: str, frames: int, widths: np.ndarray, device: torch.device
) -> dict[str, np.ndarray]:
    """Per-sample arguments of `video_graph` but for the frames' numbers; for jpeg, each row `frames` times.

    On a GPU: roi_start, roi_end: float32 [N, 2], (y, x); the flip is a region that runs from right to left, free of
    cost. matrix [N, 3, 3], offset [N, 3]: colour and normalisation in one affine map of bytes. On a CPU: for jpeg
    corner and shape, int32 [N, 2], the `jpeg_window` of frames of `widths` [N].
    """
    top, left, height, width = plan.window.T
    if device.type == "cuda":
        right = left + width
        matrix, offset = color_maps(plan)
        arguments = {
            "roi_start": np.stack([top, np.where(plan.flip, right, left)], axis=1).astype(np.float32),
            "roi_end": np.stack([top + height, np.where(plan.flip, left, right)], axis=1).astype(np.float32),
            "matrix": matrix,
            "offset": offset,
        }
    elif codec == "jpeg":
        window = jpeg_window(plan, widths=widths).astype(np.int32)
        arguments = {"corner": window[:, :2], "shape": window[:, 2:]}
    else:
        arguments = {}
    copies = frames if codec == "jpeg" else 1
    return {name: value.repeat(copies, axis=0) for name, value in arguments.items()}


def audio_graph(*, config: Config, device: torch.device, threads: int, batch: int) -> Pipeline:
    """Log-mel of PCM: input `pcm` int16 [B, samples], output float32 [B, n_mels, F], normalised.

    For a GPU; on a CPU `LogMelRunner` computes it. Matches torchaudio's MelSpectrogram and AmplitudeToDB (power, no
    top_db) to 0.01 dB.
    """
    audio: AudioConfig = config.audio
    pipe = _pipeline(device, threads, batch, config.data.prefetch)
    with pipe:
        pcm = fn.external_source(name="pcm", dtype=DALIDataType.INT16, ndim=1)
        if device.type == "cuda":
            pcm = pcm.gpu()
        power = fn.spectrogram(
            fn.cast(pcm, dtype=DALIDataType.FLOAT),
            nfft=audio.n_fft,
            window_length=audio.window,
            window_step=audio.hop,
            # DALI's own Hann window is the symmetric one: off by up to 8 dB in quiet bands.
            window_fn=torch.hann_window(audio.window).tolist(),
            power=2,
            center_windows=True,
            reflect_padding=True,
        )
        mel = fn.mel_filter_bank(
            power,
            sample_rate=audio.sample_rate,
            nfilter=audio.n_mels,
            freq_low=audio.f_min,
            freq_high=audio.f_max,
            mel_formula="htk",
            normalize=False,
        )
        # The samples' scale and the normalisation are in the logarithm: three passes over the data less.
        pipe.set_outputs(
            fn.to_decibels(
                mel,
                multiplier=10 / audio.std_db,
                reference=32768**2 * 10 ** (audio.mean_db / 10),
                cutoff_db=(-100 - audio.mean_db) / audio.std_db,
            )
        )
    return pipe


def _pipeline(device: torch.device, threads: int, batch: int, prefetch: int) -> Pipeline:
    device_id = None
    if device.type == "cuda":
        device_id = torch.cuda.current_device() if device.index is None else device.index
    return Pipeline(batch_size=batch, num_threads=threads, device_id=device_id, prefetch_queue_depth=prefetch)


def _nvdec_takes(shortest_side: int) -> bool:
    if not _nvdec_works():
        return False
    if shortest_side < NVDEC_SMALLEST_VP9:
        _log.warning(
            "the stored frames are %d pixels high, NVDEC takes VP9 from %d: decoding on the CPU, the rest on the GPU",
            shortest_side,
            NVDEC_SMALLEST_VP9,
        )
        return False
    return True


@functools.cache
def _nvdec_works() -> bool:
    """Whether NVIDIA's video decoder decodes what is stored; says once if not. Cached: asked for each graph."""
    try:
        ctypes.CDLL("libnvcuvid.so.1")
    except OSError:
        _log.warning(
            "NVDEC (libnvcuvid.so.1) is not available: decoding on the CPU, the rest on the GPU. In a container, "
            "give it the `video` capability (NVIDIA_DRIVER_CAPABILITIES=compute,utility,video)"
        )
        return False
    try:
        decode_with_dali("vp9", gpu=True)
    except RuntimeError as error:
        # The library is no decoder yet: a slice of a GPU (MIG) may be without. Every sample would seem to be damaged.
        reason = " ".join(str(error).split())
        _log.warning("NVDEC does not decode VP9 here: decoding on the CPU, the rest on the GPU. DALI says: %s", reason)
        return False
    return True
