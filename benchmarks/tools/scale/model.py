"""The model of docs/scale.md: what a data set of any size needs, from the constants that benchmarks measured.

Its tables are computed from benchmarks/results: node_scaling.json (`python -m benchmarks.dataset_scaling --node`),
decode.json and step_gpu.json; tests compare the model with what was measured at ten million samples.
"""

from __future__ import annotations

from typing import Any

from benchmarks.tools.result import read
from benchmarks.tools.scale.preparation import CODECS
from common.environment import ROOT
from common.markdown import markdown_table
from settings import Config, load_config

Result = dict[str, Any]

SIZES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
PROCESSES = 8
"""Processes of a node, one per GPU."""
SECONDS, FPS = 10, 10
"""Length of a sample, as in Kinetics and AudioSet, and frames per second as stored by default."""
SCANNED = {"frames": 4, "audio_samples": 8, "label": 4}
"""Bytes per sample of the columns that opening reads from end to end: those of the lengths, and the label `split`."""
LARGE_SHARDS = 2048
"""Samples per shard that suit many samples better than the default."""
SELECTED = 1 / 8 + 8 / 512
"""Bytes per sample and process of a selection: a bit, and a count per 512 samples."""
DOLLARS = 0.05
"""Price of an hour of one core in dollars, about what clouds ask for a core on demand."""
PCM = 2 * 16_000
"""Bytes per second of sound."""
BLOCK = 2 * 4096
"""Bytes of sound that have one checksum; a reader reads whole blocks."""
GOP = 16
"""Frames per group of pictures as stored by default; decoding begins at the first frame of a group."""
STORED = {"kinetics_sounds": 144, "kinetics700_240k": 256, "audioset": 256, "grid": 96, "quickstart": 80}
"""The short side in pixels with which the data of each shipped configuration is prepared."""


def node(result: Result, samples: int, processes: int) -> Result:
    """The record of a case of `benchmarks.dataset_scaling --node`."""
    return next(r for r in result["records"] if (r["samples"], r["processes"]) == (samples, processes))


def row_bytes(result: Result) -> float:
    """Bytes per sample of the manifest without frame offsets, which depend on the length of the samples."""
    record = node(result, 10_000_000, PROCESSES)
    return (record["manifest_megabytes"] - record["frame_offsets_megabytes"]) * 1e6 / record["samples"]


def shard_bytes(result: Result) -> float:
    """Bytes per shard and process of the list of shards, from the memory that more processes take at ten million."""
    one, many = (node(result, 10_000_000, processes) for processes in (1, PROCESSES))
    each = (many["opening_megabytes"] - one["opening_megabytes"]) * 1e6 / (PROCESSES - 1)
    return (each - SELECTED * many["samples"]) / (many["samples"] / result["setting"]["shard_samples"])


def private_megabytes(result: Result, samples: int, *, shard_samples: int = 0) -> float:
    """Megabytes that each process needs for itself after opening; 0 samples per shard means those of the benchmark."""
    shards = samples / (shard_samples or result["setting"]["shard_samples"])
    return (samples * SELECTED + shards * shard_bytes(result)) / 1e6


def opening_megabytes(result: Result, samples: int, processes: int = PROCESSES, *, shard_samples: int = 0) -> float:
    """Megabytes of a node after opening, shared pages counted once; `shard_samples` as for `private_megabytes`."""
    private = private_megabytes(result, samples, shard_samples=shard_samples)
    return samples * sum(SCANNED.values()) / 1e6 + processes * private


def opening_seconds(result: Result, samples: int) -> float:
    """CPU-seconds that the first process of a node takes to open a data set: a constant, and a part per sample."""
    few, many = (node(result, size, PROCESSES)["opening_cpu_seconds"] for size in (1_000, 10_000_000))
    return few + (many - few) * samples / 10_000_000


def clip_kilobytes(video_kilobytes_per_second: float, codec: str, *, frames: int, seconds: float) -> float:
    """Kilobytes that a clip is read with, on average.

    Args:
        video_kilobytes_per_second: of the stored video.
        frames: stored frames from the first to the last of the clip.
        seconds: length of its sound.
    """
    read_frames = frames + ((GOP - 1) / 2 if codec == "vp9" else 0)
    return read_frames * video_kilobytes_per_second / FPS + (seconds * PCM + BLOCK) / 1e3


def node_clips_per_second() -> float:
    """Clips/s that the GPUs of a node train on, each at the speed of step_gpu.json."""
    step = read(ROOT / "benchmarks/results/step_gpu.json")
    batch = next(text for text in step["setting"]["overrides"] if text.startswith("train.batch_size="))
    return PROCESSES * int(batch.partition("=")[2]) / step["efficiency"]["seconds_fed_by_loader"]


def scale_memory(result: Result) -> str:
    rows = []
    for samples in SIZES:
        offsets = samples * (SECONDS * FPS + 1) * 4
        rows.append(
            [
                f"{samples:,}",
                f"{samples * row_bytes(result) / 1e9:.2f}",
                f"{offsets / 1e9:.1f}",
                f"{private_megabytes(result, samples):,.1f}",
                f"{opening_megabytes(result, samples):,.0f}",
                f"{opening_megabytes(result, samples, shard_samples=LARGE_SHARDS):,.0f}",
                f"{opening_seconds(result, samples):.2f}",
            ]
        )
    head = ["samples", "manifest, GB", "frame offsets, GB", "MB per process", "MB per node"]
    head += [f"MB per node with {LARGE_SHARDS:,} samples per shard", "CPU-s to open"]
    return markdown_table(head, rows)


def scale_measured(result: Result) -> str:
    rows = [
        [
            f"{record['samples']:,}",
            str(record["processes"]),
            f"{record['opening_seconds']:.2f}",
            f"{record['opening_cpu_seconds']:.2f}",
            f"{record['opening_megabytes']:.0f}",
            f"{opening_megabytes(result, record['samples'], record['processes']):.0f}",
            f"{record['planning_megabytes']:,.0f}",
            f"{record['first_plan_seconds']:.2f}",
            f"{record['step_plan_ms']:.1f}",
            f"{record['check_seconds']:.1f}",
        ]
        for record in result["records"]
    ]
    head = [
        "samples",
        "processes",
        "opening, s",
        "of that CPU-s",
        "MB after opening",
        "by the model",
        "MB after 201 steps",
        "first plan, s",
        "CPU-ms per step's plan",
        "checked after, s",
    ]
    return markdown_table(head, rows)


def scale_preparation(result: Result) -> str:
    rows = []
    for codec, found in result["preparation"].items():
        hours = found["cpu_seconds"] / found["seconds"] * SECONDS * 1e6 / 3600
        gigabytes = found["megabytes"] / found["seconds"] * SECONDS * 1e3
        rows.append(
            [
                codec,
                f"{found['cpu_seconds'] / found['clips']:.2f}",
                f"{hours:,.0f}",
                f"{DOLLARS * hours:,.0f}",
                f"{gigabytes:,.0f}",
                f"{1000 * hours / 10_000:,.0f}",
            ]
        )
    head = ["codec", "CPU-s per clip", "core-hours", "dollars", "GB of shards", "hours for a billion on 10,000 cores"]
    return markdown_table(head, rows)


def scale_reading(result: Result) -> str:
    """Bytes per clip of the shipped configurations; from the stored kB/s of decode.json, which has 144 pixels."""
    stored = read(ROOT / "benchmarks/results/decode.json")["storage"]
    rate_of_node = node_clips_per_second()
    rows = []
    for name, side in STORED.items():
        config = load_config(Config, ROOT / f"configs/{name}.yaml", [])
        cells = [f"`configs/{name}.yaml`", f"{config.clip.frames} at {side} pixels"]
        for codec in CODECS:
            rate = stored[f"shards_{codec}_144"]["kilobytes_per_second"] * side / 144
            seconds = config.audio.seconds or config.clip.seconds
            each = clip_kilobytes(rate, codec, frames=config.clip.frames, seconds=seconds)
            cells += [f"{each:.0f}", f"{each * rate_of_node / 1e3:,.0f}"]
        rows.append(cells)
    head = ["configuration", "frames per clip", *(f"{codec}, {unit}" for codec in CODECS for unit in ("kB", "MB/s"))]
    return markdown_table(head, rows)


SCALE_TABLES = {
    "scale_memory": ("node_scaling", scale_memory),
    "scale_measured": ("node_scaling", scale_measured),
    "scale_preparation": ("node_scaling", scale_preparation),
    "scale_reading": ("node_scaling", scale_reading),
}
