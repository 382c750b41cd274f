"""Query encoders, their momentum copies, and the momentum update."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import nn

from common.randomness import weight_seed
from model.audio import AUDIO_ENCODERS
from model.heads import HEADS, LinearHead, MLPHead
from model.parts import find_part
from model.video import VIDEO_ENCODERS
from settings import AudioConfig, ConfigError, ModelConfig, pick

OTHER_MODALITY = {"video": "audio", "audio": "video"}


class EncoderOutput(NamedTuple):
    """Outputs of an encoder for B clips."""

    features: torch.Tensor
    """[B, F] pooled backbone features, which downstream tasks use."""
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
    """The encoders of a model by modality: an nn.ModuleDict with typed items."""

    def __getitem__(self, key: str) -> Encoder:
        return cast(Encoder, super().__getitem__(key))


class CrossModalModel(nn.Module):
    """Query encoders f and momentum encoders h of both modalities: `query["video"]`, `key["audio"]`, ...

    Gradients reach the query encoders only. The momentum encoders stay in train mode during training, as in MoCo
    (He et al. 2020): a key is then normalised by its own batch's statistics, as a query is. Their running statistics
    would lag 1 / (1 - m) steps behind and, in the first thousand steps, put keys and queries on different scales;
    no value of this model depends on them in training.

    Args:
        query: the query encoders, with the keys "video" and "audio".
        momentum: m of h <- m h + (1 - m) f.
        cross_modal_fc: the head of each momentum encoder follows the query head of the other modality, because its
            keys are compared with queries of that modality (the paper's ablation).

    Raises:
        ConfigError: cross_modal_fc is set, but the heads have different shapes.
    """

    def __init__(self, *, query: dict[str, Encoder], momentum: float, cross_modal_fc: bool = False) -> None:
        super().__init__()
        self.query = Encoders(query)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.momentum = momentum
        self.cross_modal_fc = cross_modal_fc
        self._frozen: list[str] = []
        if cross_modal_fc:
            self._check_heads_match()
            self.restart_momentum()

    def freeze(self, parts: Iterable[str]) -> None:
        """Keeps parts of the query encoders as they are, and the same parts of the momentum encoders.

        Their weights get no gradient. In train mode too, their BatchNorms normalise by their running statistics and
        do not change these.

        Args:
            parts: names such as video, video.backbone or audio.backbone.layer1.

        Raises:
            ConfigError: the encoders have no part of such a name.
        """
        for part in parts:
            find_part(self.query, part, key="optim.freeze").requires_grad_(False)
            modality, *inner = part.split(".")
            for kind, *rest in [inner] if inner else [["backbone"], ["head"]]:
                follows_other = kind == "head" and self.cross_modal_fc
                self._frozen.append(".".join(["query", modality, kind, *rest]))
                self._frozen.append(
                    ".".join(["key", OTHER_MODALITY[modality] if follows_other else modality, kind, *rest])
                )
        self.train(self.training)

    def train(self, mode: bool = True) -> CrossModalModel:
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self

    def restart_momentum(self) -> None:
        """Sets the momentum encoders to the query encoders that they follow."""
        for followed, follower in self._followed():
            follower.load_state_dict(followed.state_dict())

    @torch.no_grad()
    def update_momentum(self) -> None:
        """Sets h <- m h + (1 - m) f in parameters and buffers; copies integer buffers (BatchNorm's counters)."""
        pairs = [
            pair
            for followed, follower in self._followed()
            for pair in zip(_tensors(followed), _tensors(follower), strict=True)
        ]
        # One call updates all tensors: on a GPU that is a handful of kernels instead of one per tensor.
        sources, targets = zip(*(pair for pair in pairs if pair[1].is_floating_point()), strict=True)
        torch._foreach_lerp_(targets, sources, 1 - self.momentum)  # torch-private: few kernels for all tensors
        counts = [pair for pair in pairs if not pair[1].is_floating_point()]
        if counts:
            sources, targets = zip(*counts, strict=True)
            torch._foreach_copy_(targets, sources)  # torch-private: few kernels for all tensors

    def _followed(self) -> list[tuple[nn.Module, nn.Module]]:
        """Returns pairs (module of a query encoder, module of a momentum encoder that follows it), each tensor once."""
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
                "features of the same length (both tiny, or both with 18 layers)"
            )


def build_model(config: ModelConfig, *, audio: AudioConfig, seed: int) -> CrossModalModel:
    """Builds the model of a config on the CPU; its initial weights depend only on the seed and each encoder's name.

    Raises:
        ConfigError: an encoder's name is unknown, or cross_modal_fc is set and the heads have different shapes.
    """
    video_factory = pick(VIDEO_ENCODERS, config.video, "model.video")
    audio_factory = pick(AUDIO_ENCODERS, config.audio, "model.audio")
    query = {}
    # fork_rng: building a model must not change the caller's random state.
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
