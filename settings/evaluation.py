"""Settings of evaluate.py, which its command line takes as key=value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from settings import AugmentConfig, require


@dataclass(frozen=True)
class FinetuneConfig:
    """The recipe of all protocols that train by gradient descent: AdamW, linear warm-up, cosine decay to zero.

    All rows of a table use the same recipe.
    """

    epochs: int = 30
    """Passes over the training part; the classifier after the last one is tested."""
    lr: float = 1e-4
    """Learning rate of the encoder after the warm-up."""
    head_lr: float = 1e-3
    """Learning rate of the new last layer, the only one that the linear rows train."""
    weight_decay: float = 1e-2
    """Weight decay of matrices and convolutions; biases and BatchNorm parameters have none."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rates rise from 0."""
    dropout: float = 0.5
    """Probability that a feature is dropped before the last layer."""
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
    """How test clips are taken and probes fitted. Encoders and clip sizes come from the checkpoint."""

    clips: int = 4
    """Number of evenly spaced test clips per sample."""
    crops: int = 1
    """Number of square crops per test clip, evenly spaced along the frame's longer side; 1 is the centre crop."""
    pooling: Literal["mean", "concat"] = "mean"
    """How the features of a sample's clips are combined: mean averages them; concat concatenates them, for labels that
    are tied to a position in time, such as words in a sentence."""
    batch_size: int = 32
    """Number of clips that are decoded and encoded together, and per step in fine-tuning."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the encoders; auto is the GPU if there is one."""
    loader: str = ""
    """Loader of the clips, dali or decord; empty for the checkpoint's."""
    labels: str = ""
    """Path of the labels.csv of raw videos (only with the loader decord)."""
    split: Literal["auto", "train", "all"] = "auto"
    """Samples that the protocol retrieval, without --label, searches for each other. auto: the test part (of the label
    column split or, without one, 20 % chosen by a hash of the paths). train: the training part. all: all samples."""
    splits: str = ""
    """Folder of the official lists of UCF101 (trainlist01.txt, ...) or HMDB51 (..._test_split1.txt), or VGGSound's file
    vggsound.csv; empty for the label column split (finetune also uses split2, split3, ...)."""
    classes: str = ""
    """Uses only the samples of these classes of the label column: kinetics_sounds (31 classes of Kinetics), or the path
    of a text file with one class on each line. Empty for all classes."""
    separator: str = ";"
    """Text between two classes in a value of the label column, for the protocol multilabel; AudioSet's lists have a
    comma."""
    frames: int = 0
    """Number of frames per clip; 0 for the checkpoint's."""
    size: int = 0
    """Side of a clip in pixels; 0 for the checkpoint's."""
    reference: str = ""
    """Adds rows of torchvision's Kinetics-400 weights for the checkpoint's video architecture: `torchvision` downloads
    them; otherwise the path of a file (.pth as torchvision publishes it, or .safetensors)."""
    k: int = 10
    """Number of neighbours in the knn protocol."""
    folds: int = 5
    """Number of cross-validation folds, within the training part, that choose the linear probe's C."""
    seed: int = 0
    """Seed of the split by hash, the folds and fine-tuning."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Recipe of finetune, esc50_finetune, kinetics_linear, vggsound and vggsound_finetune."""

    def __post_init__(self) -> None:
        minima = {"clips": 1, "crops": 1, "batch_size": 1, "k": 1, "folds": 2, "seed": 0, "frames": 0, "size": 0}
        for name, minimum in minima.items():
            value = getattr(self, name)
            require(value >= minimum, f"{name} must be at least {minimum}, not {value}")
        require(self.separator != "", "separator must not be empty")
        require(
            self.pooling == "mean" or self.crops == 1,
            f"pooling=concat keeps the clips of a sample apart in time and needs crops=1, not crops={self.crops}",
        )
