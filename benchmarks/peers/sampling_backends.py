"""The samplers and published alternatives that benchmarks.sampling knows by name."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.samplers import BASELINES, Baseline
from sampler import build_sampler
from sampler.base import Sampler

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "kmeanspp_fp32": ("kmeanspp", {"precision": "fp32"}),
    "kmeanspp_bf16": ("kmeanspp", {"precision": "bf16"}),
    "kmeanspp_faiss_sketch": ("kmeanspp_faiss", {"index_on": "sketch"}),
    "kmeanspp_faiss_persistent": ("kmeanspp_faiss", {}),
    "kmeanspp_sketch64": ("kmeanspp_sketch", {"dim": 64}),
}
"""Name -> (sampler, options). A `_persistent` sampler is kept for all repeats; the warm-up builds its index."""


def make_backend(name: str) -> Sampler:
    """Builds a backend by its name."""
    if name in BASELINES:
        return Baseline(pick=BASELINES[name])
    backend, options = VARIANTS.get(name, (name, {}))
    return build_sampler(backend, options)
