"""The batch type that loaders yield to training and evaluation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from pipeline.plan.augment import VIDEO_MEAN, VIDEO_STD
from pipeline.plan.clips import ClipPlan


class Batch(NamedTuple):
    """B clips, with video and audio on the loader's device; the receiver may keep and modify the tensors."""

    video: torch.Tensor | None
    """float32 [B, 3, T, H, W], RGB, (value in [0, 1] - VIDEO_MEAN) / VIDEO_STD; None without video. The memory
    format is torch.channels_last_3d, which decoders produce and convolutions prefer."""
    audio: torch.Tensor | None
    """float32 [B, 1, n_mels, F], log-mel, (dB - audio.mean_db) / audio.std_db; None without audio."""
    ids: torch.Tensor
    """int64 [B] on the CPU, ids of the samples in the data set."""
    start: torch.Tensor
    """float64 [B] on the CPU, seconds from the sample's start to the clip's first frame."""
    plan: ClipPlan | None = None
    """The plan that the loader carried out: crops, flips, colours, audio windows. None if no loader made the batch."""

    @classmethod
    def of_plan(cls, plan: ClipPlan, *, video: torch.Tensor | None, audio: torch.Tensor | None) -> Batch:
        """Builds the batch that results from carrying out `plan`."""
        return cls(video, audio, torch.from_numpy(plan.ids), torch.from_numpy(plan.start), plan)


def pixels(video: torch.Tensor) -> np.ndarray:
    """Undoes the normalisation: float32 [..., 3, T, H, W] on the CPU to uint8 [..., T, H, W, 3]."""
    frames = video.movedim(-4, -1).numpy() * np.array(VIDEO_STD, np.float32) + np.array(VIDEO_MEAN, np.float32)
    return (frames.clip(0, 1) * 255).round().astype(np.uint8)
