"""Active sampling of the dictionary: which candidates become negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sampler.base import Candidates, Sampler, Selection
from sampler.rules.adaptive import Adaptive
from sampler.rules.auto import Auto
from sampler.rules.kcenter import KCenter
from sampler.rules.kmeanspp import KMeansPP
from sampler.rules.kmeanspp_faiss import KMeansPPFaiss
from sampler.rules.kmeanspp_greedy import KMeansPPGreedy
from sampler.rules.kmeanspp_sequential import KMeansPPSequential
from sampler.rules.kmeanspp_sketch import KMeansPPSketch
from sampler.rules.similarity_band import Ring
from sampler.rules.top_score import Fifo, GradNorm, Hard, Ohem
from sampler.rules.uniform import Uniform
from settings.load import from_dict, pick

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
