"""Evaluates the frozen encoders of a checkpoint:

python evaluate.py --checkpoint RUN --protocol linear|knn|retrieval --data SHARDS [--label a,b] [key=value ...]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from config import Config, ConfigError, load_config
from evaluation import LABEL_PROTOCOLS, PROTOCOLS
from evaluation.features import extract
from evaluation.report import print_table, run_folder, write_json
from evaluation.settings import EvaluationConfig
from evaluation.task import choose_labels, make_split, make_task
from model.encoder import CrossModalModel, build_model
from pipeline.decord_loader import RawVideoError
from pipeline.labels import LabelError
from pipeline.loader import make_loader
from pipeline.manifest import ManifestError
from pipeline.shard_reader import ShardError
from training.checkpoint import CheckpointError, load_model

PRETRAINED, RANDOM = "pre-trained", "random-initialised"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="run folder, or a checkpoint file")
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), required=True)
    parser.add_argument("--data", required=True, help="folder of shards (of raw videos with loader=decord)")
    parser.add_argument("--label", help="label columns to predict, with commas between; not needed if there is one")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in clips=10 (evaluation/settings.py)")
    args = parser.parse_intermixed_args(arguments)
    try:
        settings = load_config(EvaluationConfig, None, args.overrides)
        evaluate(args.checkpoint, args.protocol, args.data, args.label, settings)
    except (ConfigError, CheckpointError, LabelError, ManifestError, RawVideoError, ShardError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(
    checkpoint: Path, protocol: str, data: str, label: str | None, settings: EvaluationConfig
) -> list[dict[str, Any]]:
    """Runs a protocol, writes evaluation-*.json into the run folder and prints a table for each label."""
    config, model = load_model(checkpoint)
    loader_config, device = _loader_config(config, data, settings)
    loader = make_loader(loader_config, device=device)
    dataset = loader.dataset
    split = make_split(dataset, seed=settings.seed)
    if protocol in LABEL_PROTOCOLS:
        tasks = [make_task(dataset, name, split) for name in choose_labels(dataset, label)]
        used = np.logical_or.reduce([task.train | task.test for task in tasks])
    elif label is not None:
        raise ConfigError(f"--label means nothing to --protocol {protocol}: it pairs video with audio; leave it out")
    else:
        tasks, used = [split], split.test
    models = {name: m.to(device).eval() for name, m in _encoders(config, model).items()}
    ids = np.flatnonzero(used)
    slots = settings.clips if settings.pooling == "concat" else 1
    features = extract(models, loader.uniform_clips(ids, clips=settings.clips), ids, slots=slots)

    results = []
    for task in tasks:
        given = task.rows(ids)
        rows = PROTOCOLS[protocol](features, given, settings)
        name = f"{protocol}-{task.label}" if protocol in LABEL_PROTOCOLS else protocol
        counts = f"{given.train.sum()} train and " * (protocol in LABEL_PROTOCOLS) + f"{given.test.sum()} test samples"
        results.append(
            {
                "title": name.replace("-", " of ", 1),
                "caption": f"{counts}; split: {split.origin}; {settings.clips} clips a sample ({settings.pooling})",
                "checkpoint": str(checkpoint),
                "data": data,
                "fingerprint": dataset.fingerprint,
                "settings": vars(settings),
                "rows": rows,
            }
        )
        write_json(run_folder(checkpoint) / f"evaluation-{name}.json", results[-1])
        print_table(results[-1], Console())
    return results


def _loader_config(config: Config, data: str, settings: EvaluationConfig) -> tuple[Config, str]:
    """The run's config, pointed at the whole data set to evaluate on."""
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    source = replace(
        config.data,
        path=data,
        loader=settings.loader or config.data.loader,
        labels=settings.labels or config.data.labels,
        split="",
        shuffle_pairs=False,
    )
    return replace(config, data=source, train=replace(config.train, batch_size=max(2, settings.batch_size))), device


def _encoders(config: Config, model: CrossModalModel) -> dict[str, CrossModalModel]:
    """The checkpoint's model, and one of the same architecture that has seen nothing (weights of another seed)."""
    return {PRETRAINED: model, RANDOM: build_model(config.model, audio=config.audio, seed=config.seed + 1)}


if __name__ == "__main__":
    sys.exit(main())
