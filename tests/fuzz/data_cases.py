"""Damaged or edited parts of prepared data sets (manifests, shards, indexes, staged samples) and checkpoints."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import shutil
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.load.sets import select_split
from pipeline.plan.bad_samples import SampleError
from pipeline.plan.clips import ClipPlan, ClipPlanner
from pipeline.prepare.labels import Labels
from pipeline.prepare.publish import publish
from pipeline.prepare.records import PrepareError, index_records
from pipeline.prepare.staging import Staging
from pipeline.shards.codecs import CODECS
from pipeline.shards.manifest import Manifest, ManifestError
from pipeline.shards.reader import ShardReader
from pipeline.shards.tar_writer import RowError, write_shard
from settings import Config, ConfigError, from_dict, to_dict
from tests.fuzz.cases import World, attempt, check, outcome
from tests.fuzz.mutate import damaged
from tests.fuzz.odd import ODD_TEXTS
from tests.fuzz.originals import prepare_config
from tests.pipeline.shards.formats import with_index_lines, without_checksums
from training.checkpoint import CheckpointError, model_of, read

_ODD_JSON: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 10**30, 2**31, -(2**63), 1.5, float("nan"), float("inf"), [], {}, [1], ["a"], {"a": 1}),
    *([[]], ["../../etc/passwd"], ["/etc/passwd"], ["shard-000000.tar"] * 2, *ODD_TEXTS[:20]),
)
_CONFIG = from_dict(Config, {"clip": {"frames": 4, "size": 16}, "augment": {"enabled": False}})


def manifest(rng: random.Random, world: World) -> str:
    """Edits or damages a manifest, then opens and reads it as a loader does."""
    root = _copy(rng, world)
    folder = root / "manifest"
    way = rng.random()
    if way < 0.5:
        _edit_json(folder / "meta.json", rng)
    elif way < 0.7:
        _damage(folder / "meta.json", rng)
    else:
        version = json.loads((folder / "meta.json").read_text())["version"]
        _damage(rng.choice(sorted((folder / version).iterdir())), rng)
    return _read(root, rng)


def shard(rng: random.Random, world: World) -> str:
    """Changes, removes or moves bytes of a shard under an intact manifest."""
    root = _copy(rng, world)
    path = rng.choice(sorted(root.glob("*.tar")))
    data = path.read_bytes()
    changed = damaged(data, rng, other=b"\xff\xd8\xff\xc0\0\x11")
    # Usually the length is kept, because a different length is detected immediately.
    path.write_bytes(changed[: len(data)].ljust(len(data), b"\0") if rng.random() < 0.9 else changed)
    return _read(root, rng)


def _read(root: Path, rng: random.Random) -> str:
    opened = attempt(lambda: Manifest.open(root), ManifestError, str(root))
    if isinstance(opened, Exception):
        return outcome(opened)
    for column in opened.label_columns:
        codes = attempt(lambda column=column: opened.labels(column), ManifestError, str(root))
        names = opened.label_names(column)
        check(isinstance(codes, Exception) or int(codes.max(initial=-1)) < len(names), "label codes without a name")
    ids = np.array([rng.randrange(len(opened)) for _ in range(4)]) if len(opened) else np.zeros(0, np.int64)
    check(
        bool(np.isfinite(opened.seconds).all() and (opened.seconds >= 0).all()),
        "durations that are negative or not finite",
    )
    json.dumps([opened.source(int(i)) for i in ids]).encode()
    chosen = attempt(lambda: select_split(opened, "train"), (ConfigError, ManifestError))
    planner = attempt(lambda: ClipPlanner(config=_CONFIG, dataset=opened, fps=opened.storage.fps), ConfigError)
    if isinstance(chosen, Exception) or isinstance(planner, Exception):
        return "refused: ConfigError"
    plan = planner.train(ids, epoch=0, purpose="fuzz")
    reader = ShardReader(
        manifest=opened, frames=_CONFIG.clip.frames, stride=planner.stride, audio_samples=_CONFIG.audio_samples
    )
    return _read_tracks(reader, plan)


def _read_tracks(reader: ShardReader, plan: ClipPlan) -> str:
    result = "accepted"
    for track in (partial(CODECS[reader.manifest.storage.codec].read, reader), reader.pcm):
        got: Any = attempt(lambda track=track: track(plan), SampleError, str(reader.manifest.root))
        if isinstance(got, Exception):
            check(got.sample in plan.ids, f"the sample of {got!r} is none of {plan.ids}")  # type: ignore[attr-defined]
            result = outcome(got)
    return result


def index(rng: random.Random, world: World) -> str:
    """Damages the files from which preparation resumes: index lines, the journal, the recipe, an old manifest."""
    root = _copy(rng, world)
    choice = rng.choice(("index", "index", "index", "journal", "recipe", "meta"))
    if choice == "journal":
        path = root / "index" / "part.rejected"
        entry = {"source": "a.mp4", "reason": "empty file", "detail": "", "key": "0" * 20, "size": 0, "mtime_ns": 1}
        path.write_text(json.dumps({**entry, "limits": [120.0, 4096]}) + "\n")
    else:
        if choice == "index" and rng.random() < 0.6:
            with_index_lines(root)
        packed = choice == "index" and any(root.glob("index/*.rows"))
        found = {
            "index": "index/*.rows" if packed else "index/*.jsonl",
            "recipe": "recipe.json",
            "meta": "manifest/meta.json",
        }[choice]
        path = rng.choice(sorted(root.glob(found)))
    (_edit_json if rng.random() < 0.6 and path.suffix != ".rows" else _damage)(path, rng)
    shards = sorted(path.read_bytes() for path in root.rglob("*.tar"))
    # The settings must be those of the originals, or the recipe would be refused.
    config = prepare_config(root.name)

    def resume() -> None:
        staging = Staging(root, part=(0, 1), config=config, labels="file")
        try:
            publish(root, config=config, labels=Labels(columns=["kind"]))
        finally:
            staging.close()

    result = attempt(resume, PrepareError, str(root))
    # A shard whose index is damaged is moved to another folder.
    check(sorted(path.read_bytes() for path in root.rglob("*.tar")) == shards, "shards were removed")
    if not isinstance(result, Exception):
        _read(root, rng)
    return outcome(result)


def staged_sample(rng: random.Random, world: World) -> str:
    """Damages a staged sample, or replaces it by a foreign tar file."""
    root = world.prepared[rng.choice(("vp9", "jpeg"))]
    folder = world.scratch()
    fragment = folder / "fragment.tar"
    row = next(index_records(sorted(root.glob("index/*.rows"))[0]))
    # The first sample of the shard, up to the end of its last member, the JSON file.
    data = sorted(root.glob("*.tar"))[0].read_bytes()
    data = data[: data.index(row["key"].encode() + b".json") + 512 + 2048] + bytes(1024)
    fragment.write_bytes(damaged(data, rng) if rng.random() < 0.5 else _hostile_tar(rng))
    rows = attempt(lambda: write_shard(folder / "shard.tmp", [fragment]), RowError, str(fragment))
    if not isinstance(rows, Exception):
        json.dumps(rows)
        check(isinstance(rows[0].get("source"), str), f"a row without a source: {rows!r:.300}")
    check({path.name for path in folder.iterdir()} <= {"fragment.tar", "shard.tmp"}, "files beside the shard")
    return outcome(rows)


def _hostile_tar(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    form = rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for _ in range(rng.randrange(5)):
            stem = rng.choice((*(text for text in ODD_TEXTS if len(text) < 60), "../x", "/tmp/x", "a" * 20))
            info = tarfile.TarInfo(stem + rng.choice((".json", ".json", ".wav", ".ivf", ".mjpeg", "")))
            info.type = rng.choice(
                (tarfile.REGTYPE,) * 4 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
            )
            info.linkname = rng.choice(("/etc/passwd", "../../x", "a.json", ""))
            content = json.dumps(rng.choice((*_ODD_JSON, _odd_facts(rng), _odd_facts(rng), _odd_facts(rng)))).encode(
                "utf-8", "replace"
            )
            content = rng.choice((content, b"[" * 50_000, b"\xff", b""))
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    data = buffer.getvalue()
    if rng.random() < 0.2 and len(data) > 136:  # a size field that exceeds the file
        data = (
            data[:124]
            + rng.choice((b"77777777777\0", b"\x80" + b"\xff" * 11, b"-0000000001\0", b"x" * 12))
            + data[136:]
        )
    return data if rng.random() < 0.7 else damaged(data, rng)


def _odd_facts(rng: random.Random) -> dict[str, Any]:
    facts = {
        **{"source": "a.mp4", "labels": {"kind": "x"}, "flags": {}, "seconds": 0.2, "frame_bytes": [5, 6]},
        **{"audio_samples": 100, "width": 64, "height": 48, "first_frame": 0},
    }
    if rng.random() < 0.7:
        facts[rng.choice(list(facts))] = rng.choice(_ODD_JSON)
    return facts


def checkpoint(rng: random.Random, world: World) -> str:
    """Damages a checkpoint or its content, with or without a matching checksum."""
    path = world.scratch() / "step-000000003.pt"
    if rng.random() < 0.3:
        buffer = io.BytesIO()
        good = {"format": 1, "step": 3, "config": to_dict(_CONFIG), "model": {}}
        key = rng.choice(list(good))
        torch.save(rng.choice(({**good, key: rng.choice(_ODD_JSON)}, rng.choice(_ODD_JSON), torch.zeros(3))), buffer)
        data = buffer.getvalue()
    else:
        data = damaged(world.checkpoint, rng)
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest() if rng.random() < 0.85 else rng.choice(("0" * 64, "", "\xff", "x y"))
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n", encoding="latin-1")
    world.stage("torch.load")
    result = attempt(lambda: model_of(read(path), source=str(path)), (CheckpointError, ConfigError), str(path))
    return outcome(result)


def _copy(rng: random.Random, world: World) -> Path:
    codec = rng.choice(("vp9", "jpeg"))
    root = Path(shutil.copytree(world.prepared[codec], world.scratch() / codec))
    if rng.random() < 0.6:  # else checksums would find nearly every damage before anything else does
        without_checksums(root)
    return root


def _damage(path: Path, rng: random.Random) -> None:
    path.write_bytes(damaged(path.read_bytes(), rng, other=b'{"a": [1e999, NaN]}\n\xff\0'))


def _edit_json(path: Path, rng: random.Random) -> None:
    """Replaces, removes or adds values in a file that holds one JSON value, or one per line."""
    text = path.read_text()
    lines = text.splitlines() if path.suffix in (".jsonl", ".rejected") else [text]
    position = rng.randrange(len(lines))
    tree = json.loads(lines[position])
    for _ in range(rng.choice((1, 1, 2))):
        node, key = tree, rng.choice(list(tree))
        while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.6:
            node = node[key]
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if rng.random() < 0.2:
            del node[key]
            break
        more = [n := node[key], n - 1, n + 1, 3 * n] if type(node[key]) is int else []
        # A copy, because a later edit could put a value into itself.
        node[key] = copy.deepcopy(rng.choice((*_ODD_JSON, *more)))
    lines[position] = json.dumps(tree)
    if rng.random() < 0.1:
        odd = rng.choice(("[" * 50_000, "3", "{}", "", '"\\ud800"', json.dumps(rng.choice(_ODD_JSON))))
        lines.insert(position, odd) if len(lines) > 1 or path.suffix != ".json" else lines.__setitem__(0, odd)
    path.write_text("\n".join(lines) + "\n")
