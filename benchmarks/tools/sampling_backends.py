"""The samplers and baselines that benchmarks/sampling.py knows by name."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.samplers import BASELINES, Baseline
from sampler import build_sampler
from sampler.base import Sampler

ORACLE = "kmeanspp_sequential"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "kmeanspp_fp32": ("kmeanspp", {"precision": "fp32"}),
    "kmeanspp_bf16": ("kmeanspp", {"precision": "bf16"}),
    "kmeanspp_faiss_sketch": ("kmeanspp_faiss", {"index_on": "sketch"}),
    "kmeanspp_faiss_persistent": ("kmeanspp_faiss", {}),
    "kmeanspp_sketch64": ("kmeanspp_sketch", {"dim": 64}),
}
"""Names of a backend with options. persistent: the same sampler over all repeats, its index built in the warm-up."""
DEFAULT_BACKENDS = [ORACLE, "kmeanspp_fp32", "kmeanspp_bf16", "kmeanspp_faiss_sketch", "kmeanspp_sketch64"]


LINEAR = (ORACLE, "badge", "badge_vectorised")
"""What costs the same for every pick, so that a part of the picks tells the whole."""


def make_backend(name: str) -> Sampler:
    if name in BASELINES:
        return Baseline(pick=BASELINES[name])
    backend, options = VARIANTS.get(name, (name, {}))
    return build_sampler(backend, options)
