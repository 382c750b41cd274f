"""The features of a video encoder before they are averaged over time and space."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from model.encoder import Encoder
from settings import Config, ConfigError


class MapReader:
    """Reads the feature map whose mean over time and space is what a video encoder returns as features.

    The layer that computes it is found by comparing the outputs of all layers with the features of a probe, so that
    any backbone works that ends in global average pooling: all convolutional ones, and transformers without a class
    token.

    Args:
        encoder: the video encoder of a model, in eval mode.
        config: settings of the run; its clips shape the probe.

    Raises:
        ConfigError: the encoder averages no map of several places.
    """

    def __init__(self, encoder: Encoder, config: Config) -> None:
        self._encoder = encoder
        clip = config.clip
        probe = torch.randn(1, 3, clip.frames, clip.size, clip.size, generator=torch.Generator().manual_seed(0))
        probe = probe.to(next(encoder.parameters()).device)
        found = _pooled_layer(encoder.backbone, probe)
        if found is None:
            raise ConfigError(
                f"model.video={config.model.video} with clip.size={clip.size} does not average a map of several places "
                "(it has a class token, or its last map is a single place), so nothing says where a sound comes from: "
                "use an encoder that ends in average pooling, or one trained with larger clips"
            )
        self._layer, self._channels_last = found

    @torch.no_grad()
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Maps clips [B, 3, T, H, W] to projections of each place, float32 [B, T', H', W', D].

        The head is applied to the features of each place as if they were those of a clip. Of a linear head without
        BatchNorm the mean of these projections is the projection of the clip; an MLP head is not linear, so that its
        mean only resembles it.
        """
        kept: list[torch.Tensor] = []
        hook = self._layer.register_forward_hook(lambda layer, arguments, output: kept.append(output))
        try:
            self._encoder.backbone(clips)
        finally:
            hook.remove()
        places = kept[-1] if self._channels_last else kept[-1].movedim(1, -1)
        _, projections = self._encoder.head(places.reshape(-1, places.shape[-1]))
        return projections.float().reshape(*places.shape[:-1], -1)


@torch.no_grad()
def _pooled_layer(backbone: nn.Module, probe: torch.Tensor) -> tuple[nn.Module, bool] | None:
    """The last layer whose output, averaged over several places, equals the features; whether its channels are last."""
    outputs: list[tuple[nn.Module, torch.Tensor]] = []

    def keep(layer: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dim() == 5:
            outputs.append((layer, output))

    hooks = [layer.register_forward_hook(keep) for layer in backbone.modules()]
    try:
        features = backbone(probe)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, output in reversed(outputs):
        for channels_last in (False, True):
            places = output if channels_last else output.movedim(1, -1)
            if places.shape[-1] != features.shape[1] or places.shape[2] * places.shape[3] < 2:
                continue
            if torch.allclose(places.mean(dim=(1, 2, 3)), features, rtol=1e-3, atol=1e-5):
                return layer, channels_last
    return None
