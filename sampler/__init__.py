"""Active sampling: selection of the candidates that become negatives in the dictionary."""

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
from sampler.rules.similarity_band import SimilarityBand
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
    "ring": SimilarityBand,
    "adaptive": Adaptive,
    "auto": Auto,
}
"""Maps `sampler.name` to a class, whose dataclass fields are the keys that `sampler.options` may hold."""


def build_sampler(name: str, options: Mapping[str, Any] | None = None) -> Sampler:
    """Builds the sampler of this name with these options.

    Raises:
        ConfigError: the name or an option is unknown (the message names the nearest and the allowed ones), or a value
            is out of range.
    """
    cls = pick(SAMPLERS, name, "sampler.name")
    return from_dict(cls, options or {}, source=f"sampler {name}", prefix="sampler.options.")
