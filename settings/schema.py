"""The complete settings of a training run; the imported modules define each section, with units and allowed values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from settings.data import AudioAugmentConfig, AudioConfig, AugmentConfig, ClipConfig, DataConfig
from settings.errors import require
from settings.learning import DictionaryConfig, LossConfig, ModelConfig, OptimConfig, PoolConfig, SamplerConfig
from settings.load import AUTO
from settings.running import CheckpointConfig, LogConfig, MonitorConfig, TrainConfig


@dataclass(frozen=True)
class Config:
    """Settings of a training run."""

    run_dir: str = "runs/default"
    """Folder for checkpoints, metrics and the resolved configuration; or its URL, such as s3://bucket/runs/first."""
    seed: int = 0
    """Seed of all randomness of a run."""
    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    audio_augment: AudioAugmentConfig = field(default_factory=AudioAugmentConfig)
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

    def __post_init__(self) -> None:
        audio, batch, clips = self.audio_augment, self.train.batch_size, self.clip.per_sample
        require(
            not audio.time_masks or audio.time_mask_frames <= self.audio_frames,
            f"audio_augment.time_mask_frames={audio.time_mask_frames} must not exceed the {self.audio_frames} frames "
            "of a spectrogram: lower it, or lengthen audio.seconds",
        )
        require(
            not audio.frequency_masks or audio.frequency_mask_bands <= self.audio.n_mels,
            f"audio_augment.frequency_mask_bands={audio.frequency_mask_bands} must not exceed "
            f"audio.n_mels={self.audio.n_mels}: lower it",
        )
        require(
            batch == AUTO or batch % clips == 0,
            f"train.batch_size={batch} counts clips, so it must be a multiple of clip.per_sample={clips}",
        )
        require(
            not self.data.mix or not self.monitor.every_epochs or bool(self.monitor.data),
            "monitor.data must name the data set to measure when data.mix is set and monitor.every_epochs > 0",
        )

    @property
    def audio_seconds(self) -> float:
        """Length of the audio window in seconds."""
        return self.audio.seconds or self.clip.seconds

    @property
    def audio_samples(self) -> int:
        """Number of PCM samples in the audio window."""
        return math.ceil(self.audio_seconds * self.audio.sample_rate)

    @property
    def audio_frames(self) -> int:
        """F, the number of spectrogram frames in the audio window (centred Fourier windows)."""
        return 1 + self.audio_samples // self.audio.hop

    def for_evaluation(self) -> Config:
        """Returns these settings for loading one clip per sample, with unchanged audio."""
        return replace(self, clip=replace(self.clip, per_sample=1), audio_augment=AudioAugmentConfig())

    @property
    def pool_in_use(self) -> PoolConfig:
        """The pool settings in effect: fifo always has source stream, as it takes the keys of the latest batches."""
        if self.sampler.name == "fifo":
            return replace(self.pool, source="stream", refresh_every=1)
        return self.pool

    def draws_pool(self, epoch: int) -> bool:
        """Whether the pool is filled with newly encoded random clips at the start of this epoch (counted from 0)."""
        pool = self.pool_in_use
        return epoch == 0 or (pool.source == "epoch" and epoch % pool.refresh_every == 0)
