"""Settings of how a run goes: batches and precision, checkpoints, logs, monitor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from settings.load import require


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    epochs: int = 100
    """Passes over the data; the learning rate reaches zero at the end of the last, or at train.steps."""
    steps: int = 0
    """Stop after this many steps; 0 runs all epochs."""
    batch_size: int = 128
    """M, clips of a step over all processes."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU that has instructions for it, else fp32. bf16 on a CPU without them (AVX-512 and up)
    is many times slower than fp32."""
    batchnorm: Literal["sync", "shuffle", "local"] = "sync"
    """With several processes. sync: statistics of the global batch (the number of processes changes nothing).
    local: of each process's share, which lets keys leak who their companions are. shuffle: local, but keys are
    encoded on other processes than their queries (MoCo)."""
    accumulate: int = 1
    """Parts a step is computed in, for batches that do not fit: less memory, one more forward pass without gradient."""
    recompute: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    channels_last: bool = True
    """Channels-last memory format of weights and activations."""
    compile: bool = False
    """torch.compile the encoders."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPUs, if there are any."""
    threads: int = 0
    """Threads torch computes with on a CPU; 0 shares the cores among this machine's processes."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    max_nonfinite_steps: int = 5
    """A step whose gradient is not finite is skipped on all processes; after so many in a row the run stops."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"train.epochs must be at least 1, not {self.epochs}")
        require(self.steps >= 0, f"train.steps must be at least 0, not {self.steps}")
        require(self.batch_size >= 2, f"train.batch_size must be at least 2, not {self.batch_size}")
        require(self.accumulate >= 1, f"train.accumulate must be at least 1, not {self.accumulate}")
        require(self.threads >= 0, f"train.threads must be at least 0, not {self.threads}")
        require(self.log_every >= 1, f"train.log_every must be at least 1, not {self.log_every}")
        require(
            self.max_nonfinite_steps >= 1,
            f"train.max_nonfinite_steps must be at least 1, not {self.max_nonfinite_steps}",
        )


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk."""

    every_steps: int = 500
    """Steps between checkpoints; the end of the run is always saved."""
    keep: int = 2
    """How many of the newest are kept."""
    milestone_every: int = 0
    """A checkpoint at a multiple of this many steps is kept for good; 0 keeps none."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, f"checkpoint.every_steps must be at least 1, not {self.every_steps}")
        require(self.keep >= 1, f"checkpoint.keep must be at least 1, not {self.keep}")
        require(
            self.milestone_every % self.every_steps == 0,
            f"checkpoint.milestone_every must be a multiple of checkpoint.every_steps, not {self.milestone_every}",
        )


@dataclass(frozen=True)
class LogConfig:
    """Where numbers go beside metrics.jsonl and TensorBoard, which are always written."""

    wandb: bool = False
    """Also send them to Weights & Biases (pip install wandb; `wandb login`, or WANDB_MODE=offline)."""
    wandb_project: str = "cm-acc"
    """Its project there."""

    def __post_init__(self) -> None:
        require(bool(self.wandb_project) or not self.wandb, "log.wandb_project must be given with log.wandb=true")


@dataclass(frozen=True)
class MonitorConfig:
    """Features of the query encoders, and the dictionaries, looked at while they train; the run is not touched."""

    every_epochs: int = 0
    """Measure after every n-th epoch; 0 never does."""
    data: str = ""
    """Folder of prepared shards with labels (raw videos for data.loader=decord); empty takes data.path."""
    label: str = ""
    """Label column whose classes the nearest neighbours vote for, and are counted in the dictionaries."""
    samples: int = 2000
    """Labelled samples looked at, the same ones every time; each is classified by its neighbours among the others."""
    neighbours: int = 20
    """k of the kNN classifier."""
    min_rank: float = 0.05
    """Warn when the embeddings' effective rank is below this share of model.dim (of the samples, if they are fewer)."""
    dictionary_every: int = 200
    """Steps between two measurements of the dictionaries (phi, near-duplicates, classes; see docs/samplers.md), each at
    the cost of about one selection; 0 never does."""

    def __post_init__(self) -> None:
        require(self.every_epochs >= 0, f"monitor.every_epochs must be at least 0, not {self.every_epochs}")
        require(self.dictionary_every >= 0, f"monitor.dictionary_every must be at least 0, not {self.dictionary_every}")
        require(
            bool(self.label) or not self.every_epochs,
            "monitor.label must name a label column of the data when monitor.every_epochs > 0",
        )
        require(self.neighbours >= 1, f"monitor.neighbours must be at least 1, not {self.neighbours}")
        require(
            self.samples > self.neighbours,
            f"monitor.samples must be larger than monitor.neighbours={self.neighbours}, not {self.samples}",
        )
        require(0 <= self.min_rank <= 1, f"monitor.min_rank must be in [0, 1], not {self.min_rank}")
