"""Compares log-mel spectrograms/s of our code, DALI's operators, torchaudio and librosa on the same waveforms.

    python -m benchmarks.spectrogram --json out.json

Rounds are interleaved and figures are medians; each record also holds the largest difference from torchaudio. Our
loader computes spectrograms with DALI's operators on a GPU and with torch on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tools.options import device, positive
from common.phases import introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=positive, default=32, help="windows per batch")
    parser.add_argument("--batches", type=positive, default=10, help="timed batches per round")
    parser.add_argument("--rounds", type=positive, default=5, help="interleaved repeats of every library")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads per library")
    parser.add_argument("--device", type=device, choices=["cpu", "cuda"], help="default: the GPU if there is one")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    introduce("benchmarks.spectrogram", "timing log-mel spectrograms", parse)

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.tools.result import publish
from common.environment import environment
from common.finite import NotFiniteError
from pipeline.load.cpu_threads import SingleThreadTorchPool
from pipeline.load.dali_graph import audio_graph
from pipeline.load.dali_runner import GraphRunner, as_tensor
from pipeline.load.log_mel import LogMel, LogMelRunner
from settings import Config

Compute = Callable[[np.ndarray], torch.Tensor]
"""Computes normalised float32 [B, 1, n_mels, F] from int16 [B, samples]."""


def with_dali(config: Config, options: argparse.Namespace) -> Compute:
    device = torch.device(options.device)
    runner = GraphRunner(
        lambda: audio_graph(config=config, device=device, threads=options.threads, batch=options.batch_size),
        depth=2,
        convert=as_tensor,
    )
    return by_runner(runner)


def with_ours(config: Config, options: argparse.Namespace) -> Compute:
    if options.device == "cuda":
        return with_dali(config, options)
    return by_runner(LogMelRunner(audio=config.audio, threads=SingleThreadTorchPool(options.threads)))


def by_runner(runner: GraphRunner | LogMelRunner) -> Compute:
    return lambda pcm: runner.result(runner.submit({"pcm": pcm})).unsqueeze(1)


def with_torchaudio(config: Config, options: argparse.Namespace) -> Compute:
    log_mel = LogMel(config.audio).to(options.device)
    return lambda pcm: log_mel(torch.from_numpy(pcm).to(options.device).float() / 32768).unsqueeze(1)


def with_librosa(config: Config, options: argparse.Namespace) -> Compute:
    import librosa

    audio = config.audio

    def compute(pcm: np.ndarray) -> torch.Tensor:
        power = librosa.feature.melspectrogram(
            y=pcm.astype(np.float32) / 32768,
            sr=audio.sample_rate,
            n_fft=audio.n_fft,
            win_length=audio.window,
            hop_length=audio.hop,
            fmin=audio.f_min,
            fmax=audio.f_max,
            n_mels=audio.n_mels,
            htk=True,
            norm=None,
            pad_mode="reflect",
        )
        values = librosa.power_to_db(power, amin=1e-10, top_db=None)
        return torch.from_numpy((values - audio.mean_db) / audio.std_db).unsqueeze(1)

    return compute


LIBRARIES: dict[str, Callable[[Config, argparse.Namespace], Compute]] = {
    "ours": with_ours,
    "DALI": with_dali,
    "torchaudio": with_torchaudio,
    "librosa": with_librosa,
}


def waveforms(count: int, samples: int) -> np.ndarray:
    """Gliding tones with a little noise, int16 [count, samples]."""
    rng = np.random.default_rng(0)
    time_axis = np.arange(samples) / 16000
    pitch = rng.uniform(100, 4000, (count, 1)) * (
        1 + 0.3 * np.sin(2 * np.pi * rng.uniform(0.5, 3, (count, 1)) * time_axis)
    )
    wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch, axis=1) / 16000) + 0.05 * rng.standard_normal((count, samples))
    return (wave.clip(-1, 1) * 32767).astype(np.int16)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    config = Config()
    pcm = waveforms(options.batch_size, config.audio_samples)
    computes = {}
    for name, make in LIBRARIES.items():
        try:
            computes[name] = make(config, options)
            computes[name](pcm)
        except ImportError as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)
    reference = computes["torchaudio"](pcm).cpu()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in computes}
    # librosa's matrix products run in BLAS threads, which torch.set_num_threads does not limit.
    with threadpool_limits(options.threads):
        for _ in range(options.rounds):
            for name, compute in computes.items():
                seconds[name].append(timed(compute, pcm, options))
    records = []
    for name, compute in computes.items():
        wall, cpu = (statistics.median(values) for values in zip(*seconds[name], strict=True))
        difference = (compute(pcm).cpu() - reference).abs().max() * config.audio.std_db
        records.append(
            {
                "library": name,
                "windows_per_second": options.batch_size / wall,
                "cpu_ms_per_window": 1e3 * cpu / options.batch_size,
                "largest_difference_db": float(difference),
            }
        )
    return records


def timed(compute: Compute, pcm: np.ndarray, options: argparse.Namespace) -> tuple[float, float]:
    """Mean wall-clock and CPU seconds per batch over `options.batches` batches."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(options.batches):
        result = compute(pcm)
    if result.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - wall) / options.batches, (time.process_time() - cpu) / options.batches


@command("benchmarks.spectrogram", NotFiniteError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    records = measure(options)
    result = {
        "environment": environment("torchaudio", "librosa", "nvidia-dali-cuda130"),
        "setting": {name: getattr(options, name) for name in ("batch_size", "batches", "rounds", "threads", "device")},
        "records": records,
    }
    publish(result, options.json)


if __name__ == "__main__":
    sys.exit(main())
