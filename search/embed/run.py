"""Embeds a source into a folder: divides the work among processes, resumes, and writes the description at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.cluster.connect import connected
from common.cluster.engine import RayEngine
from common.environment import installed_version
from common.phases import begin, hushed, say
from common.progress import show_progress
from common.stores import Location, RemotePath
from pipeline.prepare.labels import folder_labels, read_labels
from pipeline.prepare.sources import find_sources
from pipeline.prepare.stores.originals import list_sources
from pipeline.shards.manifest import Manifest
from pipeline.shards.meta import is_prepared
from search.embed.folder import FolderSource
from search.embed.on_ray import cluster_device, steps_on_ray
from search.embed.sources import Job, ShardSource, Source
from search.embed.store import EmbedError, Part, Store, ordered
from search.embeddings import FORMAT
from search.encoders import load_encoders
from settings import to_dict
from settings.search import EmbedConfig

PACKAGES = ("torch", "nvidia-dali-cuda130", "numpy", "av", "pyarrow")
"""Packages whose versions may change the bytes of the result."""
_PAUSE = 0.5
"""Seconds between two looks at the parts of other processes."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """This process among those that share the work, as torchrun's environment variables say."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def embed(
    run: Path,
    src: Location,
    out: Path,
    *,
    config: EmbedConfig,
    labels: Path | None = None,
    labels_may_miss: bool = False,
    npy: bool = False,
    place: Place | None = None,
    engine: RayEngine | None = None,
) -> dict[str, Any] | None:
    """Embeds the files of `src` that `out` lacks.

    Args:
        run: run folder, or a checkpoint file.
        src: prepared shards, or a folder of videos; here or in an object store.
        out: the folder to write; see search.embeddings.
        labels: list of labels for a folder of videos; without it the folders' names are labels.
        labels_may_miss: whether to continue even if the list does not seem to belong to the files.
        npy: whether to write the vectors as .npy files too.
        place: this process among several; None if it is alone.
        engine: the Ray cluster whose nodes embed the parts; None for this process.

    Returns:
        The contents of embeddings.json; None on ranks other than 0, which end when no part is left to claim.

    Raises:
        EmbedError: an argument is wrong, or `out` holds other embeddings.
        ClusterError: the cluster cannot be used.
        CheckpointError, ConfigError, ManifestError, LabelError: the run, the data or the list cannot be used.
        NotFiniteError: an embedding is not finite.
    """
    place = place or Place()
    src, out = src.resolve(), out.resolve()
    with connected(engine.address) if engine is not None else nullcontext():
        begin(f"reading {run}")
        job = _job(run, config, place) if engine is None else _cluster_job(run, config)
        source = _source(src, out, job, labels=labels, labels_may_miss=labels_may_miss)
        store = Store(out, parts=source.parts, meta=_meta(run, source, job))
        try:
            missing = _missing(store)
            work: Callable[[Iterable[int]], Iterator[object]] = partial(_steps, source, store)
            if engine is not None:
                work = partial(
                    steps_on_ray, run=run.resolve(), src=src, source=source, store=store, job=job, engine=engine
                )
            total = len(missing) if engine is not None else source.work(missing[place.rank :: place.size])
            unit = "parts" if engine is not None else source.unit
            steps = work(ordered(missing, rank=place.rank, size=place.size))
            with hushed():
                for _ in show_progress(steps, total=total, unit=unit) if place.rank == 0 else steps:
                    pass
            if place.rank:
                return None
            _wait_for_others(work, store)
            begin(f"writing the description of {out}")
            return store.finish(npy=npy)
        finally:
            store.close()


def _missing(store: Store) -> list[int]:
    missing = store.missing()
    if len(missing) < store.parts:
        say(f"{store.parts - len(missing):,} of {store.parts:,} parts are complete; embedding the others")
    begin("embedding")
    return missing


def _steps(source: Source, store: Store, parts: Iterable[int]) -> Iterator[Part | None]:
    """Embeds and writes those parts that this process can claim."""
    for part in source.embed(number for number in parts if store.claim(number)):
        if part is not None:
            store.write(part)
        yield part


def _wait_for_others(work: Callable[[Iterable[int]], Iterator[object]], store: Store) -> None:
    """Waits for the parts that other processes have claimed, and makes those whose process has ended."""
    while missing := store.missing():
        begin(f"waiting for {len(missing)} parts of other processes", quietly=True)
        if not any(part is not None for part in work(missing)):
            time.sleep(_PAUSE)


def _job(run: Path, config: EmbedConfig, place: Place) -> Job:
    encoders = load_encoders(run)
    device: str = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        if place.local_rank >= torch.cuda.device_count():
            raise EmbedError(
                f"device=cuda, but process {place.local_rank} of this machine has no GPU (found "
                f"{torch.cuda.device_count()}): start fewer processes with torchrun, or set device=cpu"
            )
        torch.cuda.set_device(place.local_rank)
        device = f"cuda:{place.local_rank}"
        # The fastest algorithm may be another one in another process, and give other bits.
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    model = encoders.model.to(device).eval()
    return Job(encoders=replace(encoders, model=model), config=config, device=device, processes=place.local_size)


def _cluster_job(run: Path, config: EmbedConfig) -> Job:
    """For a process that leaves the work to the nodes of a cluster; its own device is not used."""
    return Job(encoders=load_encoders(run), config=config, device=cluster_device(config.device), processes=1)


def _source(src: Location, out: Path, job: Job, *, labels: Path | None, labels_may_miss: bool) -> Source:
    if is_prepared(src):
        if labels is not None:
            raise EmbedError("--labels is for a folder of videos; prepared data have labels: see pipeline.labels")
        return ShardSource(Manifest.open(src), job)
    begin(f"listing the files in {src}")
    files, skipped = list_sources(src) if isinstance(src, RemotePath) else find_sources(src, exclude=out)
    if not files:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common(5)) or "nothing"
        raise EmbedError(
            f"{src} holds neither prepared data nor a file with a known video or audio suffix; it holds {kinds}"
        )
    names = [file.name for file in files]
    found = (
        read_labels(labels, names, streams=job.config.streams, root=src if isinstance(src, Path) else None)
        if labels is not None
        else folder_labels(names)
    )
    if not labels_may_miss:
        found.check()
    return FolderSource(src, out, files, found, job)


def _meta(run: Path, source: Source, job: Job) -> dict[str, Any]:
    """embeddings.json without `rows` and `unreadable`; nothing in it depends on when or where it is written."""
    settings = to_dict(job.config)
    return {
        "format": FORMAT,
        "model": {
            "run": str(run.resolve()),
            "step": job.encoders.step,
            "fingerprint": job.encoders.fingerprint,
            "dim": job.encoders.dim,
            "modalities": list(source.modalities),
        },
        "every": job.config.every or None,
        "source": source.describe(),
        "labels": source.label_columns,
        "parts": source.parts,
        "settings": {
            "streams": job.config.streams,
            "clips": job.config.clips_per_row,
            "batch_size": job.config.batch_size,
            "device": job.device.partition(":")[0],
            **{key: settings[key] for key in source.settings},
        },
        "versions": {name: installed_version(name) for name in PACKAGES},
    }
