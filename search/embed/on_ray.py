"""Embeds the parts of a source on the nodes of a Ray cluster: a task makes one part and writes its file."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from common.cluster.engine import ClusterError, RayEngine
from common.cluster.shared import SharedFolder, require_shared, shared_folder, shared_output
from common.cluster.tasks import run_on_ray
from common.environment import available_cores, installed_version
from common.stores import Location
from pipeline.prepare.labels import Labels
from pipeline.prepare.sources import Source as File
from pipeline.shards.manifest import Manifest
from search.embed.folder import FolderSource
from search.embed.sources import Job, ShardSource, Source
from search.embed.store import EmbedError, Store, write_part
from search.encoders import load_encoders
from settings import from_dict, to_dict
from settings.search import EmbedConfig


class PartTask(NamedTuple):
    """A part to make, and what a node needs for it."""

    number: int
    files: list[File]
    labels: Labels


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all parts have in common; small, because it goes with every task."""

    run: Path
    src: Location
    out: Path
    config: EmbedConfig
    meta: dict[str, Any]
    """embeddings.json without what is known only at the end."""
    shared: tuple[SharedFolder, ...]
    cores: int
    """Number of cores of a task."""


_jobs: dict[str, Job] = {}
"""The encoders of this process on a node, by their fingerprint; loaded by the first task."""
_sources: dict[str, ShardSource] = {}
"""The prepared data of this process on a node, by their fingerprint."""


def cluster_device(device: str) -> str:
    """Returns where a cluster's tasks compute: `cpu` or `cuda`; auto is `cuda` if a node has a GPU."""
    import ray

    has_gpu = ray.cluster_resources().get("GPU", 0) >= 1
    if device == "cuda" and not has_gpu:
        raise ClusterError("device=cuda, but no node of the cluster has a GPU; set device=cpu, or add such a node")
    return "cuda" if has_gpu and device != "cpu" else "cpu"


def steps_on_ray(
    parts: Iterable[int],
    *,
    run: Path,
    src: Location,
    source: Source,
    store: Store,
    job: Job,
    engine: RayEngine,
) -> Generator[int, None, None]:
    """Makes those parts that this process can claim; yields the number of each when its file is written.

    Raises:
        EmbedError: a part cannot be made; the message names the node.
        ClusterError: the cluster cannot be used.
    """
    gpus = int(job.device == "cuda")
    engine = replace(engine, cpus=engine.cpus or _cores_per_task(gpus))
    assert engine.cpus is not None
    tasks = (PartTask(number, *source.files(number)) for number in parts if store.claim(number))
    config = from_dict(EmbedConfig, to_dict(job.config) | {"device": job.device})
    model = SharedFolder(run.parent, (run,)) if run.is_file() else shared_folder(run)
    with shared_output(store.out) as output:
        shared = (model, output, *([shared_folder(src)] if isinstance(src, Path) else []))
        work = Work(run=run, src=src, out=store.out, config=config, meta=store.meta, shared=shared, cores=engine.cpus)
        for task, outcome in run_on_ray(partial(make_part, work=work), tasks, engine=engine, gpus=gpus):
            if outcome.error is not None:
                where = f"node {outcome.node}: " if outcome.node else ""
                raise EmbedError(f"part {task.number}: {where}{outcome.error}") from None
            store.complete(task.number)
            yield task.number


def _cores_per_task(gpus: int) -> int:
    """All cores of the smallest node, or its share of them per GPU."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    counts = [node.get("CPU", 0) / (node["GPU"] if gpus else 1) for node in nodes if not gpus or node.get("GPU")]
    return int(max(1, min((count for count in counts if count >= 1), default=1)))


def make_part(task: PartTask, *, work: Work) -> None:
    """Makes a part on a node and writes its file; an existing file is replaced by the same bytes."""
    for one in work.shared:
        require_shared(one)
    job = _job(work)
    if work.meta["source"]["kind"] == "folder":
        source: Source = FolderSource(work.src, work.out, task.files, task.labels, job, first=task.number)
    else:
        source = _shard_source(work, job)
    for part in source.embed([task.number]):
        if part is not None:
            write_part(work.out, part, work.meta)


def _job(work: Work) -> Job:
    fingerprint = work.meta["model"]["fingerprint"]
    if fingerprint not in _jobs:
        versions = work.meta["versions"]
        here = {name: installed_version(name) for name in versions}
        if differing := [
            f"{name} {here[name]}, not {versions[name]}" for name in versions if here[name] != versions[name]
        ]:
            raise EmbedError(f"it has other versions than the machine that runs the command: {'; '.join(differing)}")
        encoders = load_encoders(work.run)
        if encoders.fingerprint != fingerprint:
            raise EmbedError(
                f"{work.run} has another checkpoint there, or got a new one; give the path of a checkpoint"
            )
        model = encoders.model.to(work.config.device).eval()
        processes = max(1, available_cores() // work.cores)
        _jobs[fingerprint] = Job(
            encoders=replace(encoders, model=model), config=work.config, device=work.config.device, processes=processes
        )
    return _jobs[fingerprint]


def _shard_source(work: Work, job: Job) -> ShardSource:
    fingerprint = work.meta["source"]["fingerprint"]
    if fingerprint not in _sources:
        dataset = Manifest.open(work.src)
        if dataset.fingerprint != fingerprint:
            raise EmbedError(f"{work.src} has changed since the command began; run it again")
        _sources[fingerprint] = ShardSource(dataset, job)
    return _sources[fingerprint]
