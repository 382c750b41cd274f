"""Times samplers and published alternatives side by side in one run.

    python -m benchmarks.sampling --sizes 38400x128 38400x3840 --json out.json --plot out.png
    python -m benchmarks.sampling --step            # the complete selection of a training step
    python -m benchmarks.sampling --sizes 4096x256 --seeds 100 --backends kmeanspp_sequential kmeanspp --quality

Repeats are interleaved. Times are medians, memory is the maximum, phi and near-duplicates are means. Time is CPU time
on a CPU (with one thread, other work on the machine hardly affects it) and CUDA events on a GPU. The sequential oracle
and BADGE's routine cost the same for every pick: with --sequential-picks n, they are timed over n picks and
extrapolated, and the output states this.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.tools.options import device, positive, size
from common.phases import introduce
from common.registry_keys import registry_keys
from common.terminal import command

BACKENDS = (
    ("sampler/__init__.py", "SAMPLERS"),
    ("benchmarks/peers/sampling_backends.py", "VARIANTS"),
    ("benchmarks/peers/samplers.py", "BASELINES"),
)
"""The registries of what can be timed."""
ORACLE = "kmeanspp_sequential"
DEFAULT_BACKENDS = [ORACLE, "kmeanspp_fp32", "kmeanspp_bf16", "kmeanspp_faiss_sketch", "kmeanspp_sketch64"]
LINEAR = (ORACLE, "badge", "badge_vectorised")
"""Backends that cost the same for every pick, so that a few picks can be extrapolated."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = sorted({name for registry in BACKENDS for name in registry_keys(*registry)})
    parser.add_argument(
        "--sizes", nargs="+", type=size, default=["4096x128", "38400x128"], help="candidates x picks, as in 38400x3840"
    )
    slow = ", ".join([ORACLE, *registry_keys(*BACKENDS[2])])
    kinds = sorted(registry_keys("benchmarks/tools/pools.py", "KINDS"))
    parser.add_argument("--kinds", nargs="+", default=["heavy"], choices=kinds, help="synthetic pools")
    parser.add_argument("--backends", nargs="+", default=DEFAULT_BACKENDS, choices=known, metavar="NAME",
                        help=f"any of {', '.join(known)}")  # fmt: skip
    parser.add_argument("--seeds", type=positive, default=3, help="interleaved repeats, each with a different seed")
    parser.add_argument("--slow-repeats", type=positive, default=sys.maxsize,
                        help=f"maximum number of repeats of {slow}")  # fmt: skip
    parser.add_argument("--sequential-picks", type=int, default=0,
                        help=f"extrapolate {', '.join(LINEAR)} from this many picks; 0: run all")  # fmt: skip
    parser.add_argument("--quality", action="store_true", help="also report phi and near-duplicates of the selections")
    parser.add_argument("--step", action="store_true", help="time the selection inside a training step instead")
    parser.add_argument("--device", type=device, choices=["cpu", "cuda"], help="default: the GPU if there is one")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--plot", type=Path, help="write a chart to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    introduce("benchmarks.sampling", "timing samplers and published alternatives", parse)

import torch

from benchmarks.peers.samplers import BASELINES
from benchmarks.peers.sampling_backends import make_backend
from benchmarks.sampling_step import measure_step
from benchmarks.tools.plots import plot_times
from benchmarks.tools.pools import make_pool
from benchmarks.tools.result import ratio, write
from benchmarks.tools.timing import hold_threads, timed
from common.environment import environment
from common.finite import NotFiniteError
from sampler.base import Candidates, Sampler
from sampler.quality import near_duplicate_share, phi
from settings import ConfigError


def cases(arguments: argparse.Namespace) -> Iterator[tuple[str, int, int, Candidates]]:
    """The (kind of pool, rows, picks, candidates) to measure."""
    for kind in arguments.kinds:
        for text in arguments.sizes:
            rows, picks = (int(part) for part in text.split("x"))
            pool = make_pool(kind, rows)
            columns = {
                name: getattr(pool, name).to(arguments.device) for name in ("a", "b", "ids", "valid", "write_index")
            }
            yield kind, rows, picks, replace(pool, **columns)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures every (kind, size, backend) and returns one record for each."""
    records = []
    for kind, rows, picks, pool in cases(arguments):
        persistent = {name: make_backend(name) for name in arguments.backends if name.endswith("_persistent")}
        for name in arguments.backends:
            warm_up(persistent.get(name) or make_backend(name), name, pool, picks)
        runs: dict[str, list[tuple[float, float | None, Any]]] = {name: [] for name in arguments.backends}
        for seed in range(arguments.seeds):
            for name in arguments.backends:
                if name in (ORACLE, *BASELINES) and seed >= arguments.slow_repeats:
                    continue
                runs[name].append(one_run(persistent.get(name), name, pool, picks, seed, arguments))
        here = [summary(name, runs[name], pool, picks, arguments) for name in arguments.backends]
        add_ratios(here)
        for record in here:
            records.append({"kind": kind, "rows": rows, "picks": picks, **record})
            print(line(records[-1]), flush=True)
    return records


def warm_up(sampler: Sampler, name: str, pool: Candidates, picks: int) -> None:
    """Runs one untimed selection, in which libraries compile kernels and a persistent index is built on all rows.

    The oracle and the published alternatives are slow and need none.
    """
    if name in (ORACLE, *BASELINES):
        return
    table = pool if name.endswith("_persistent") else pool.rows(slice(0, 8192))
    sampler.select(table, min(picks, 1024), generator=torch.Generator().manual_seed(0))


def one_run(
    sampler: Sampler | None, name: str, pool: Candidates, picks: int, seed: int, arguments: argparse.Namespace
) -> tuple[float, float | None, Any]:
    """Seconds (extrapolated with --sequential-picks), peak memory and the selection.

    Args:
        sampler: a persistent sampler to use; None makes a new one, which builds its index within the timed call.
    """
    k = min(picks, arguments.sequential_picks or picks) if name in LINEAR else picks
    sampler = sampler or make_backend(name)
    generator = torch.Generator().manual_seed(seed)
    seconds, memory, selection = timed(
        lambda: sampler.select(pool, k, generator=generator), device=arguments.device, threads=arguments.threads
    )
    return seconds * picks / k, memory, selection


def summary(
    name: str,
    runs: list[tuple[float, float | None, Any]],
    pool: Candidates,
    picks: int,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """The record of a backend's runs."""
    last = runs[-1][-1]
    record = {
        "backend": name,
        "seconds": statistics.median(seconds for seconds, _, _ in runs),
        "peak_memory_gib": max((memory for _, memory, _ in runs if memory is not None), default=None),
        "repeats": len(runs),
        "stats": {key: float(value) for key, value in last.stats.items()},
    }
    if len(last.indices) < picks:
        record["extrapolated_from_picks"] = len(last.indices)
    elif arguments.quality:
        phis = [phi(pool, selection.indices) for _, _, selection in runs]
        error = statistics.stdev(phis) / len(phis) ** 0.5 if len(phis) > 1 else 0.0
        record |= {"phi": statistics.mean(phis), "phi_error": error}
        record["near_duplicates"] = statistics.mean(near_duplicate_share(pool, s.indices) for _, _, s in runs)
    return record


def add_ratios(records: list[dict[str, Any]]) -> None:
    """Adds speed and phi relative to the oracle of the same case, with the standard error of the phi ratio."""
    oracle = next((record for record in records if record["backend"] == ORACLE), None)
    for record in records if oracle else ():
        record["times_faster"] = ratio(oracle["seconds"], record["seconds"], f"the speed of {record['backend']}")
        # Where all rows are picked, phi is 0 and there is nothing to compare.
        if record.get("phi") and oracle.get("phi"):
            quotient = ratio(record["phi"], oracle["phi"], f"the phi ratio of {record['backend']}")
            parts = (record["phi_error"] / record["phi"], oracle["phi_error"] / oracle["phi"])
            record |= {"phi_ratio": quotient, "phi_ratio_error": quotient * (parts[0] ** 2 + parts[1] ** 2) ** 0.5}


def line(record: dict[str, Any]) -> str:
    """A record as one line of text."""
    text = f"{record['kind']:6} {record['rows']:>9} x {record['picks']:<5} {record['backend']:26} "
    text += f"{record['seconds']:10.4f} s"
    if "times_faster" in record:
        text += f"  {record['times_faster']:8.1f} x"
    if "phi_ratio" in record:
        text += f"  phi {record['phi_ratio']:.3f} ± {record['phi_ratio_error']:.3f}"
    if "near_duplicates" in record:
        text += f"  near-duplicates {record['near_duplicates']:.1%}"
    if "extrapolated_from_picks" in record:
        text += f"  (extrapolated from {record['extrapolated_from_picks']} picks)"
    return text


def conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments, the clock and the environment of a result."""
    return {
        "arguments": {key: value for key, value in vars(arguments).items() if key not in ("json", "plot")},
        "clock": "CPU time of the process" if arguments.device == "cpu" else "CUDA events",
        **environment("numpy", "scipy", "faiss-cpu", "faiss-gpu", "scikit-learn", "apricot-select", "numba"),
    }


@command("benchmarks.sampling", NotFiniteError, ConfigError, ImportError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    hold_threads(options.threads)
    records = measure_step(options) if options.step else measure(options)
    for record in records if options.step else ():
        print(line(record))
    if options.json:
        write({"environment": conditions(options), "records": records}, options.json)
    if options.plot:
        plot_times(records, options.plot)


if __name__ == "__main__":
    sys.exit(main())
