"""Building blocks of the DALI graphs: pipelines, the decoding device, and resampling and log-mel on a GPU.

No operator here is random: crops, flips and colours are passed in as per-sample arguments. Video and audio are separate
graphs because a JPEG clip is T DALI samples and its audio is one, and a DALI graph has a single batch size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from nvidia.dali import Pipeline, fn
from nvidia.dali.types import DALIDataType

from pipeline.load.dali_probe import nvdec_takes
from pipeline.plan.clips import ClipPlan, color_maps
from pipeline.shards.codecs import Codec, Inputs
from settings import AudioConfig, Config


def decoding_pipeline(*, config: Config, codec: Codec, device: torch.device, threads: int, batch: int) -> Pipeline:
    """Creates an empty pipeline for the operators of `codec.decode`, for batches of up to `batch` clips."""
    return _pipeline(device, threads, batch * codec.samples_per_clip(config.clip.frames), config.data.prefetch)


def decoder_device(*, config: Config, codec: Codec, shortest_side: int, device: torch.device) -> str:
    """Returns DALI's name for the device that decodes frames: mixed (the GPU) or cpu.

    Args:
        config: data.vp9_decoder is read.
        codec: codec of the stored frames.
        shortest_side: shortest side of all stored frames, in pixels.
        device: device of the batches.
    """
    if device.type == "cpu":
        return "cpu"
    if codec.needs_nvdec and not (config.data.vp9_decoder == "nvdec" and nvdec_takes(shortest_side)):
        return "cpu"
    return "mixed"


def resampled(frames: Any, size: int) -> Any:
    """Adds DALI operators that do on a GPU what `Resampler` does on a CPU; call it within a pipeline definition.

    They need the inputs that `resampling_arguments` returns. The output is float32, shaped like `frames` but with
    H = W = `size`.
    """
    roi_start, roi_end, offset = (
        fn.external_source(name=name, dtype=DALIDataType.FLOAT, ndim=1) for name in ("roi_start", "roi_end", "offset")
    )
    matrix = fn.external_source(name="matrix", dtype=DALIDataType.FLOAT, ndim=2)
    frames = fn.resize(frames, size=[size, size], roi_start=roi_start, roi_end=roi_end, antialias=True)
    return fn.coord_transform(frames, M=matrix, T=offset)


def resampling_arguments(plan: ClipPlan, *, samples_per_clip: int) -> Inputs:
    """Returns the per-sample inputs of `resampled`: N = B * samples_per_clip rows, with the rows of a clip adjacent.

    Returns:
        roi_start, roi_end: float32 [N, 2], (y, x). To flip a clip, its region runs from right to left, at no cost.
        matrix [N, 3, 3], offset [N, 3]: float32, colour and normalisation as one affine map of uint8 RGB.
    """
    top, left, height, width = plan.window.T
    right = left + width
    matrix, offset = color_maps(plan)
    arguments = {
        "roi_start": np.stack([top, np.where(plan.flip, right, left)], axis=1).astype(np.float32),
        "roi_end": np.stack([top + height, np.where(plan.flip, left, right)], axis=1).astype(np.float32),
        "matrix": matrix,
        "offset": offset,
    }
    return {name: value.repeat(samples_per_clip, axis=0) for name, value in arguments.items()}


def pcm_type(config: Config) -> type[np.int16 | np.float32]:
    """The type of the audio graph's input: that of 16-bit PCM, unless audio augmentation changes its values."""
    return np.float32 if config.audio_augment.changes_waveform else np.int16


def audio_graph(*, config: Config, device: torch.device, threads: int, batch: int) -> Pipeline:
    """Builds the graph of log-mel spectrograms: input `pcm` [B, samples] of `pcm_type`, on the scale of 16-bit PCM;
    output float32 [B, n_mels, F].

    This graph is used on a GPU; on a CPU `LogMelRunner` replaces it. Before the normalisation with audio.mean_db and
    audio.std_db, it matches torchaudio's MelSpectrogram and AmplitudeToDB (power, no top_db) to 0.01 dB.
    """
    audio: AudioConfig = config.audio
    pipe = _pipeline(device, threads, batch, config.data.prefetch)
    with pipe:
        dtype = DALIDataType.INT16 if pcm_type(config) is np.int16 else DALIDataType.FLOAT
        pcm = fn.external_source(name="pcm", dtype=dtype, ndim=1)
        if device.type == "cuda":
            pcm = pcm.gpu()
        power = fn.spectrogram(
            fn.cast(pcm, dtype=DALIDataType.FLOAT),
            nfft=audio.n_fft,
            window_length=audio.window,
            window_step=audio.hop,
            # DALI's own Hann window is symmetric, not periodic as torch's: up to 8 dB off in quiet bands.
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
        # The PCM scale and the normalisation are folded into the logarithm, which saves three passes over the data.
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
