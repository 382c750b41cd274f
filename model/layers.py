"""The layers of a backbone in their order, from its input to its output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn


class Layer(NamedTuple):
    """Consecutive parts of a backbone: one that multiplies by a matrix or kernel, and what follows it."""

    name: str
    """Dotted name of the first part within the backbone, such as layer1 or blocks.0."""
    parts: list[nn.Module]
    """The modules: for example a convolution and its BatchNorm, a stage of a ResNet, or a block of a transformer."""


def layers(backbone: nn.Module) -> list[Layer]:
    """Returns the layers of a backbone; together they hold all of its parameters.

    A part belongs to the layer before it unless it holds a matrix or a kernel: so BatchNorm and pooling go with their
    convolution, and the class token with the patch embedding.
    """
    found: list[Layer] = []
    for name, part in stages(backbone):
        dimensions = [p.dim() for p in part.parameters()]
        if max(dimensions, default=0) > 1 or (dimensions and not found):
            found.append(Layer(name, []))
        if found:
            found[-1].parts.append(part)
    return found


def stages(backbone: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yields (dotted name, module) of the children of a backbone, and those of a ModuleList in place of the list."""
    for name, child in backbone.named_children():
        if isinstance(child, nn.ModuleList):
            yield from stages(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child
