"""Times the complete selection of a training step."""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks.peers.sampling_backends import VARIANTS
from benchmarks.tools.pools import make_pool
from benchmarks.tools.timing import timed
from sampler.active import ActiveDictionary
from sampler.base import Candidates
from settings import DictionaryConfig, PoolConfig, SamplerConfig

_ROWS, _BATCH, _DIM, _HIDDEN, _DICTIONARY = 38_400, 128, 128, 512, 3_840
"""The paper's sizes: pool, batch, embedding, hidden layer and dictionary."""


def measure_step(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Times posterior, gradient factors, selection and enqueue of one modality; one record per backend."""
    generator = torch.Generator().manual_seed(0)
    pool = make_pool("real", _ROWS)
    queries = torch.nn.functional.normalize(torch.randn(_BATCH, _DIM, generator=generator), dim=1).to(arguments.device)
    hidden = torch.relu(torch.randn(_BATCH, _HIDDEN, generator=generator)).to(arguments.device)
    dictionaries = {name: _dictionary(name, pool, arguments.device) for name in arguments.backends}
    seconds: dict[str, list[float]] = {name: [] for name in dictionaries}
    for step in range(arguments.seeds + 1):
        ids = torch.arange(_BATCH) + _ROWS + step * _BATCH
        for name, active in dictionaries.items():

            def work(active: ActiveDictionary = active, ids: torch.Tensor = ids, step: int = step) -> None:
                active.update(queries, hidden, batch_ids=ids, step=step)
                active.add(queries, ids)

            seconds[name].append(timed(work, device=arguments.device, threads=arguments.threads)[0])
    # The first step of each backend builds its persistent state (the index) and is not counted.
    return [
        {
            "kind": "step",
            "rows": _ROWS,
            "picks": _BATCH,
            "backend": name,
            "seconds": statistics.median(values[1:]),
            "fastest": min(values[1:]),
            "repeats": arguments.seeds,
        }
        for name, values in seconds.items()
    ]


def _dictionary(name: str, pool: Candidates, device: str) -> ActiveDictionary:
    backend, options = VARIANTS.get(name, (name, {}))
    active = ActiveDictionary(
        sampler=SamplerConfig(name=backend, options=options),
        pool=PoolConfig(size=_ROWS),
        dictionary=DictionaryConfig(size=_DICTIONARY),
        dim=_DIM,
        hidden=_HIDDEN,
        temperature=0.1,
    ).to(device)
    active.fill(pool.a.to(device), pool.ids.to(device))
    return active
