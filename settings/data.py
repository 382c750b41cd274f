"""Settings of what the model sees: storage, preparation, clips, sound, augmentation, the data set."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from settings.load import require


@dataclass(frozen=True)
class StorageConfig:
    """How a normalised video is stored in a shard (a "seekable blob")."""

    codec: Literal["vp9", "jpeg"] = "vp9"
    """vp9: small. jpeg: about four times the bytes, half the CPU time, and a GPU helps to decode it."""
    fps: float = 10.0
    """Frame rate of the stored video; clips are read at this rate or an integer fraction of it."""
    short_side: int = 144
    """Pixels of the shorter side after preparation (both sides are rounded to even numbers)."""
    gop: int = 16
    """Frames per group of pictures (vp9): a clip costs at most this many extra decoded frames."""
    quality: int = 0
    """vp9: CRF, 0 to 63, lower is better; jpeg: FFmpeg's qscale, 1 to 31, lower is better. 0 chooses 30 or 4."""

    def __post_init__(self) -> None:
        require(0.01 <= self.fps <= 240, f"storage.fps must be in [0.01, 240], not {self.fps}")
        require(16 <= self.short_side <= 4096, f"storage.short_side must be in [16, 4096], not {self.short_side}")
        require(self.gop >= 1, f"storage.gop must be at least 1, not {self.gop}")
        allowed = (0, 63) if self.codec == "vp9" else (0, 31)
        require(
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
        require(
            8000 <= self.sample_rate <= 48000,
            f"sample_rate must be in [8000, 48000] Hz, not {self.sample_rate}",
        )
        require(0 < self.min_seconds < self.max_seconds, "0 < min_seconds < max_seconds must hold")
        require(self.shard_samples >= 1, f"shard_samples must be at least 1, not {self.shard_samples}")
        require(self.timeout_seconds > 0, f"timeout_seconds must be positive, not {self.timeout_seconds}")
        require(self.memory_mb >= 256, f"memory_mb must be at least 256, not {self.memory_mb}")


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
        require(self.frames >= 1, f"clip.frames must be at least 1, not {self.frames}")
        require(0.01 <= self.fps <= 240, f"clip.fps must be in [0.01, 240], not {self.fps}")
        require(self.size >= 16, f"clip.size must be at least 16, not {self.size}")

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
        require(0 <= self.seconds <= 3600, f"audio.seconds must be in [0, 3600], not {self.seconds}")
        require(0 < self.hop <= self.window <= self.n_fft, "audio: 0 < hop <= window <= n_fft must hold")
        require(
            0 <= self.f_min < self.f_max <= self.sample_rate / 2,
            f"audio: 0 <= f_min < f_max <= sample_rate/2 must hold, not {self.f_min}, {self.f_max}, {self.sample_rate}",
        )
        require(self.n_mels >= 8, f"audio.n_mels must be at least 8, not {self.n_mels}")
        require(self.std_db > 0, f"audio.std_db must be positive, not {self.std_db}")


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
        require(0 < low <= high <= 1, f"augment.crop_area must hold 0 < low <= high <= 1, not {self.crop_area}")
        low, high = self.crop_ratio
        require(0 < low <= high, f"augment.crop_ratio must hold 0 < low <= high, not {self.crop_ratio}")
        for name in ("flip", "gray", "brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augment.{name} must be in [0, 1], not {value}")
        require(0 <= self.hue <= 180, f"augment.hue must be in [0, 180] degrees, not {self.hue}")


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
    """Control experiment: each video gets another sample's audio, drawn anew each epoch, from a place of its own."""
    threads: int = 0
    """Decode threads a process; 0 shares the machine's cores among its processes."""
    vp9_decoder: Literal["cpu", "nvdec"] = "cpu"
    """What decodes VP9 for a GPU; JPEG is decoded on it. nvdec: the GPU's own decoder, slower with DALI 2.4 than
    two CPU cores, whose time it takes more of (docs/performance.md)."""
    idle_priority: bool = True
    """Where the model trains on the CPU, the loader's threads run only on cores that nothing else wants (SCHED_IDLE).
    On a machine shared with other work such a loader waits for everybody: turn it off there."""
    prefetch: int = 2
    """Batches prepared ahead."""
    max_bad_fraction: float = 0.001
    """A sample that cannot be decoded is replaced by another one, and the run stops with their list once more than this
    share of the samples is bad; 0 stops at the first."""

    def __post_init__(self) -> None:
        require(
            0 <= self.max_bad_fraction <= 1, f"data.max_bad_fraction must be in [0, 1], not {self.max_bad_fraction}"
        )
        require(self.threads >= 0, f"data.threads must be at least 0, not {self.threads}")
        require(self.prefetch >= 1, f"data.prefetch must be at least 1, not {self.prefetch}")
        require(self.window >= 1, f"data.window must be at least 1, not {self.window}")

    def without_split(self, **changes: Any) -> DataConfig:
        """All samples, each video with its own audio, at normal priority, and `changes`: to look at a run's data."""
        return replace(self, split="", shuffle_pairs=False, **{"idle_priority": False, **changes})
