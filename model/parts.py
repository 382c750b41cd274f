"""Parts of the encoders by name, such as `video.backbone`, and the factors of the learning rate of their weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from model.layers import layers
from settings import ConfigError
from settings.load import format_value, suggest


def find_part(query: nn.Module, name: str, *, key: str) -> nn.Module:
    """Returns a part of the encoders.

    Args:
        query: the encoders by modality.
        name: dotted path, such as `video`, `audio.head` or `video.backbone.layer1`.
        key: the setting that holds the name, for the message.

    Raises:
        ConfigError: there is no such part with weights; the message names those beside it.
    """
    module, found = query, ""
    for step in name.split("."):
        known = [child for child, part in module.named_children() if any(True for _ in part.parameters())]
        if step not in known:
            where = f"{found} of this model" if found else "a model"
            raise ConfigError(f"{key}: {format_value(name)} is no part of {where}; {suggest(step, known)}")
        module, found = module.get_submodule(step), f"{found}.{step}" if found else step
    return module


def rate_factors(query: nn.ModuleDict, *, rates: Mapping[str, float], layer_decay: float) -> dict[nn.Parameter, float]:
    """Returns the factor of the learning rate of each weight; empty if all are 1.

    Args:
        query: the encoders by modality.
        rates: factors by the name of a part; of several that hold a weight, the one with the longest name counts.
        layer_decay: factor per layer from the top: a weight of a backbone's n-th layer from the top has
            layer_decay ** n, and the head 1, as in BEiT (Bao et al. 2022) and MAE (He et al. 2022).

    Raises:
        ConfigError: the encoders have no part of such a name.
    """
    if not rates and layer_decay == 1:
        return {}
    factors = dict.fromkeys(query.parameters(), 1.0)
    for name in sorted(rates, key=lambda name: name.count(".")):
        factors.update(dict.fromkeys(find_part(query, name, key="optim.rates").parameters(), rates[name]))
    for modality in query:
        backbone = query.get_submodule(f"{modality}.backbone")
        for depth, layer in enumerate(reversed(layers(backbone)), start=1):
            for parameter in (parameter for part in layer.parts for parameter in part.parameters()):
                factors[parameter] *= layer_decay**depth
    return factors
