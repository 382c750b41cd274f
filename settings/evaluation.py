"""Settings of evaluate.py, given as key=value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from settings import AugmentConfig, require


@dataclass(frozen=True)
class FinetuneConfig:
    """The recipe of finetune, esc50_finetune and kinetics_linear: AdamW with a linear warm-up, then a cosine to zero.

    All rows of a table use the same recipe.
    """

    epochs: int = 30
    """Number of passes over the training part; the model after the last one is tested."""
    lr: float = 1e-4
    """Learning rate of the encoder after the warm-up."""
    head_lr: float = 1e-3
    """Learning rate of the new last layer, the only layer that the linear rows train."""
    weight_decay: float = 1e-2
    """Weight decay; biases and BatchNorm parameters are not decayed."""
    warmup_epochs: float = 1.0
    """Number of epochs in which the learning rates rise from 0."""
    dropout: float = 0.5
    """Dropout probability of the features before the last layer."""
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
    """How test clips are taken and probes are fitted. Encoders and, by default, clip sizes are the checkpoint's."""

    clips: int = 4
    """Number of evenly spaced test clips per sample."""
    crops: int = 1
    """Number of square crops per test clip, evenly spaced along the frame's longer side; 1 means the centre crop."""
    pooling: Literal["mean", "concat"] = "mean"
    """How the features of a sample's clips are combined. mean: averaged. concat: concatenated in order of time, for
    labels that are tied to a position in time, such as words in a sentence."""
    batch_size: int = 32
    """Number of clips that are decoded and encoded together, and number of clips per step in fine-tuning."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if there is one, else the CPU."""
    loader: str = ""
    """Loader: dali or decord; empty means the loader of the checkpoint."""
    labels: str = ""
    """CSV file with the labels of raw videos (only for loader decord)."""
    splits: str = ""
    """Folder of the official lists of UCF101 (trainlist01.txt, ...) or HMDB51 (..._test_split1.txt); empty means the
    label column split (for finetune also split2, split3, ...)."""
    frames: int = 0
    """Number of frames per clip; 0 means that of the checkpoint."""
    size: int = 0
    """Height and width of a clip in pixels; 0 means those of the checkpoint."""
    reference: str = ""
    """Adds rows for torchvision's Kinetics-400 weights of the checkpoint's video architecture. `torchvision` downloads
    the weights; a path reads them from a file (.pth as published by torchvision, or .safetensors)."""
    k: int = 10
    """Number of neighbours in the knn protocol."""
    folds: int = 5
    """Number of folds of the cross-validation within the training part that chooses the linear probe's C."""
    seed: int = 0
    """Seed of the split by hash, of the folds and of fine-tuning."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Recipe of the protocols finetune, esc50_finetune and kinetics_linear."""

    def __post_init__(self) -> None:
        minima = {"clips": 1, "crops": 1, "batch_size": 1, "k": 1, "folds": 2, "seed": 0, "frames": 0, "size": 0}
        for name, minimum in minima.items():
            value = getattr(self, name)
            require(value >= minimum, f"{name} must be at least {minimum}, not {value}")
        require(
            self.pooling == "mean" or self.crops == 1,
            f"pooling=concat keeps the clips of a sample apart in time, so crops must be 1, not {self.crops}",
        )
