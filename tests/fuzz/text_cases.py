"""Odd or damaged settings (YAML, key=value), labels files and file names."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import yaml

from pipeline.prepare.labels import LabelError, folder_labels, read_labels
from pipeline.prepare.sources import find_sources
from pipeline.prepare.staging import Staging
from settings import Config, ConfigError, PrepareConfig, load_config, to_dict
from settings.load import to_yaml
from tests.fuzz.cases import World, attempt, check, outcome
from tests.fuzz.mutate import damaged
from tests.fuzz.odd import ODD_TEXTS, ODD_VALUES, ODD_YAML


def yaml_file(rng: random.Random, world: World) -> str:
    """Loads a YAML file with odd values and keys, with damaged bytes, or with constructs that break YAML readers."""
    cls = rng.choice((Config, PrepareConfig))
    path = world.scratch() / "config.yaml"
    way = rng.random()
    if way < 0.15:
        data = rng.choice(ODD_YAML).encode("utf-8", "surrogatepass")
    else:
        tree = _odd_tree(to_dict(cls()), rng)
        data = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        if way < 0.45:
            data = damaged(data, rng, other=rng.choice(ODD_YAML).encode()[:200])
    path.write_bytes(data)
    overrides = [_override(cls, rng)] if rng.random() < 0.1 else []
    config = attempt(lambda: load_config(cls, path, overrides), ConfigError, *([] if overrides else [str(path)]))
    if not isinstance(config, Exception):
        _check_config(cls, config, path)
    return outcome(config)


def override(rng: random.Random, world: World) -> str:
    """Loads odd settings from key=value overrides."""
    cls = rng.choice((Config, PrepareConfig))
    texts = [_override(cls, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    config = attempt(lambda: load_config(cls, None, texts), ConfigError)
    if not isinstance(config, Exception):
        _check_config(cls, config, world.scratch() / "config.yaml")
    return outcome(config)


def _check_config(cls: type, config: Any, path: Path) -> None:
    text = to_yaml(config)
    path.write_text(text, encoding="utf-8")
    check(to_yaml(load_config(cls, path)) == text, f"the config is not read back from its own YAML: {text!r:.300}")
    if isinstance(config, Config):
        check(config.audio_frames > 0 and config.clip.seconds > 0, "an empty window")
        json.dumps(to_dict(config), default=str)


def _override(cls: type, rng: random.Random) -> str:
    tree = to_dict(cls())
    keys: list[str] = []
    while isinstance(tree, dict) and tree and rng.random() < 0.95:
        key = rng.choice(list(tree))
        keys.append(key)
        tree = tree[key]
    key = ".".join(keys)
    if rng.random() < 0.15:
        key = rng.choice(
            (key + ".x", key[:-1], key.upper(), *ODD_TEXTS, "a." * 2000 + "b", "." + key, key + ".", "seed.x")
        )
    if rng.random() < 0.4:
        return f"{key}={_near(tree, rng)}"
    value = rng.choice(
        (*ODD_YAML, *map(_text, ODD_VALUES), _text(tree), str(rng.uniform(-2, 200)), str(rng.randrange(300)))
    )
    return key + rng.choice(("=", "=", "=", "=", "==", " = ", "", ":")) + value


def _near(value: Any, rng: random.Random) -> str:
    """Returns a value similar to `value`, so that some settings are accepted."""
    if isinstance(value, bool):
        return rng.choice(("true", "false", "yes", "0"))
    if isinstance(value, int | float):
        return repr(type(value)(value * rng.choice((0.5, 1, 1, 2, 3)) + rng.choice((0, 0, 1, -1))))
    return _text(value) if rng.random() < 0.5 else rng.choice((*ODD_TEXTS, "jpeg", "audio", "sgd", "shards", "bf16"))


def _text(value: Any) -> str:
    try:
        return value if isinstance(value, str) else str(value)
    except ValueError:  # a number with too many digits
        return "9" * 5000


def _odd_tree(tree: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Returns a part of `tree` in which up to three values or keys are odd."""
    kept = {key: value for key, value in tree.items() if rng.random() < 0.4}
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        node: dict[Any, Any] = kept
        while (below := [value for value in node.values() if isinstance(value, dict)]) and rng.random() < 0.8:
            node = rng.choice(below)
        what = rng.random()
        if what < 0.15 or not node:
            key = rng.choice((*ODD_TEXTS, "framse", 3, None, True, 2.5))
        else:
            key = rng.choice(list(node))
        value = rng.choice(ODD_VALUES)
        node[key] = (
            rng.uniform(-1, 200)
            if what > 0.85
            else value
            if not isinstance(value, int) or abs(value) < 10**300
            else 10**300
        )
    return kept


_NAMES = [
    "a.mp4",
    "b/c.mp4",
    "b/d.mkv",
    "\U0001f600 e.mp4",
    "-f.mp4",
    "g\nh.mp4",
    "i\\xffj.mp4",
    'k"l.mp4',
    "b/a.mp4",
    "..mp4",
]


def labels_csv(rng: random.Random, world: World) -> str:
    """Reads a labels file with gaps, quotes, other encodings, many classes, repeated rows or missing columns."""
    folder = world.scratch()
    path = folder / rng.choice(("labels.csv", "labels.tsv", "la bels.csv", "-l.csv", "\U0001f600.csv"))
    columns = rng.sample(["path", "kind", "split", "word", "speed", *rng.sample(ODD_TEXTS, k=1)], k=rng.randrange(1, 5))
    if rng.random() < 0.8 and "path" not in columns:
        columns.insert(rng.randrange(len(columns) + 1), "path")
    if rng.random() < 0.005:
        columns += [f"c{n}" for n in range(5_000)]
    delimiter = "\t" if path.suffix == ".tsv" else ","
    rows = [columns]
    many = 10_000 if len(columns) < 100 else 20
    for _ in range(rng.choice((0, 1, 5, 20)) if rng.random() < 0.995 else many):
        row = [rng.choice((*_NAMES, *ODD_TEXTS, f"class {rng.randrange(10_000)}")) for _ in columns]
        rows.append(
            row[: rng.randrange(len(row) + 1)] if rng.random() < 0.1 else row + ["more"] * (rng.random() < 0.02)
        )
        rows += [row] * (rng.random() < 0.1)
    text = rng.choice(("\n", "\r\n", "\r")).join(
        rng.choice((*[delimiter] * 9, ";")).join(map(_quoted(rng), row)) for row in rows
    )
    data = text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace")
    path.write_bytes(damaged(data, rng, other=b'"",\0\n\xff') if rng.random() < 0.3 else data)
    labels = attempt(lambda: read_labels(path, _NAMES), LabelError, str(path))
    if not isinstance(labels, Exception):
        complete = all(list(values) == labels.columns for values in labels.by_source.values())
        check(
            complete and labels.by_source.keys() <= set(_NAMES),
            f"labels of an unknown source or column: {labels!r:.300}",
        )
        json.dumps(labels.by_source, ensure_ascii=False).encode("utf-8")
    return outcome(labels)


def _quoted(rng: random.Random) -> Any:
    always = rng.random() < 0.3

    def quote(text: str) -> str:
        wants = always or any(mark in text for mark in ',"\n\r\t')
        return '"' + text.replace('"', '""') + '"' if wants and rng.random() < 0.97 else text

    return quote


def names(rng: random.Random, world: World) -> str:
    """Finds and stages files, links and folders with unusual names."""
    folder = world.scratch() / "src"
    folder.mkdir()
    out = folder.parent / "out"
    made = 0
    for _ in range(rng.randrange(1, 8)):
        raw = os.fsencode(rng.choice(ODD_TEXTS)) if rng.random() < 0.7 else rng.randbytes(rng.randrange(1, 40))
        name = raw.replace(b"\0", b"").replace(b"/", b"_" if rng.random() < 0.5 else b"/").lstrip(b"/")
        target = os.path.normpath(
            os.fsencode(folder) + b"/" + name + rng.choice((b".mp4", b".MKV", b".wav", b".txt", b""))
        )
        if not target.startswith(os.fsencode(folder) + b"/") or os.path.lexists(target):
            continue
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            kind = rng.random()
            if kind < 0.1:
                os.symlink(rng.choice((b"/etc/passwd", b"..", b".", b"nowhere", target)), target)
            elif kind < 0.15:
                os.mkfifo(target)
            else:
                Path(os.fsdecode(target)).write_bytes(b"")
            made += 1
        except OSError:
            continue
    sources, _ = find_sources(folder, exclude=out)
    spelled = [source.name for source in sources]
    check(len(sources) <= made and len({source.key for source in sources}) == len(sources), f"repeated keys: {spelled}")
    json.dumps(spelled, ensure_ascii=False).encode("utf-8")
    labels = folder_labels(spelled)
    staging = Staging(out, part=(0, 1), config=PrepareConfig(), labels="folders")
    for source in sources:
        inside = staging.fragment(source).resolve().is_relative_to(out.resolve())
        check(inside, f"the fragment of {source.name!r} lies outside OUT")
        if source.problem is not None:
            staging.reject(source, source.problem)
            check("\n" not in str(source.problem), f"a rejection of several lines: {str(source.problem)!r}")
    staging.close()
    return f"accepted, {len(labels.columns)} label columns"
