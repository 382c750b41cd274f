"""Settings of evaluate.py, given as key=value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from settings import AugmentConfig, require


@dataclass(frozen=True)
class FinetuneConfig:
    """The recipe of finetune, esc50_finetune and kinetics_linear: AdamW, linear warm-up, cosine to zero.

    The same for every row of a table.
    """

    epochs: int = 30
    """Passes over the training part; what is tested is the last one."""
    lr: float = 1e-4
    """Learning rate of the encoder after warm-up."""
    head_lr: float = 1e-3
    """Learning rate of the new last layer, which is all that the linear rows train."""
    weight_decay: float = 1e-2
    """Decay of the weights; vectors (biases, BatchNorm) are left alone."""
    warmup_epochs: float = 1.0
    """Epochs in which the learning rates rise from 0."""
    dropout: float = 0.5
    """Share of the features dropped before the last layer."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the training clips."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"finetune.epochs must be at least 1, not {self.epochs}")
        require(self.lr > 0, f"finetune.lr must be positive, not {self.lr}")
        require(self.head_lr > 0, f"finetune.head_lr must be positive, not {self.head_lr}")
        require(self.weight_decay >= 0, f"finetune.weight_decay must be at least 0, not {self.weight_decay}")
        require(self.warmup_epochs >= 0, f"finetune.warmup_epochs must be at least 0, not {self.warmup_epochs}")
        require(0 <= self.dropout < 1, f"finetune.dropout must be in [0, 1), not {self.dropout}")


@dataclass(frozen=True)
class EvaluationConfig:
    """How test clips are taken and probes fitted; encoders and clip sizes come from the checkpoint."""

    clips: int = 4
    """Evenly spaced test clips of a sample."""
    crops: int = 1
    """Squares of each test clip, from one end of the frame's longer side to the other; 1 is the centre."""
    pooling: Literal["mean", "concat"] = "mean"
    """mean averages the clips' features. concat puts them one after the other: for labels that are tied to a place in
    time, as words in a sentence."""
    batch_size: int = 32
    """Clips that are decoded and encoded together, and a step's clips in fine-tuning."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU, if there is one."""
    loader: str = ""
    """dali or decord; empty takes the checkpoint's."""
    labels: str = ""
    """labels.csv of raw videos (loader decord only)."""
    splits: str = ""
    """Folder of the official lists of UCF101 (trainlist01.txt, ...) or HMDB51 (..._test_split1.txt); empty takes the
    label column split (finetune also split2, split3, ...)."""
    frames: int = 0
    """Frames of a clip; 0 takes the checkpoint's."""
    size: int = 0
    """Pixels of a clip's side; 0 takes the checkpoint's."""
    reference: str = ""
    """Adds rows of torchvision's Kinetics-400 weights for the checkpoint's video architecture: `torchvision` downloads
    them, or the path of a file of them (.pth as torchvision publishes it, or .safetensors)."""
    k: int = 10
    """Neighbours of the knn protocol."""
    folds: int = 5
    """Folds of the cross-validation that chooses the linear probe's C, within the training part."""
    seed: int = 0
    """Of the split by hash, the folds and fine-tuning."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Read by finetune, esc50_finetune and kinetics_linear."""

    def __post_init__(self) -> None:
        leasts = {"clips": 1, "crops": 1, "batch_size": 1, "k": 1, "folds": 2, "seed": 0, "frames": 0, "size": 0}
        for name, least in leasts.items():
            value = getattr(self, name)
            require(value >= least, f"{name} must be at least {least}, not {value}")
        require(
            self.pooling == "mean" or self.crops == 1,
            f"pooling=concat keeps the clips of a sample apart in time; it takes crops=1, not {self.crops}",
        )
