"""Tests whether pre-training helps on real sounds: ESC-50's protocol with encoders pre-trained on its training folds.

    python -m experiments.esc50_transfer --data DATA

DATA holds esc50/ (meta/, audio/). For each of the five folds, encoders are pre-trained without labels on pairs made
from the other four (experiments/corpora/esc50.py); a linear SVM on frozen features is then fitted on the same four and
tested on the fold. Each result is appended to experiments/results/esc50_transfer.jsonl, so the command can be
interrupted and restarted at any time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.phases import introduce
from common.terminal import command, print_error
from experiments import RESULTS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.esc50_transfer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds esc50/")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="run every N-th trial, from the I-th")
    parser.add_argument("--quick", action="store_true", help="run only fold 1, in fp32")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the recorded results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    introduce("experiments.esc50_transfer", "pre-training and testing on the folds of ESC-50", parse)

import numpy as np
import torch

from common.environment import environment
from common.finite import NotFiniteError
from evaluation.esc50 import fit_svm
from experiments import records
from experiments.corpora.esc50 import Sounds, even_windows, make_pairs, read_sounds
from experiments.corpora.pairs import Pairs
from experiments.sweep import parse_share
from model import build_model
from model.encoder import CrossModalModel
from settings import Config, ConfigError
from settings.load import load_config
from training.distributed import World
from training.step import Learner

SETTINGS = (
    *("model.video=tiny", "model.audio=tiny", "model.momentum=0.99", "loss.temperature=0.1", "audio.seconds=0.98"),
    *("pool.size=1024", "dictionary.size=512", "optim.lr=0.002", "optim.warmup_steps=50", "optim.weight_decay=1e-4"),
    *("train.steps=400", "train.batch_size=64", "train.precision=bf16", "train.device=cpu", "train.threads=1"),
    "train.channels_last=false",
)
QUICK = ("train.precision=fp32",)
"""Further settings of --quick: bf16 is slow on a CPU without instructions for it."""
RANDOM, LOG_MEL = "random-initialised", "log-mel mean and deviation"
RULES = {
    RANDOM: (),
    LOG_MEL: (),
    "fifo": ("sampler.name=fifo", "sampler.embedding=feature"),
    "kmeanspp gradient": ("sampler.name=kmeanspp", "sampler.embedding=gradient"),
    "hard": ("sampler.name=hard", "sampler.embedding=feature"),
}
WINDOWS_TRAINED, WINDOWS_TESTED = 6, 10
FILE = "esc50_transfer.jsonl"


@command("experiments.esc50_transfer", ConfigError)
def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if a trial has failed, or 2 for a mistake in the arguments or missing data."""
    options = parse(arguments)
    trials = [(fold, rule) for fold in range(1, 2 if options.quick else 6) for rule in RULES]
    path = options.results / FILE
    index, count = parse_share(options.share)
    failed = 0
    for fold, rule in trials[index::count]:
        settings = [*SETTINGS, *RULES[rule], *(QUICK if options.quick else ())]
        if any(belongs_to(record, fold, rule, settings) for record in records.load(path)):
            continue
        try:
            found = run_fold(options.data / "esc50", fold, rule, settings)
        except NotFiniteError as error:
            failed += 1
            print_error("experiments.esc50_transfer", f"fold {fold} | {rule} failed and is not recorded: {error}")
            continue
        record = {"fold": fold, "rule": rule, "settings": settings, **found}
        records.append_line(path, record | {"environment": environment("scikit-learn", "numpy")})
        print(f"fold {fold} | {rule}: {json.dumps(found)}", flush=True)
    return int(failed > 0)


def belongs_to(record: dict[str, Any], fold: int, rule: str, settings: list[str]) -> bool:
    """Whether a recorded result belongs to this trial, with these settings."""
    return (record["fold"], record["rule"], record["settings"]) == (fold, rule, settings)


def run_fold(folder: Path, fold: int, rule: str, settings: Sequence[str]) -> dict[str, float]:
    """Accuracy on the fold, and CPU seconds of pre-training (0 for RANDOM and LOG_MEL, which are not trained)."""
    config = load_config(Config, None, [*settings, f"seed={fold}"])
    torch.set_num_threads(1)
    sounds = read_sounds(folder, config.audio.sample_rate)
    windows = even_windows(sounds, audio=config.audio, windows=WINDOWS_TESTED)
    seconds = 0.0
    if rule == LOG_MEL:
        features = torch.cat([windows.mean((1, 3)), windows.transpose(1, 2).flatten(2).std(2)], dim=1).numpy()
    else:
        model = build_model(config.model, audio=config.audio, seed=config.seed)
        if rule != RANDOM:
            rows = np.flatnonzero(sounds.folds != fold)
            pairs = make_pairs(sounds, rows, audio=config.audio, windows=WINDOWS_TRAINED, seed=config.seed)
            seconds = pretrain(model, config, pairs)
        features = frozen_features(model, windows)
    return {"accuracy": fold_accuracy(features, sounds, fold), "cpu_seconds": seconds}


def pretrain(model: CrossModalModel, config: Config, pairs: Pairs) -> float:
    """Trains the model on these pairs with the product's own step; returns the CPU seconds."""
    started, size = time.process_time(), config.train.batch_size
    world = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
    learner = Learner(model=model, config=config, world=world, total_steps=config.train.steps)
    learner.fill(pairs.batches(np.arange(config.pool.size), size), epoch=0)
    for step, (_, batch) in enumerate(pairs.epochs(size=size, seed=config.seed)):
        if step == config.train.steps:
            break
        learner.step(batch, step)
    return time.process_time() - started


@torch.no_grad()
def frozen_features(model: CrossModalModel, windows: torch.Tensor) -> np.ndarray:
    """The audio encoder's features averaged over each clip's windows: float32 [n, windows, n_mels, T] to [n, F]."""
    encoder = model.query["audio"].eval()
    parts = [encoder(part.flatten(0, 1)[:, None]).features.view(*part.shape[:2], -1) for part in windows.split(50)]
    return torch.cat([part.mean(1) for part in parts]).numpy()


def fold_accuracy(features: np.ndarray, sounds: Sounds, fold: int) -> float:
    """Accuracy on a fold with evaluate.py's protocol esc50: linear SVM, C chosen by leaving each training fold out."""
    train = sounds.folds != fold
    svm, _ = fit_svm(features[train], sounds.classes[train], groups=sounds.folds[train])
    return float(np.mean(svm.predict(features[~train]) == sounds.classes[~train]))


if __name__ == "__main__":
    sys.exit(main())
