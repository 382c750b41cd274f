"""Active sampling of the dictionary: which candidates become negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from config.load import from_dict, pick
from sampler.adaptive import Adaptive
from sampler.auto import Auto
from sampler.base import Candidates, Sampler, Selection
from sampler.fifo import Fifo
from sampler.grad_norm import GradNorm
from sampler.hard import Hard
from sampler.kcenter import KCenter
from sampler.kmeanspp import KMeansPP
from sampler.kmeanspp_faiss import KMeansPPFaiss
from sampler.kmeanspp_greedy import KMeansPPGreedy
from sampler.kmeanspp_sequential import KMeansPPSequential
from sampler.kmeanspp_sketch import KMeansPPSketch
from sampler.ohem import Ohem
from sampler.ring import Ring
from sampler.uniform import Uniform

__all__ = ["SAMPLERS", "Candidates", "Sampler", "Selection", "build_sampler"]

SAMPLERS: dict[str, type] = {
    "fifo": Fifo,
    "uniform": Uniform,
    "kmeanspp_sequential": KMeansPPSequential,
    "kmeanspp": KMeansPP,
    "kmeanspp_faiss": KMeansPPFaiss,
    "kmeanspp_sketch": KMeansPPSketch,
    "kmeanspp_greedy": KMeansPPGreedy,
    "kcenter": KCenter,
    "grad_norm": GradNorm,
    "ohem": Ohem,
    "hard": Hard,
    "ring": Ring,
    "adaptive": Adaptive,
    "auto": Auto,
}
"""`sampler.name` -> class; the fields of the class are what `sampler.options` may hold."""


def build_sampler(name: str, options: Mapping[str, Any] | None = None) -> Sampler:
    """The sampler of that name with its options.

    Raises:
        ConfigError: an unknown name or option (the nearest and the allowed are named), or a value out of range.
    """
    cls = pick(SAMPLERS, name, "sampler.name")
    return from_dict(cls, options or {}, source=f"sampler {name}", prefix="sampler.options.")
