"""Settings of the training loop, checkpoints, logs and the monitor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from settings.errors import require
from settings.load import AUTO, AutoInt


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    epochs: AutoInt = 100
    """Passes over the data; the learning rate reaches zero at the end of the last one, or at train.steps. auto: as many
    as train.steps needs."""
    steps: AutoInt = 0
    """Number of steps after which training stops; 0 means all epochs. auto: all epochs, or with train.epochs=auto 50
    epochs, but at least 1,000 steps."""
    batch_size: AutoInt = 128
    """M, the number of clips per step over all processes. auto: 128 on GPUs and 32 on a CPU, but at most about a
    quarter of the samples."""
    super_batch: int = 1
    """Number of clips that are read per clip that is trained on. Of so many consecutive clips of a batch, the step
    trains on one, chosen by D² sampling on the momentum keys of both modalities; all keys enter the pool. 1: all clips
    are trained on."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU that has instructions for it, else fp32. On a CPU without such instructions
    (AVX-512 BF16 or AMX) bf16 is many times slower than fp32."""
    batchnorm: Literal["sync", "shuffle", "local"] = "sync"
    """Scope of the BatchNorm statistics with several processes. sync: the global batch, so that the number of processes
    does not matter. local: each process's share of the batch, whose statistics may reveal which key belongs to a query.
    shuffle: as local, but keys are encoded in shares that are shuffled among the processes, as in MoCo."""
    accumulate: int = 1
    """Number of parts in which a batch is computed; more parts take less memory, but an extra forward pass."""
    recompute: bool = False
    """Recompute activations in the backward pass, which saves memory but takes about a third more time."""
    channels_last: bool = True
    """Use the channels-last memory format for weights and activations."""
    compile: bool = False
    """Compile the encoders with torch.compile."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPUs if there are any, else the CPU."""
    threads: int = 0
    """Number of torch threads per process on a CPU; 0 divides the available cores among this machine's processes."""
    log_every: int = 10
    """Number of steps between two lines of metrics.jsonl."""
    max_nonfinite_steps: int = 5
    """A step whose gradient is not finite is skipped on all processes; after this many in a row the run stops."""
    timeout_seconds: float = 300.0
    """Seconds that a process waits for the others, at the start and in each step; then the run ends and names the
    process that is missing or hangs. It must exceed the time of anything that one process does while the others wait,
    such as writing a checkpoint."""

    def __post_init__(self) -> None:
        require(self.epochs == AUTO or self.epochs >= 1, f"train.epochs must be at least 1, not {self.epochs}")
        require(self.steps == AUTO or self.steps >= 0, f"train.steps must be at least 0, not {self.steps}")
        require(
            self.batch_size == AUTO or self.batch_size >= 2,
            f"train.batch_size must be at least 2, not {self.batch_size}",
        )
        require(
            self.super_batch >= 1 and (self.batch_size == AUTO or self.batch_size % self.super_batch == 0),
            f"train.super_batch must be at least 1 and divide train.batch_size={self.batch_size}, not "
            f"{self.super_batch}",
        )
        require(self.accumulate >= 1, f"train.accumulate must be at least 1, not {self.accumulate}")
        require(self.threads >= 0, f"train.threads must be at least 0, not {self.threads}")
        require(self.log_every >= 1, f"train.log_every must be at least 1, not {self.log_every}")
        require(
            self.max_nonfinite_steps >= 1,
            f"train.max_nonfinite_steps must be at least 1, not {self.max_nonfinite_steps}",
        )
        require(
            1 <= self.timeout_seconds <= 86400,
            f"train.timeout_seconds must be in [1, 86400], not {self.timeout_seconds}",
        )


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints on disk."""

    every_steps: int = 500
    """Number of steps between checkpoints; the end of the run is always saved."""
    keep: int = 2
    """Number of newest checkpoints to keep."""
    milestone_every: int = 0
    """Checkpoints at multiples of this many steps are never deleted; 0 means none."""
    scratch: str = ""
    """Folder of this machine for the local copy of a run whose run_dir is a URL. Empty: $CMACC_SCRATCH, or else cm-acc
    in the user's folder for caches."""
    upload_seconds: float = 600.0
    """Seconds that the end of a run whose run_dir is a URL waits for its last files to be copied there."""

    def __post_init__(self) -> None:
        require(self.every_steps >= 1, f"checkpoint.every_steps must be at least 1, not {self.every_steps}")
        require(self.keep >= 1, f"checkpoint.keep must be at least 1, not {self.keep}")
        require(
            self.milestone_every % self.every_steps == 0,
            f"checkpoint.milestone_every must be a multiple of checkpoint.every_steps, not {self.milestone_every}",
        )
        require(
            0 <= self.upload_seconds <= 86400,
            f"checkpoint.upload_seconds must be in [0, 86400], not {self.upload_seconds}",
        )


@dataclass(frozen=True)
class LogConfig:
    """Trackers that get the metrics in addition to metrics.jsonl and TensorBoard, which are always written."""

    wandb: bool = False
    """Also send metrics to Weights & Biases (needs pip install -r requirements-wandb.txt, and wandb login or
    WANDB_MODE=offline)."""
    wandb_project: str = "cm-acc"
    """Weights & Biases project."""
    trackio: bool = False
    """Also send metrics to trackio (needs pip install --no-deps -r requirements-trackio.txt)."""
    trackio_project: str = "cm-acc"
    """trackio project."""
    mlflow: bool = False
    """Also send metrics to MLflow (needs pip install -r requirements-mlflow.txt), to the server or database that
    MLFLOW_TRACKING_URI names."""
    mlflow_experiment: str = "cm-acc"
    """MLflow experiment."""

    def __post_init__(self) -> None:
        for tracker, name in (
            ("wandb", "wandb_project"),
            ("trackio", "trackio_project"),
            ("mlflow", "mlflow_experiment"),
        ):
            require(
                bool(getattr(self, name)) or not getattr(self, tracker),
                f"log.{tracker}=true needs a name in log.{name}",
            )


@dataclass(frozen=True)
class MonitorConfig:
    """Measurements of the query encoders' features and of the dictionaries during training; they do not affect it."""

    every_epochs: int = 0
    """Number of epochs between two measurements of the features; 0 means none."""
    data: str = ""
    """Folder of prepared shards with labels (raw videos for data.loader=decord); empty means data.path."""
    label: str = ""
    """Label column whose classes are predicted by nearest neighbours and counted in the dictionaries."""
    samples: int = 2000
    """Number of labelled samples to measure, always the same; each is classified by its neighbours among the others."""
    neighbours: int = 20
    """k of the kNN classifier."""
    min_rank: float = 0.05
    """Warn if the embeddings' effective rank is below this fraction of model.dim (or of the samples if fewer)."""
    dictionary_every: int = 200
    """Steps between two measurements of the dictionaries (phi, near-duplicates, classes; see docs/samplers.md). Each
    costs about as much as one selection. 0 means none."""

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
