"""Query encoders, their momentum copies, and how the copies follow."""

from __future__ import annotations

import copy
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from common.randomness import weight_seed
from model.audio import AUDIO_ENCODERS
from model.heads import HEADS, LinearHead, MLPHead
from model.video import VIDEO_ENCODERS
from settings import AudioConfig, ConfigError, ModelConfig, pick

OTHER_MODALITY = {"video": "audio", "audio": "video"}


class EncoderOutput(NamedTuple):
    """What an encoder gives for B clips."""

    features: torch.Tensor
    """[B, F] pooled backbone features: what downstream tasks use."""
    hidden: torch.Tensor
    """[B, H] input of the head's last layer (the features themselves for a linear head)."""
    embedding: torch.Tensor
    """[B, D] rows of unit length: queries or keys."""


class Encoder(nn.Module):
    """A backbone and a projection head."""

    def __init__(self, *, backbone: nn.Module, head: LinearHead | MLPHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, clips: torch.Tensor) -> EncoderOutput:
        features = self.backbone(clips)
        hidden, projection = self.head(features)
        return EncoderOutput(features, hidden, F.normalize(projection.float(), dim=1))


class Encoders(nn.ModuleDict):
    """The encoders of a model by modality: a ModuleDict that says what it holds."""

    def __getitem__(self, key: str) -> Encoder:
        return cast(Encoder, super().__getitem__(key))


class CrossModalModel(nn.Module):
    """Query encoders f and momentum encoders h of both modalities: `query["video"]`, `key["audio"]`, ...

    Gradients reach the query encoders only. The momentum encoders stay in train mode during training, as in MoCo
    (He et al. 2020): a key is then normalised by its own batch's statistics, as a query is. Their running statistics
    would lag 1 / (1 - m) steps behind and, in the first thousand steps, put keys and queries on different scales;
    no value of this model depends on them in training.

    Args:
        query: encoders under the names "video" and "audio".
        momentum: m of h <- m h + (1 - m) f.
        cross_modal_fc: the head of the audio momentum encoder follows the head of the video query encoder, and the
            other way round, because the queries that meet these keys are of the other modality (the paper's ablation).

    Raises:
        ConfigError: cross_modal_fc with heads of different shapes.
    """

    def __init__(self, *, query: dict[str, Encoder], momentum: float, cross_modal_fc: bool = False) -> None:
        super().__init__()
        self.query = Encoders(query)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.momentum = momentum
        self.cross_modal_fc = cross_modal_fc
        if cross_modal_fc:
            self._check_heads_match()
            for followed, follower in self._followed():
                follower.load_state_dict(followed.state_dict())

    @torch.no_grad()
    def update_momentum(self) -> None:
        """h <- m h + (1 - m) f over parameters and buffers; integer buffers (BatchNorm's counters) are copied."""
        pairs = [
            pair
            for followed, follower in self._followed()
            for pair in zip(_tensors(followed), _tensors(follower), strict=True)
        ]
        # All tensors of a kind in one call: a GPU gets a handful of kernels instead of one for each.
        sources, targets = zip(*(pair for pair in pairs if pair[1].is_floating_point()), strict=True)
        torch._foreach_lerp_(targets, sources, 1 - self.momentum)
        counts = [pair for pair in pairs if not pair[1].is_floating_point()]
        if counts:
            sources, targets = zip(*counts, strict=True)
            torch._foreach_copy_(targets, sources)

    def _followed(self) -> list[tuple[nn.Module, nn.Module]]:
        """(module of a query encoder, module of a momentum encoder that follows it), every tensor once."""
        pairs: list[tuple[nn.Module, nn.Module]] = []
        for modality, other in OTHER_MODALITY.items():
            pairs.append((self.query[modality].backbone, self.key[modality].backbone))
            head_of = other if self.cross_modal_fc else modality
            pairs.append((self.query[head_of].head, self.key[modality].head))
        return pairs

    def _check_heads_match(self) -> None:
        shapes = {m: [tuple(t.shape) for t in _tensors(self.query[m].head)] for m in OTHER_MODALITY}
        if shapes["video"] != shapes["audio"]:
            raise ConfigError(
                "model.cross_modal_fc=true needs heads of the same shapes in both modalities, but the video head has "
                f"{shapes['video']} and the audio head {shapes['audio']}; choose model.video and model.audio with "
                "features of the same length (both tiny, or both of the 18-layer kind)"
            )


def build_model(config: ModelConfig, *, audio: AudioConfig, seed: int) -> CrossModalModel:
    """The model of a config on the CPU, its initial weights a function of the seed and of each encoder's own name.

    Raises:
        ConfigError: an encoder that is not known, or cross_modal_fc with heads of different shapes.
    """
    video_factory = pick(VIDEO_ENCODERS, config.video, "model.video")
    audio_factory = pick(AUDIO_ENCODERS, config.audio, "model.audio")
    query = {}
    # fork_rng: building a model leaves the caller's random state as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weight_seed(seed, f"video {config.video}"))
        query["video"] = _encoder(video_factory(), config)
        torch.manual_seed(weight_seed(seed, f"audio {config.audio}"))
        query["audio"] = _encoder(audio_factory(audio.n_mels), config)
    return CrossModalModel(query=query, momentum=config.momentum, cross_modal_fc=config.cross_modal_fc)


def _encoder(backbone: tuple[nn.Module, int], config: ModelConfig) -> Encoder:
    network, features = backbone
    head = HEADS[config.head](features=features, hidden=config.hidden, dim=config.dim, batchnorm=config.head_batchnorm)
    return Encoder(backbone=network, head=head)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]
