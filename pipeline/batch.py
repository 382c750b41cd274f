"""The batch type that loaders yield to training and evaluation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from common.normalisation import VIDEO_MEAN, VIDEO_STD
from pipeline.plan.clips import ClipPlan


class Batch(NamedTuple):
    """B clips, with video and audio on the loader's device; the receiver may keep and modify the tensors."""

    video: torch.Tensor | None
    """float32 [B, 3, T, H, W], RGB, (value in [0, 1] - VIDEO_MEAN) / VIDEO_STD; None without video. The memory
    format is torch.channels_last_3d, which decoders produce and convolutions prefer."""
    audio: torch.Tensor | None
    """float32 [B, 1, n_mels, F], log-mel, (dB - audio.mean_db) / audio.std_db; None without audio."""
    ids: torch.Tensor
    """int64 [B] on the CPU, ids of the samples in the data set; the clips of a sample are next to each other."""
    start: torch.Tensor
    """float64 [B] on the CPU, seconds from the sample's start to the clip's first frame."""
    plan: ClipPlan | None = None
    """The plan that the loader carried out: crops, flips, colours, audio windows. None if no loader made the batch."""

    @classmethod
    def of_plan(cls, plan: ClipPlan, *, video: torch.Tensor | None, audio: torch.Tensor | None) -> Batch:
        """Builds the batch that results from carrying out `plan`; masks the spectrograms in place as planned."""
        if audio is not None and plan.audio is not None:
            _mask(audio, plan.audio.time_masks, dim=3)
            _mask(audio, plan.audio.frequency_masks, dim=2)
        return cls(video, audio, torch.from_numpy(plan.ids), torch.from_numpy(plan.start), plan)


def clip_ids(samples: torch.Tensor, per_sample: int) -> torch.Tensor:
    """Returns the ids of a batch's clips, int64 [B]: sample id * per_sample + number of the clip among its sample's.

    Args:
        samples: int64 [B], the sample ids of complete groups of `per_sample` clips, on any device.
        per_sample: clip.per_sample; with 1, the clip ids are the sample ids.
    """
    return samples * per_sample + torch.arange(len(samples), device=samples.device) % per_sample


def _mask(audio: torch.Tensor, masks: np.ndarray | None, *, dim: int) -> None:
    """Sets ranges of spectrograms [B, 1, n_mels, F] to 0, which is audio.mean_db.

    Args:
        masks: int64 [B, masks, 2], first masked position along `dim` and the one after the last; None masks nothing.
    """
    if masks is None:
        return
    place = np.arange(audio.shape[dim])
    masked = np.any((masks[:, :, :1] <= place) & (place < masks[:, :, 1:]), axis=1)  # [B, size of dim]
    shape = [len(masks), 1, 1, 1]
    shape[dim] = -1
    audio.masked_fill_(torch.from_numpy(masked.reshape(shape)).to(audio.device, non_blocking=True), 0.0)


def pixels(video: torch.Tensor) -> np.ndarray:
    """Undoes the normalisation: float32 [..., 3, T, H, W] on the CPU to uint8 [..., T, H, W, 3]."""
    frames = video.movedim(-4, -1).numpy() * np.array(VIDEO_STD, np.float32) + np.array(VIDEO_MEAN, np.float32)
    return (frames.clip(0, 1) * 255).round().astype(np.uint8)
