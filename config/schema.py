"""Every setting of the project, its unit, its default and what is allowed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from config.load import ConfigError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class StorageConfig:
    """How a normalised video is stored in a shard (a "seekable blob")."""

    codec: Literal["vp9", "jpeg"] = "vp9"
    """vp9: small, decodes on CPU and NVDEC. jpeg: about six times the bytes, half the CPU time."""
    fps: float = 10.0
    """Frame rate of the stored video; clips are read at this rate or an integer fraction of it."""
    short_side: int = 144
    """Pixels of the shorter side after preparation (both sides are rounded to even numbers)."""
    gop: int = 16
    """Frames per group of pictures (vp9): a clip costs at most this many extra decoded frames."""
    quality: int = 0
    """vp9: CRF, 0 to 63, lower is better; jpeg: FFmpeg's qscale, 2 to 31, lower is better. 0 chooses 30 or 4."""

    def __post_init__(self) -> None:
        _require(0 < self.fps <= 240, f"storage.fps must be in (0, 240], not {self.fps}")
        _require(16 <= self.short_side <= 4096, f"storage.short_side must be in [16, 4096], not {self.short_side}")
        _require(self.gop >= 1, f"storage.gop must be at least 1, not {self.gop}")
        allowed = (0, 63) if self.codec == "vp9" else (0, 31)
        _require(
            allowed[0] <= self.quality <= allowed[1],
            f"storage.quality for {self.codec} must be in {list(allowed)}, not {self.quality}",
        )


@dataclass(frozen=True)
class PrepareConfig:
    """Settings of `python -m pipeline.prepare`, given as key=value."""

    storage: StorageConfig = field(default_factory=StorageConfig)
    streams: Literal["both", "video", "audio"] = "both"
    """Which tracks a sample must have (and which are stored)."""
    sample_rate: int = 16000
    """Hz of the stored mono 16-bit PCM."""
    min_seconds: float = 0.5
    """Shorter sources are rejected as too short."""
    max_seconds: float = 600.0
    """Longer sources are cut here, and flagged."""
    max_pixels: int = 8192 * 8192
    """A source whose frames are larger is rejected before it is decoded."""
    shard_samples: int = 256
    """Samples a tar shard holds at most."""
    timeout_seconds: float = 120.0
    """A source that takes longer is given up (a hang inside a decoder), its worker replaced."""
    memory_mb: int = 4096
    """Address space a worker may take beyond what it has at its start."""

    def __post_init__(self) -> None:
        _require(
            8000 <= self.sample_rate <= 48000,
            f"sample_rate must be in [8000, 48000] Hz, not {self.sample_rate}",
        )
        _require(0 < self.min_seconds < self.max_seconds, "0 < min_seconds < max_seconds must hold")
        _require(self.shard_samples >= 1, f"shard_samples must be at least 1, not {self.shard_samples}")
        _require(self.timeout_seconds > 0, f"timeout_seconds must be positive, not {self.timeout_seconds}")
        _require(self.memory_mb >= 256, f"memory_mb must be at least 256, not {self.memory_mb}")


@dataclass(frozen=True)
class ClipConfig:
    """The video window of a clip."""

    frames: int = 16
    """T, frames of a clip."""
    fps: float = 10.0
    """Frames per second within the clip; stored fps must be an integer multiple of it."""
    size: int = 112
    """H = W of the crop, in pixels."""

    def __post_init__(self) -> None:
        _require(self.frames >= 1, f"clip.frames must be at least 1, not {self.frames}")
        _require(self.fps > 0, f"clip.fps must be positive, not {self.fps}")
        _require(self.size >= 16, f"clip.size must be at least 16, not {self.size}")

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


@dataclass(frozen=True)
class AudioConfig:
    """The audio window of a clip and its log-mel spectrogram (torchaudio's MelSpectrogram, AmplitudeToDB)."""

    seconds: float = 0.0
    """Length of the audio window, centred on the video window; 0 takes the video window's length."""
    sample_rate: int = 16000
    """Hz; must be that of the prepared data."""
    n_mels: int = 80
    """Mel bands."""
    n_fft: int = 512
    """Samples of the Fourier transform; the window is padded to it with zeros."""
    window: int = 400
    """Samples of the Hann window (25 ms at 16 kHz)."""
    hop: int = 160
    """Samples between spectrogram frames (10 ms at 16 kHz)."""
    f_min: float = 0.0
    """Hz, lower edge of the lowest mel band."""
    f_max: float = 8000.0
    """Hz, upper edge of the highest mel band."""
    mean_db: float = -35.0
    """Subtracted from the decibels (reference 1.0, floor -100 dB) before the model."""
    std_db: float = 25.0
    """The decibels are divided by it before the model."""

    def __post_init__(self) -> None:
        _require(self.seconds >= 0, f"audio.seconds must be at least 0, not {self.seconds}")
        _require(0 < self.hop <= self.window <= self.n_fft, "audio: 0 < hop <= window <= n_fft must hold")
        _require(
            0 <= self.f_min < self.f_max <= self.sample_rate / 2,
            f"audio: 0 <= f_min < f_max <= sample_rate/2 must hold, not {self.f_min}, {self.f_max}, {self.sample_rate}",
        )
        _require(self.n_mels >= 8, f"audio.n_mels must be at least 8, not {self.n_mels}")
        _require(self.std_db > 0, f"audio.std_db must be positive, not {self.std_db}")


@dataclass(frozen=True)
class AugmentConfig:
    """Video augmentation; every factor is a function of (seed, epoch, sample id)."""

    enabled: bool = True
    """False: the centre crop, no flip, no colour (test clips are always so)."""
    crop_area: tuple[float, float] = (0.3, 1.0)
    """Range of the crop's share of the frame's area."""
    crop_ratio: tuple[float, float] = (0.75, 1.333)
    """Range of the crop's width over height."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    brightness: float = 0.4
    """Brightness factor is drawn from [1 - x, 1 + x]."""
    contrast: float = 0.4
    """Contrast factor, likewise."""
    saturation: float = 0.4
    """Saturation factor, likewise."""
    hue: float = 0.0
    """Hue is turned by up to this many degrees either way."""
    gray: float = 0.2
    """Probability of a grey-scale clip."""

    def __post_init__(self) -> None:
        low, high = self.crop_area
        _require(0 < low <= high <= 1, f"augment.crop_area must hold 0 < low <= high <= 1, not {self.crop_area}")
        low, high = self.crop_ratio
        _require(0 < low <= high, f"augment.crop_ratio must hold 0 < low <= high, not {self.crop_ratio}")
        for name in ("flip", "gray", "brightness", "contrast", "saturation"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"augment.{name} must be in [0, 1], not {value}")
        _require(0 <= self.hue <= 180, f"augment.hue must be in [0, 180] degrees, not {self.hue}")


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from."""

    path: str = ""
    """Folder of prepared shards (loader dali), or of raw videos (loader decord)."""
    loader: str = "dali"
    """dali: prepared shards through NVIDIA DALI. decord: raw videos, as a reference."""
    labels: str = ""
    """labels.csv of the raw videos (loader decord only; shards carry their labels)."""
    split: str = ""
    """Train only on samples whose label column `split` has this value; empty takes all."""
    order: Literal["global", "shards"] = "global"
    """global: a true shuffle (fast disks). shards: shuffled shards and a window (network disks)."""
    window: int = 4096
    """Samples of the shuffle window with order: shards."""
    shuffle_pairs: bool = False
    """Control experiment: pairs each video with another sample's audio (fixed for the whole run)."""
    threads: int = 0
    """Decode threads a process; 0 shares the machine's cores among its processes."""
    prefetch: int = 2
    """Batches prepared ahead."""
    max_bad_fraction: float = 0.001
    """A sample that cannot be decoded is replaced by another one, and the run stops with their list once more than this
    share of the samples is bad; 0 stops at the first."""

    def __post_init__(self) -> None:
        _require(
            0 <= self.max_bad_fraction <= 1, f"data.max_bad_fraction must be in [0, 1], not {self.max_bad_fraction}"
        )
        _require(self.threads >= 0, f"data.threads must be at least 0, not {self.threads}")
        _require(self.prefetch >= 1, f"data.prefetch must be at least 1, not {self.prefetch}")
        _require(self.window >= 1, f"data.window must be at least 1, not {self.window}")


@dataclass(frozen=True)
class ModelConfig:
    """Encoders, heads and their momentum copies."""

    video: str = "r2plus1d_18"
    """r2plus1d_18, r3d_18, mc3_18 (torchvision) or tiny."""
    audio: str = "resnet1d_18"
    """resnet1d_18 (1-D convolutions on mel bands, the paper's), resnet18 (2-D) or tiny."""
    head: Literal["linear", "mlp"] = "linear"
    """Projection from features to queries and keys: one linear layer, or linear, BatchNorm, ReLU, linear."""
    dim: int = 128
    """D, length of queries and keys."""
    hidden: int = 512
    """Hidden width of an mlp head."""
    head_batchnorm: bool = True
    """BatchNorm without affine parameters between the head and the L2 norm: keeps keys from drifting together."""
    momentum: float = 0.999
    """m of the momentum update h <- m h + (1 - m) f."""
    cross_modal_fc: bool = False
    """The momentum head follows the query head of the other modality (the paper's extra FC)."""

    def __post_init__(self) -> None:
        _require(self.dim >= 2, f"model.dim must be at least 2, not {self.dim}")
        _require(0 <= self.momentum <= 1, f"model.momentum must be in [0, 1], not {self.momentum}")


@dataclass(frozen=True)
class LossConfig:
    """Symmetric InfoNCE."""

    temperature: float = 0.1
    """Divides the cosine similarities, in the loss and in the sampler's scores."""

    def __post_init__(self) -> None:
        _require(self.temperature > 0, f"loss.temperature must be positive, not {self.temperature}")


@dataclass(frozen=True)
class SamplerConfig:
    """How the dictionary is filled from the pool."""

    name: str = "kmeanspp"
    """A key of sampler.SAMPLERS."""
    embedding: Literal["gradient", "query_gradient", "negative_gradient", "feature"] = "gradient"
    """What D2 sampling measures distances in (see sampler/gradient.py)."""
    condition_on_dictionary: bool = False
    """Distances start from what the dictionary already holds."""
    every_n_steps: int = 1
    """Select (n times as many keys) every n-th step."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the chosen sampler."""

    def __post_init__(self) -> None:
        _require(self.every_n_steps >= 1, f"sampler.every_n_steps must be at least 1, not {self.every_n_steps}")


@dataclass(frozen=True)
class PoolConfig:
    """The candidates the sampler picks from."""

    source: Literal["stream", "epoch"] = "stream"
    """stream: ring of the most recent keys. epoch: random clips encoded anew at every epoch's start."""
    size: int = 38400
    """N; clamped to the samples of the data set for source epoch."""
    refresh_every: int = 1
    """Epochs between two draws of a pool of source epoch."""
    remove_selected: bool = False
    """Whether a selected key leaves the pool (the paper's stay)."""

    def __post_init__(self) -> None:
        _require(self.size >= 1, f"pool.size must be at least 1, not {self.size}")
        _require(self.refresh_every >= 1, f"pool.refresh_every must be at least 1, not {self.refresh_every}")
        _require(
            self.source == "epoch" or self.refresh_every == 1,
            "pool.refresh_every is for pool.source=epoch; a stream pool is refreshed by every batch",
        )


@dataclass(frozen=True)
class DictionaryConfig:
    """The negatives of each modality."""

    size: int = 3840
    """K."""

    def __post_init__(self) -> None:
        _require(self.size >= 1, f"dictionary.size must be at least 1, not {self.size}")


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and learning-rate schedule (linear warm-up, then cosine to zero)."""

    name: Literal["adamw", "sgd"] = "adamw"
    """Optimiser."""
    lr: float = 1e-3
    """Learning rate after warm-up."""
    weight_decay: float = 1e-4
    """Decay of weights; biases and BatchNorm are left alone."""
    sgd_momentum: float = 0.9
    """Momentum of sgd."""
    warmup_steps: int = 500
    """Steps in which the learning rate rises from 0."""
    clip_grad_norm: float = 0.0
    """Largest norm of the gradient; 0 does not clip."""

    def __post_init__(self) -> None:
        _require(self.lr > 0, f"optim.lr must be positive, not {self.lr}")
        _require(self.warmup_steps >= 0, f"optim.warmup_steps must be at least 0, not {self.warmup_steps}")
        _require(self.clip_grad_norm >= 0, f"optim.clip_grad_norm must be at least 0, not {self.clip_grad_norm}")


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
    """auto: bf16 autocast on a GPU, fp32 on a CPU."""
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
        _require(self.epochs >= 1, f"train.epochs must be at least 1, not {self.epochs}")
        _require(self.steps >= 0, f"train.steps must be at least 0, not {self.steps}")
        _require(self.batch_size >= 2, f"train.batch_size must be at least 2, not {self.batch_size}")
        _require(self.accumulate >= 1, f"train.accumulate must be at least 1, not {self.accumulate}")
        _require(self.threads >= 0, f"train.threads must be at least 0, not {self.threads}")
        _require(self.log_every >= 1, f"train.log_every must be at least 1, not {self.log_every}")
        _require(
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
        _require(self.every_steps >= 1, f"checkpoint.every_steps must be at least 1, not {self.every_steps}")
        _require(self.keep >= 1, f"checkpoint.keep must be at least 1, not {self.keep}")
        _require(
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
        _require(bool(self.wandb_project) or not self.wandb, "log.wandb_project must be given with log.wandb=true")


@dataclass(frozen=True)
class MonitorConfig:
    """Features of the query encoders looked at while they train; the run itself is not touched."""

    every_epochs: int = 0
    """Measure after every n-th epoch; 0 never does."""
    data: str = ""
    """Folder of prepared shards with labels (raw videos for data.loader=decord); empty takes data.path."""
    label: str = ""
    """Label column whose classes the nearest neighbours vote for."""
    samples: int = 2000
    """Labelled samples looked at, the same ones every time; each is classified by its neighbours among the others."""
    neighbours: int = 20
    """k of the kNN classifier."""
    min_rank: float = 0.05
    """Warn when the embeddings' effective rank is below this share of model.dim (of the samples, if they are fewer)."""

    def __post_init__(self) -> None:
        _require(self.every_epochs >= 0, f"monitor.every_epochs must be at least 0, not {self.every_epochs}")
        _require(
            bool(self.label) or not self.every_epochs,
            "monitor.label must name a label column of the data when monitor.every_epochs > 0",
        )
        _require(self.neighbours >= 1, f"monitor.neighbours must be at least 1, not {self.neighbours}")
        _require(
            self.samples > self.neighbours,
            f"monitor.samples must be larger than monitor.neighbours={self.neighbours}, not {self.samples}",
        )
        _require(0 <= self.min_rank <= 1, f"monitor.min_rank must be in [0, 1], not {self.min_rank}")


@dataclass(frozen=True)
class Config:
    """A training run."""

    run_dir: str = "runs/default"
    """Folder of checkpoints, metrics and the resolved config."""
    seed: int = 0
    """All randomness of a run follows from it."""
    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    dictionary: DictionaryConfig = field(default_factory=DictionaryConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    @property
    def audio_seconds(self) -> float:
        """Length of the audio window in seconds."""
        return self.audio.seconds or self.clip.seconds

    @property
    def audio_samples(self) -> int:
        """PCM samples of the audio window."""
        return math.ceil(self.audio_seconds * self.audio.sample_rate)

    @property
    def audio_frames(self) -> int:
        """F, spectrogram frames of the audio window (centred windows)."""
        return 1 + self.audio_samples // self.audio.hop
