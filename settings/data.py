"""Settings of the data: storage, preparation, clips, audio, augmentation of both, loading."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from common.stores.urls import check_url, is_url
from settings.errors import ConfigError, require
from settings.mix import MixedSetConfig, check_mix


@dataclass(frozen=True)
class StorageConfig:
    """How a video is stored in a shard."""

    codec: Literal["vp9", "jpeg"] = "vp9"
    """Codec of the stored video. vp9 is small; jpeg takes about four times the bytes but half the CPU time to decode,
    or a quarter with a GPU."""
    fps: float = 10.0
    """Frames per second of the stored video; clips are read at this rate or an integer fraction of it."""
    short_side: int = 144
    """Length of the shorter side of the stored video in pixels; both sides are rounded to even numbers."""
    gop: int = 16
    """Frames per group of pictures with vp9; decoding a clip costs at most this many extra frames."""
    quality: int = 0
    """Quality of the stored video; lower is better. For vp9 it is the CRF, 1 to 63 (0 means 30); for jpeg it is
    FFmpeg's qscale, 1 to 31 (0 means 4)."""

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
    """Settings of `python -m pipeline.prepare`, set by `key=value`."""

    storage: StorageConfig = field(default_factory=StorageConfig)
    streams: Literal["both", "video", "audio"] = "both"
    """Tracks that a source must have and that are stored."""
    sample_rate: int = 16000
    """Sample rate of the stored mono 16-bit PCM in Hz."""
    min_seconds: float = 0.5
    """Shortest duration in seconds; shorter sources are rejected."""
    max_seconds: float = 600.0
    """Longest duration in seconds; longer sources are cut and flagged."""
    windows: float = 0.0
    """Length in seconds of the windows into which longer sources and segments are cut; each becomes a sample, also a
    shorter rest at the end of at least min_seconds. 0 means one sample each, cut at max_seconds."""
    max_pixels: int = 8192 * 8192
    """Largest number of pixels per source frame; sources with larger frames are rejected before they are decoded."""
    shard_samples: int = 256
    """Largest number of samples per tar shard."""
    timeout_seconds: float = 120.0
    """Time limit per source in seconds; a source that exceeds it is rejected, and its worker is replaced. If a source
    gives several samples, it is the limit for each of them and for each max_seconds of the source."""
    memory_mb: int = 4096
    """Address space in MiB that a worker may use for a source, in addition to what it already occupies."""

    def __post_init__(self) -> None:
        require(
            8000 <= self.sample_rate <= 48000,
            f"sample_rate must be in [8000, 48000] Hz, not {self.sample_rate}",
        )
        require(
            0 < self.min_seconds < self.max_seconds,
            f"0 < min_seconds < max_seconds must hold, but they are {self.min_seconds} and {self.max_seconds}",
        )
        require(
            self.windows == 0 or self.min_seconds <= self.windows <= self.max_seconds,
            f"windows must be 0, or from min_seconds={self.min_seconds:g} to max_seconds={self.max_seconds:g} seconds, "
            f"not {self.windows}",
        )
        require(self.shard_samples >= 1, f"shard_samples must be at least 1, not {self.shard_samples}")
        require(self.timeout_seconds > 0, f"timeout_seconds must be positive, not {self.timeout_seconds}")
        require(self.memory_mb >= 256, f"memory_mb must be at least 256, not {self.memory_mb}")


@dataclass(frozen=True)
class ClipConfig:
    """The video window of a clip."""

    frames: int = 16
    """Number of frames per clip (T)."""
    fps: float = 10.0
    """Frames per second of a clip; the stored frame rate must be an integer multiple of it."""
    size: int = 112
    """Height and width of the crop in pixels (H = W)."""
    per_sample: int = 1
    """Number of clips of each sample per training step, each with its own window, crop and audio. train.batch_size
    counts clips and must be a multiple of it. Clips of one sample are never negatives of one another."""

    def __post_init__(self) -> None:
        require(1 <= self.per_sample <= 1000, f"clip.per_sample must be in [1, 1000], not {self.per_sample}")
        require(self.frames >= 1, f"clip.frames must be at least 1, not {self.frames}")
        require(0.01 <= self.fps <= 240, f"clip.fps must be in [0.01, 240], not {self.fps}")
        require(self.size >= 16, f"clip.size must be at least 16, not {self.size}")

    @property
    def seconds(self) -> float:
        """Length of the video window in seconds."""
        return self.frames / self.fps


@dataclass(frozen=True)
class AudioConfig:
    """The audio window of a clip and its log-mel spectrogram, as by torchaudio's MelSpectrogram and AmplitudeToDB."""

    seconds: float = 0.0
    """Length in seconds of the audio window, centred on the video window; 0 means the length of the video window."""
    sample_rate: int = 16000
    """Sample rate in Hz; it must equal that of the prepared data."""
    n_mels: int = 80
    """Number of mel bands (M)."""
    n_fft: int = 512
    """Length of the Fourier transform in samples; the window is zero-padded to this length."""
    window: int = 400
    """Length of the Hann window in samples (25 ms at 16 kHz)."""
    hop: int = 160
    """Distance between spectrogram frames in samples (10 ms at 16 kHz)."""
    f_min: float = 0.0
    """Lower edge of the lowest mel band in Hz."""
    f_max: float = 8000.0
    """Upper edge of the highest mel band in Hz."""
    mean_db: float = -35.0
    """Level in decibels (reference 1.0, floor -100 dB) that is subtracted from the spectrogram."""
    std_db: float = 25.0
    """Scale in decibels by which the spectrogram is divided after audio.mean_db is subtracted."""

    def __post_init__(self) -> None:
        require(0 <= self.seconds <= 3600, f"audio.seconds must be in [0, 3600], not {self.seconds}")
        require(
            0 < self.hop <= self.window <= self.n_fft,
            f"audio: 0 < hop <= window <= n_fft must hold, but they are {self.hop}, {self.window}, {self.n_fft}",
        )
        require(
            0 <= self.f_min < self.f_max <= self.sample_rate / 2,
            "audio: 0 <= f_min < f_max <= sample_rate/2 must hold, but f_min, f_max and sample_rate are "
            f"{self.f_min}, {self.f_max}, {self.sample_rate}",
        )
        require(self.n_mels >= 8, f"audio.n_mels must be at least 8, not {self.n_mels}")
        require(self.std_db > 0, f"audio.std_db must be positive, not {self.std_db}")


@dataclass(frozen=True)
class AugmentConfig:
    """Video augmentation; every factor is a function of (seed, epoch, sample id)."""

    enabled: bool = True
    """Whether training clips are augmented; otherwise they are centre crops. Test clips are never augmented."""
    crop_area: tuple[float, float] = (0.3, 1.0)
    """Smallest and largest area of the crop, as a fraction of the frame's area."""
    crop_ratio: tuple[float, float] = (0.75, 1.333)
    """Smallest and largest ratio of the crop's width to its height."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    brightness: float = 0.4
    """Strength x; the brightness factor is drawn from [1 - x, 1 + x]."""
    contrast: float = 0.4
    """Strength x; the contrast factor is drawn from [1 - x, 1 + x]."""
    saturation: float = 0.4
    """Strength x; the saturation factor is drawn from [1 - x, 1 + x]."""
    hue: float = 0.0
    """Largest rotation of the hue in degrees; the angle is drawn from [-hue, hue]."""
    gray: float = 0.2
    """Probability of converting a clip to grey."""

    def __post_init__(self) -> None:
        low, high = self.crop_area
        require(
            0 < low <= high <= 1,
            f"augment.crop_area must be [low, high] with 0 < low <= high <= 1, not {self.crop_area}",
        )
        low, high = self.crop_ratio
        require(0 < low <= high, f"augment.crop_ratio must be [low, high] with 0 < low <= high, not {self.crop_ratio}")
        for name in ("flip", "gray", "brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augment.{name} must be in [0, 1], not {value}")
        require(0 <= self.hue <= 180, f"augment.hue must be in [0, 180] degrees, not {self.hue}")


@dataclass(frozen=True)
class AudioAugmentConfig:
    """Audio augmentation of training clips, which is off by default; every number is a function of (seed, epoch,
    sample id). The changes are made in the order of the fields."""

    shift_seconds: float = 0.0
    """Largest distance in seconds between the audio window and its place at the clip's video. The window is drawn
    uniformly from those within this distance that lie within the sample."""
    mix: float = 0.0
    """Largest share x of another sample's audio: with s drawn from [0, x], a waveform becomes (1 - s) times itself plus
    s times a window of the other, which is read from disk. That sample is drawn from all samples to train on, or with
    data.order=shards from those of the same shard."""
    gain_db: float = 0.0
    """Strength x in decibels; each waveform is amplified by a gain drawn from [-x, x]."""
    time_masks: int = 0
    """Number of time masks per spectrogram, as in SpecAugment; masked values become audio.mean_db."""
    time_mask_frames: int = 20
    """Largest width of a time mask in spectrogram frames; each width is drawn from 0 to this."""
    frequency_masks: int = 0
    """Number of frequency masks per spectrogram; masked values become audio.mean_db."""
    frequency_mask_bands: int = 10
    """Largest width of a frequency mask in mel bands; each width is drawn from 0 to this."""

    def __post_init__(self) -> None:
        require(
            0 <= self.shift_seconds <= 3600,
            f"audio_augment.shift_seconds must be in [0, 3600], not {self.shift_seconds}",
        )
        require(0 <= self.mix <= 0.5, f"audio_augment.mix must be in [0, 0.5], not {self.mix}")
        require(0 <= self.gain_db <= 60, f"audio_augment.gain_db must be in [0, 60], not {self.gain_db}")
        for name in ("time_masks", "frequency_masks"):
            value = getattr(self, name)
            require(0 <= value <= 100, f"audio_augment.{name} must be in [0, 100], not {value}")
        for name in ("time_mask_frames", "frequency_mask_bands"):
            value = getattr(self, name)
            require(value >= 1, f"audio_augment.{name} must be at least 1, not {value}")

    @property
    def enabled(self) -> bool:
        """Whether any audio augmentation is on."""
        return bool(self.shift_seconds or self.changes_waveform or self.time_masks or self.frequency_masks)

    @property
    def changes_waveform(self) -> bool:
        """Whether the values of a waveform change, so that they are no longer 16-bit integers."""
        return bool(self.mix or self.gain_db)


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and how they are loaded."""

    path: str = ""
    """Folder of prepared shards (loader dali) or of raw videos (loader decord). Shards may also be in an object store:
    s3://, gs://, az://, hf:// or another URL (docs/stores.md)."""
    cache_dir: str = ""
    """Folder of this machine for copies of files from object stores, shared by its processes; empty means
    $CMACC_SCRATCH, or ~/.cache/cm-acc."""
    cache_gb: float = 20.0
    """Largest size in GB of the copies of shards in data.cache_dir. Shards are copied ahead of their use. What is not
    copied yet, or does not fit, is read in ranges; 0 makes no copies."""
    mix: dict[str, MixedSetConfig] = field(default_factory=dict)
    """Several data sets in place of data.path, each with a name: `NAME: {path: FOLDER or URL, weight: 0.7}`, and if
    needed `split`, `leave_out` and `weights` as below. The weights are relative shares of the clips
    (docs/datasets.md)."""
    loader: str = "dali"
    """Loader: dali reads prepared shards with NVIDIA DALI; decord reads raw videos, as a slow reference."""
    labels: str = ""
    """CSV file with the labels of raw videos; only for loader decord, as shards carry their labels."""
    split: str = ""
    """Value of the label column `split` that selects the samples to train on; empty means all samples."""
    leave_out: str = ""
    """List of samples to leave out: a CSV file with a column `source`, or a text file with one source per line; empty
    leaves out none. A run is only resumed with a list of the same sources."""
    weights: str = ""
    """Weights of the samples, which are trained on in proportion to them: the name of a label column, or a CSV file
    (ending in .csv) with the columns `source` and `weight`. A weight of 0 leaves a sample out; empty means equal
    weights. A run is only resumed with the same weights."""
    order: Literal["global", "shards"] = "global"
    """Order of samples. global: shuffle all samples (for fast disks). shards: shuffle the shards, then the samples
    within a window (for network disks)."""
    window: int = 4096
    """Size of the shuffle window in samples, with order=shards."""
    shuffle_pairs: bool = False
    """Control experiment: pair each video with the audio of another sample, at an independent position. The pairs are
    drawn again each epoch."""
    threads: int = 0
    """Decode threads per process; 0 divides the available cores among this machine's processes."""
    vp9_decoder: Literal["cpu", "nvdec"] = "cpu"
    """Decoder for VP9 in training on a GPU (JPEG is always decoded on the GPU). nvdec is the GPU's video decoder; with
    DALI 2.4 it is slower than two CPU cores and takes more CPU time (docs/performance.md)."""
    idle_priority: bool = True
    """Whether the loader's threads run at idle priority (SCHED_IDLE) when training on a CPU, so that they take no CPU
    time from the model. Turn it off on a machine shared with other work, for which the loader would also wait."""
    prefetch: int = 2
    """Number of batches loaded ahead."""
    max_bad_fraction: float = 0.001
    """Largest fraction of samples that may fail to decode. Each is replaced by another sample; beyond this fraction the
    run stops and lists them. 0 means that the first failure stops the run."""

    def __post_init__(self) -> None:
        require(
            0 <= self.max_bad_fraction <= 1, f"data.max_bad_fraction must be in [0, 1], not {self.max_bad_fraction}"
        )
        require(0 <= self.cache_gb <= 1e9, f"data.cache_gb must be at least 0, not {self.cache_gb}")
        try:
            check_url(self.path)
        except ValueError as error:
            raise ConfigError(f"data.path: {error}") from None
        require(
            self.loader == "dali" or not is_url(self.path),
            f"data.loader={self.loader} reads folders of this machine only, not data.path={self.path}",
        )
        require(not is_url(self.cache_dir), f"data.cache_dir must be a folder of this machine, not {self.cache_dir}")
        require(self.threads >= 0, f"data.threads must be at least 0, not {self.threads}")
        require(self.prefetch >= 1, f"data.prefetch must be at least 1, not {self.prefetch}")
        require(self.window >= 1, f"data.window must be at least 1, not {self.window}")
        check_mix(self.mix)
        for key in ("path", "split", "leave_out", "weights", "labels"):
            value = getattr(self, key)
            also = "" if key == "labels" else f", or set data.mix.NAME.{key}"
            require(not self.mix or not value, f"data.{key}={value} and data.mix exclude each other: remove one{also}")
        require(
            not self.mix or self.loader == "dali",
            f"data.mix needs prepared shards, which data.loader={self.loader} does not read: set data.loader=dali",
        )

    @property
    def sets(self) -> dict[str, MixedSetConfig]:
        """The data sets by the prefix of their keys: `data.mix.NAME.` for those of a mix, otherwise `data.`."""
        if self.mix:
            return {f"data.mix.{name}.": one for name, one in self.mix.items()}
        return {"data.": MixedSetConfig(self.path, 1.0, self.split, self.leave_out, self.weights)}

    @property
    def where(self) -> str:
        """The folder of the data set, or the folders of a mix, for messages."""
        return " and ".join(one.path for one in self.sets.values())

    def without_split(self, **changes: Any) -> DataConfig:
        """Returns these settings with `changes`, for loading all samples with their own audio at normal priority.

        Of a mix nothing remains: `changes` must name a path.
        """
        defaults = {"leave_out": "", "idle_priority": False}
        return replace(self, split="", mix={}, weights="", shuffle_pairs=False, **{**defaults, **changes})
