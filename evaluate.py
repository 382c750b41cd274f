"""Evaluates the encoders of a checkpoint and compares them with random weights and chance (docs/evaluation.md):

python evaluate.py --checkpoint RUN --protocol P --data SHARDS [--config configs/eval/P.yaml] [--label a,b] [key=value]
"""

from __future__ import annotations

from common.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("evaluate.py")

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common.phases import begin, open_log, say
from common.registry_keys import registry_keys
from common.stores import Location, location
from common.stores.urls import check_url
from common.terminal import command, print_error, show_logs
from evaluation.columns import Columns, check_split, choose_labels, predicts_a_label, require_label
from pipeline.shards.meta import ManifestError, check_shards, read_meta
from settings import Config, ConfigError, load_config, to_dict
from settings.evaluation import EvaluationConfig
from training.saving.files import CheckpointError, require_some_checkpoint


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=location, required=True, help="run folder, or a checkpoint file; or its URL"
    )
    protocols = sorted(registry_keys("evaluation/protocols.py", "PROTOCOLS"))
    parser.add_argument("--protocol", choices=protocols, required=True)
    parser.add_argument(
        "--data", type=check_url, required=True, help="folder or URL of shards (of raw videos with loader=decord)"
    )
    parser.add_argument("--label", help="label columns to predict, separated by commas (default: the only one)")
    parser.add_argument("--config", type=Path, help="YAML file of settings, for example from configs/eval")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings such as clips=10 (docs/configuration.md)"
    )
    return parser.parse_intermixed_args(arguments)


@command("evaluate.py", ConfigError, CheckpointError, ManifestError)
def announce() -> None:
    """Finds mistakes that can be found without torch and DALI, which take seconds to import; says what follows."""
    args = parse()
    settings = load_config(
        EvaluationConfig, args.config, args.overrides, check=partial(check_split, args.protocol, args.label)
    )
    if isinstance(args.checkpoint, Path):
        require_some_checkpoint(args.checkpoint)
    if (settings.loader or _trained_with(args.checkpoint)) == "dali":
        root = location(args.data)
        meta = read_meta(root)
        check_shards(root, meta)
        if predicts_a_label(args.protocol, args.label) and not settings.splits:
            columns = Columns(meta["label_columns"])
            for label in choose_labels(columns, args.label):
                require_label(columns, label)
    say(f"evaluating {args.checkpoint} with the protocol {args.protocol} on {args.data}")
    begin("importing torch and DALI")


def _trained_with(checkpoint: Location) -> str:
    """The loader of the run that the checkpoint belongs to; empty if its folder does not tell, or is at a URL."""
    if not isinstance(checkpoint, Path):
        return ""
    folder = checkpoint.resolve().parents[1] if checkpoint.is_file() else checkpoint
    try:
        return load_config(Config, folder / "config.yaml").data.loader
    except ConfigError:  # the checkpoint itself holds the settings
        return ""


if __name__ == "__main__":
    open_log("evaluate.py")
    # `command` turns mistakes into a message and an exit status.
    if status := announce():
        sys.exit(status)

import torch

from common.console import Console
from common.finite import NotFiniteError
from evaluation.lists.official_splits import describe_coverage
from evaluation.notes import pretrained_on
from evaluation.protocols import PROTOCOLS, TRAINING, EvaluationInputs
from evaluation.reference import reference_model
from evaluation.report import print_table, require_finite_rows, result_path, run_folder, write_json
from model.encoder import CrossModalModel, build_model
from pipeline.loader import make_loader
from pipeline.plan.bad_samples import SampleError
from pipeline.prepare.labels import LabelError
from training.checkpoint import load_model
from training.remote.checkpoints import copying_results
from training.report.run_page import write_run_page

PRETRAINED, RANDOM, REFERENCE = "pre-trained", "random-initialised", "Kinetics-400 labels (torchvision)"


@command("evaluate.py", NotFiniteError)
def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    show_logs()
    try:
        settings = load_config(EvaluationConfig, args.config, args.overrides)
        with copying_results(args.checkpoint) as checkpoint:
            evaluate(checkpoint, args.protocol, args.data, args.label, settings, source=str(args.checkpoint))
    except (ConfigError, CheckpointError, LabelError, ManifestError, SampleError) as error:
        print_error("evaluate.py", error)
        return 2
    return 0


def evaluate(
    checkpoint: Path, protocol: str, data: str, label: str | None, settings: EvaluationConfig, *, source: str = ""
) -> list[dict[str, Any]]:
    """Runs a protocol, writes evaluation-*.json to the run folder and prints one table per label.

    Args:
        source: what the results name as the checkpoint, if that is a copy.

    Returns:
        The results as they were written, one per table.

    Raises:
        ConfigError, CheckpointError, LabelError, ManifestError, SampleError: a setting, the checkpoint or the data
            cannot be used.
        NotFiniteError: a feature or a figure is not finite.
    """
    check_split(protocol, label, settings)
    begin(f"reading {checkpoint}")
    config, model = load_model(checkpoint)
    loader_config, device = _loader_config(config, data, settings, trains=protocol in TRAINING)
    loader = make_loader(loader_config, device=device, batch_size=settings.batch_size)
    models = {name: m.to(device).eval() for name, m in _encoders(config, model, settings).items()}
    inputs = EvaluationInputs(models=models, loader=loader, settings=settings, label=label)
    results = []
    begin(f"running {protocol}")
    for table in PROTOCOLS[protocol](inputs):
        result = {
            "title": table.name.replace("-", " on ", 1),
            "caption": "\n".join([table.caption, *describe_coverage(table.coverage)]),
            "checkpoint": source or str(checkpoint),
            "data": data,
            "fingerprint": loader.dataset.fingerprint,
            "settings": to_dict(settings),
            "rows": table.rows,
            "coverage": list(table.coverage),
            "notes": [*table.notes, *pretrained_on(config.data, data)],
        }
        require_finite_rows(table.rows)
        # Printed first: a run folder that cannot be written must not cost the result of a long evaluation.
        print_table(result, Console())
        write_json(result_path(run_folder(checkpoint), table.name), result)
        results.append(result)
    write_run_page(run_folder(checkpoint))
    return results


def _loader_config(config: Config, data: str, settings: EvaluationConfig, *, trains: bool) -> tuple[Config, str]:
    """The run's config with the settings of the evaluation and its complete data set, and the device.

    Args:
        trains: whether the protocol trains by gradient descent.
    """
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    source = config.data.without_split(
        path=data,
        loader=settings.loader or config.data.loader,
        labels=settings.labels or config.data.labels,
        # A bad sample stops the evaluation: its replacement could be a test sample, on which no probe may train.
        max_bad_fraction=0.0,
        idle_priority=config.data.idle_priority and trains,
    )
    config = config.for_evaluation()
    clip = replace(config.clip, frames=settings.frames or config.clip.frames, size=settings.size or config.clip.size)
    wanted = replace(
        config,
        seed=settings.seed,
        data=source,
        clip=clip,
        augment=settings.finetune.augment,
    )
    return wanted, device


def _encoders(config: Config, model: CrossModalModel, settings: EvaluationConfig) -> dict[str, CrossModalModel]:
    """The checkpoint's model, one of the same architecture with random weights of another seed, and the reference if
    the settings ask for one."""
    models = {PRETRAINED: model, RANDOM: build_model(config.model, audio=config.audio, seed=config.seed + 1)}
    if settings.reference:
        models[REFERENCE] = reference_model(model, architecture=config.model.video, weights=settings.reference)
    return models


if __name__ == "__main__":
    sys.exit(main())
