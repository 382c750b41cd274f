"""Measures the loader on shards in an object store, beside the same shards on the disk.

    python -m benchmarks.stores --data data/demo/shards --json out.json

A server on the loopback interface answers every request after a fixed time. Its ranges are read without a cache, with
an empty cache, and with a full one. A consumer asks for a batch every --step seconds, as a training step does: the
efficiency is the share of its time that it does not wait for batches. Local and remote runs take turns.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.tools.options import positive
from common.phases import introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/demo/shards"), help="folder of prepared shards")
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"), help="YAML of settings")
    parser.add_argument("--latency", type=float, nargs="+", default=[0.001, 0.02, 0.1], help="seconds per request")
    parser.add_argument("--step", type=float, default=0.3, help="seconds from one batch to the next")
    parser.add_argument("--batches", type=positive, default=40, help="batches per measurement")
    parser.add_argument("--requests", type=positive, default=1000, help="requests per client that is measured")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    introduce("benchmarks.stores", "timing the loader on an object store", parse)

import os
import subprocess
import tempfile
import time
from dataclasses import replace

from benchmarks.tools.result import publish
from benchmarks.tools.slow_server import slow_server
from common.environment import environment
from pipeline.loader import make_loader
from pipeline.shards.manifest import ManifestError
from settings import Config, ConfigError, load_config

_CLIENT = """
import random, sys, time
from concurrent.futures import ThreadPoolExecutor
client, count, size, total = sys.argv[1], *map(int, sys.argv[2:5])
draw = random.Random(0)
starts = [draw.randrange(total - size) for _ in range(count)]
if client == "obstore":
    from common.stores import location
    file = location("s3://bucket") / sys.argv[5]
    read = lambda start: len(file.read(start, size)[0])
else:
    import os, s3fs
    files = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], config_kwargs={"max_pool_connections": 48})
    read = lambda start: len(files.cat_file("bucket/" + sys.argv[5], start=start, end=start + size))
read(0)
began, cpu = time.perf_counter(), time.process_time()
with ThreadPoolExecutor(48) as threads:
    assert set(threads.map(read, starts)) == {size}
print((time.perf_counter() - began) / count, (time.process_time() - cpu) / count)
"""
"""Program that reads random ranges by one client, and prints wall-clock and CPU seconds per request."""
_RANGE_BYTES = 40_000


def measure_clients(data: Path, latency: float, count: int) -> list[dict[str, Any]]:
    """Requests per second and CPU time per request of the client that is used, and of s3fs."""
    shard = max(data.glob("shard-*.tar"), key=lambda path: path.stat().st_size)
    found = []
    with slow_server(data, latency=latency) as variables:
        for client in ("obstore", "s3fs"):
            arguments = [client, str(count), str(_RANGE_BYTES), str(shard.stat().st_size), shard.name]
            result = subprocess.run(
                [sys.executable, "-c", _CLIENT, *arguments],
                env=os.environ | variables,
                capture_output=True,
                text=True,
                check=True,
            )
            seconds, cpu = map(float, result.stdout.split())
            found.append(
                {"client": client, "latency": latency, "requests_per_second": 1 / seconds, "cpu_ms": 1e3 * cpu}
            )
    return found


def run(config: Config, *, batches: int, step: float) -> dict[str, float]:
    """Efficiency of a consumer that needs `step` seconds per batch, and the unhindered speed of the loader.

    The first epoch's first batches are not counted in `efficiency`, but their time is `first_batch_seconds`.
    """
    loader = make_loader(config)
    began = time.perf_counter()
    source = loader.steps(0, sys.maxsize)
    next(source)
    first = time.perf_counter() - began
    waited = 0.0
    for _ in range(batches):
        time.sleep(step)
        asked = time.perf_counter()
        next(source)
        waited += time.perf_counter() - asked
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(source)
    seconds = time.perf_counter() - began
    source.close()  # type: ignore[attr-defined]
    return {
        "first_batch_seconds": first,
        "efficiency": step * batches / (step * batches + waited),
        "clips_per_second": batches * loader.batch_size / seconds,
        "cpu_ms_per_clip": 1e3 * (time.process_time() - cpu) / (batches * loader.batch_size),
    }


def measure_loader(config: Config, data: Path, latency: float, *, batches: int, step: float) -> list[dict[str, Any]]:
    """The loader from the disk, and from a store in ranges, with an empty and with a full cache."""
    found = []
    with slow_server(data, latency=latency) as variables, tempfile.TemporaryDirectory() as cache:
        os.environ.update(variables)
        store = {"path": f"s3://latency-{round(1e6 * latency)}", "cache_dir": cache}
        cases: dict[str, dict[str, Any]] = {
            "disk": {"path": str(data)},
            "ranges": {**store, "cache_gb": 0.0},
            "empty cache": store,
            "full cache": store,
        }
        for name, settings in cases.items():
            result = run(replace(config, data=replace(config.data, **settings)), batches=batches, step=step)
            found.append({"source": name, "latency": latency, **result})
    return found


@command("benchmarks.stores", ConfigError, ManifestError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    config = load_config(Config, options.config, [])
    clients, loader = [], []
    for latency in options.latency:
        clients += measure_clients(options.data, latency, options.requests)
        loader += measure_loader(config, options.data, latency, batches=options.batches, step=options.step)
    result = {
        "environment": environment("obstore", "s3fs", "fsspec", "nvidia-dali-cuda130"),
        "setting": {"config": options.config.name, "step_seconds": options.step, "batches": options.batches},
        "clients": clients,
        "loader": loader,
    }
    publish(result, options.json)


if __name__ == "__main__":
    sys.exit(main())
