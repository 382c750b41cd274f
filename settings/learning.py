"""Settings of the model, the loss, the sampler, the pool, the dictionary and the optimiser."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from common.trees import flatten
from settings.errors import require
from settings.load import AUTO, AutoInt, format_value


@dataclass(frozen=True)
class ModelConfig:
    """Encoders, projection heads and their momentum copies."""

    video: str = "r2plus1d_18"
    """Video encoder: r2plus1d_18, r3d_18, mc3_18, mvit_v2_s, swin3d_t (torchvision) or tiny."""
    audio: str = "resnet1d_18"
    """Audio encoder: resnet1d_18 (1-D convolutions over time, the paper's), resnet18 (2-D), vit_tiny or vit_small
    (vision transformers on patches of the spectrogram, like AST) or tiny."""
    head: Literal["linear", "mlp"] = "linear"
    """Projection from features to queries and keys. linear: one linear layer. mlp: linear, BatchNorm, ReLU, linear."""
    dim: int = 128
    """D, dimension of queries and keys."""
    hidden: int = 512
    """Hidden width of an mlp head."""
    head_batchnorm: bool = True
    """Apply BatchNorm without affine parameters before the L2 norm, so that keys do not all drift in one direction."""
    momentum: float = 0.999
    """m in the update h <- m h + (1 - m) f of the momentum encoders h from the query encoders f."""
    cross_modal_fc: bool = False
    """The momentum head follows the query head of the other modality (the paper's extra FC)."""
    init: str = ""
    """Weights that both encoders start from: a run folder or one of its checkpoints (with the heads), or a folder
    that export.py has written. Empty for random weights. A run that is resumed does not read it."""
    init_video: str = ""
    """Weights that the video encoder starts from, in place of those of model.init: the same, or a file of one encoder
    (.pth, .safetensors), such as torchvision's Kinetics-400 weights of the same architecture."""
    init_audio: str = ""
    """Weights that the audio encoder starts from, in place of those of model.init, as for model.init_video."""

    def __post_init__(self) -> None:
        require(self.dim >= 2, f"model.dim must be at least 2, not {self.dim}")
        require(0 <= self.momentum <= 1, f"model.momentum must be in [0, 1], not {self.momentum}")


@dataclass(frozen=True)
class LossConfig:
    """Symmetric InfoNCE."""

    temperature: float = 0.1
    """Temperature that divides the cosine similarities in the loss and in the sampler's scores."""
    temperature_high: float | None = None
    """Highest temperature of the loss, which then swings between it and loss.temperature as a cosine; null: constant.
    The sampler's scores do not swing."""
    temperature_period: int = 0
    """Number of steps from one highest temperature to the next; needed with loss.temperature_high."""
    false_negatives: Literal["keep", "one_way", "two_way", "agreement"] = "keep"
    """Which negatives leave a query's sum as probably false. one_way: those more similar to the query than its own
    positive is. two_way: only those of which this also holds in the other direction, between the clip's audio and the
    negative's video. agreement: those whose two keys are both near the clip's keys of the same modality (see
    loss.agreement). With the last two, the dictionaries hold both keys of their clips. keep: none."""
    agreement: float = 0.2
    """Share of the negatives that count as near in one modality, for loss.false_negatives=agreement."""
    outrank_power: float = 0.0
    """Power by which frequent content weighs less: a negative has the weight (loss.outrank_floor + o) **
    -loss.outrank_power, where o is the share of the batch's queries that are more similar to it than to their own
    positive; 0: all alike."""
    outrank_floor: float = 0.02
    """Added to the share o in loss.outrank_power, so that the weight of a negative which outranks no positive is
    finite."""
    debias: float = 0.0
    """Probability that a negative is of the query's class, for the debiased loss (Chuang et al. 2020); 0: off."""
    hardness: float = 0.0
    """How strongly the loss prefers hard negatives: they weigh exp(hardness * logit) (Robinson et al. 2021); 0: all
    alike."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, f"loss.temperature must be positive, not {self.temperature}")
        require(
            (self.temperature_high is None) == (self.temperature_period == 0),
            "loss.temperature_high and loss.temperature_period must be set together",
        )
        require(
            self.temperature_high is None or self.temperature_high >= self.temperature,
            f"loss.temperature_high must be at least loss.temperature, not {self.temperature_high}",
        )
        require(
            self.temperature_period >= 0, f"loss.temperature_period must be at least 0, not {self.temperature_period}"
        )
        require(0 < self.agreement < 1, f"loss.agreement must be in (0, 1), not {self.agreement}")
        require(self.outrank_power >= 0, f"loss.outrank_power must be at least 0, not {self.outrank_power}")
        require(self.outrank_floor > 0, f"loss.outrank_floor must be positive, not {self.outrank_floor}")
        require(0 <= self.debias < 1, f"loss.debias must be in [0, 1), not {self.debias}")
        require(self.hardness >= 0, f"loss.hardness must be at least 0, not {self.hardness}")

    @property
    def needs_partners(self) -> bool:
        """Whether the loss needs the negatives' keys of both modalities."""
        return self.false_negatives in ("two_way", "agreement")


@dataclass(frozen=True)
class SamplerConfig:
    """The rule that selects keys of the pool for the dictionary."""

    name: str = "kmeanspp"
    """Selection rule, a key of `sampler.SAMPLERS`."""
    embedding: Literal["gradient", "query_gradient", "negative_gradient", "key_gradient", "feature"] = "gradient"
    """Embedding in which rules that use D² measure distances (see sampler/gradient.py)."""
    temperature: float | None = None
    """Temperature of the scores and embeddings; null: loss.temperature."""
    condition_on_dictionary: bool = False
    """Whether keys that remain in the dictionary count as already chosen, so that distances start from them."""
    every_n_steps: int = 1
    """n: keys are selected only at every n-th step, but n times as many."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the chosen selection rule (see docs/samplers.md)."""

    def __post_init__(self) -> None:
        require(
            self.temperature is None or self.temperature > 0,
            f"sampler.temperature must be positive or null, not {self.temperature}",
        )
        require(self.every_n_steps >= 1, f"sampler.every_n_steps must be at least 1, not {self.every_n_steps}")


@dataclass(frozen=True)
class PoolConfig:
    """The candidates that the sampler picks from."""

    source: Literal["stream", "epoch"] = "stream"
    """stream: the most recent keys. epoch: random clips, encoded again at the start of an epoch (not for fifo)."""
    size: AutoInt = 38400
    """N, the number of candidates; at most the number of samples of the data set. A stream pool needs two rows per
    sample to hold the newest key of each, and more rows are never allocated. auto: 300 batches, or what all samples
    need."""
    refresh_every: int = 1
    """Number of epochs after which a pool with source epoch is drawn again."""
    remove_selected: bool = False
    """Whether a selected key is removed from the pool (in the paper it is not)."""

    def __post_init__(self) -> None:
        require(self.size == AUTO or self.size >= 1, f"pool.size must be at least 1, not {self.size}")
        require(self.refresh_every >= 1, f"pool.refresh_every must be at least 1, not {self.refresh_every}")
        require(
            self.source == "epoch" or self.refresh_every == 1,
            "pool.refresh_every applies only to pool.source=epoch; a stream pool is refreshed by every batch",
        )


@dataclass(frozen=True)
class DictionaryConfig:
    """The negatives of each modality."""

    size: AutoInt = 3840
    """K, the number of negatives per modality. auto: 30 batches, or half of the candidates if they are few."""
    whole_pool: bool = False
    """Whether all keys of the pool are negatives. Nothing is selected then, the keys are stored once, and K is
    pool.size."""

    def __post_init__(self) -> None:
        require(self.size == AUTO or self.size >= 1, f"dictionary.size must be at least 1, not {self.size}")


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and the learning-rate schedule: linear warm-up, then a cosine to zero."""

    name: Literal["adamw", "sgd"] = "adamw"
    """Optimiser."""
    lr: float = 1e-3
    """Learning rate after the warm-up."""
    weight_decay: float = 1e-4
    """Weight decay; biases and BatchNorm parameters are not decayed."""
    sgd_momentum: float = 0.9
    """Momentum of SGD."""
    warmup_steps: AutoInt = 500
    """Number of steps in which the learning rate rises linearly to optim.lr. auto: a tenth of the run, at most 500."""
    clip_grad_norm: float = 0.0
    """Maximum norm of the gradient; 0 means no clipping."""
    rates: dict[str, Any] = field(default_factory=dict)
    """Factors of optim.lr for parts of the encoders, such as {video.backbone: 0.1, audio.head: 2}. A part may be as
    small as video.backbone.layer1; the longest name that holds a weight counts. Other parts have factor 1."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer of a backbone to the one below it: the n-th layer from the top has
    layer_decay ** n, in addition to its factor in optim.rates. 0.75 is usual for fine-tuning transformers."""
    freeze: tuple[str, ...] = ()
    """Parts that are not trained, named as in optim.rates, such as [video.backbone]: neither their weights nor
    their BatchNorm statistics change, in the momentum encoders either."""

    def __post_init__(self) -> None:
        require(self.lr > 0, f"optim.lr must be positive, not {self.lr}")
        require(
            self.warmup_steps == AUTO or self.warmup_steps >= 0,
            f"optim.warmup_steps must be at least 0, not {self.warmup_steps}",
        )
        require(self.clip_grad_norm >= 0, f"optim.clip_grad_norm must be at least 0, not {self.clip_grad_norm}")
        require(0 < self.layer_decay <= 1, f"optim.layer_decay must be in (0, 1], not {self.layer_decay}")
        for name, factor in flatten(self.rates).items():
            _require_part(name, "optim.rates")
            require(
                _is_positive(factor),
                f"optim.rates: the factor of {name} must be a positive number, not {format_value(factor)}; to keep a "
                "part as it is, list it in optim.freeze",
            )
        for name in self.freeze:
            _require_part(name, "optim.freeze")
        require(
            not {"video", "audio"} <= set(self.freeze),
            "optim.freeze lists video and audio, so nothing would be trained",
        )

    @property
    def factors(self) -> dict[str, float]:
        """optim.rates as numbers by dotted name."""
        return {name: float(factor) for name, factor in flatten(self.rates).items()}


def _require_part(name: str, key: str) -> None:
    """Raises ConfigError unless `name` begins as a part of the encoders does; `model.parts` knows the rest."""
    modality, _, rest = str(name).partition(".")
    require(
        modality in ("video", "audio") and rest.partition(".")[0] in ("", "backbone", "head") and name[-1] != ".",
        f"{key}: {format_value(name)} is no part of a model: parts are video, video.backbone, video.head, audio, "
        "audio.backbone, audio.head and what these hold, such as video.backbone.layer1",
    )


def _is_positive(factor: Any) -> bool:
    try:  # YAML 1.1 takes 1e-3 for text
        return not isinstance(factor, bool) and 0 < float(factor) < math.inf
    except (TypeError, ValueError, OverflowError):
        return False
