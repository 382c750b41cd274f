"""Tests encoders that were pre-trained on speech (GRID, AV-MNIST) on other sounds, with ESC-50's protocol.

    python -m experiments.run grid_words --data SHARDS --keep RUNS
    python -m experiments.esc50_speech --data DATA --runs RUNS

DATA holds esc50/, mnist/ and spoken_digits/. Linear SVMs are fitted to frozen audio features, tested on each official
fold and compared with the same encoder at random weights. Each result is appended to
experiments/results/esc50_speech.jsonl, so the command can be interrupted and restarted at any time. Without --runs,
only AV-MNIST is tested. With --quick, RUNS is the folder that grid_words --quick kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from common.phases import introduce
from common.terminal import command, print_error
from experiments import RESULTS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.esc50_speech",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds esc50/, mnist/ and spoken_digits/")
    parser.add_argument("--runs", type=Path, help="run folders that experiments.run grid_words --keep kept")
    parser.add_argument("--share", default="0/1", metavar="I/N", help="run every N-th trial, from the I-th")
    parser.add_argument("--quick", action="store_true", help="test the encoders of the quick versions, one seed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the recorded results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    introduce("experiments.esc50_speech", "testing the audio encoders of the experiments on ESC-50", parse)

import numpy as np
import torch

from common.environment import environment
from common.finite import NotFiniteError
from experiments import records
from experiments.corpora import av_mnist
from experiments.corpora.esc50 import Sounds, even_windows, read_sounds
from experiments.encoders import build_small_model
from experiments.esc50_transfer import RANDOM, WINDOWS_TESTED, fold_accuracy, frozen_features, pretrain
from experiments.sweep import Planned, load_sweep, parse_share, plan
from experiments.trial import make_corpus
from model import build_model
from settings import ConfigError
from training.checkpoint import CheckpointError, load_model

GRID, AV_MNIST = "GRID", "AV-MNIST"
CORPORA = {GRID: ("grid_words", "main"), AV_MNIST: ("av_mnist", "longer")}
"""Corpus -> the experiment and the group whose encoders are tested."""
LEFT_OUT = ("shuffled pairs, fifo", "kmeanspp feature")
"""Rules of those experiments whose encoders are not tested."""
SEEDS = range(5)
FILE = "esc50_speech.jsonl"


@command("experiments.esc50_speech", ConfigError, CheckpointError)
def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 if a trial has failed, or 2 for a mistake in the arguments or missing data."""
    options = parse(arguments)
    path, here = options.results / FILE, environment("scikit-learn", "numpy")
    wanted = [t for t in trials(quick=options.quick) if t[0] != GRID or options.runs]
    index, count = parse_share(options.share)
    failed = 0
    for corpus, rule, trial in wanted[index::count]:
        if is_recorded(records.load(path), corpus, rule, trial):
            continue
        sounds = read_sounds(options.data / "esc50", _rate(corpus, trial))
        torch.set_num_threads(1)
        extract = _from_grid if corpus == GRID else _from_av_mnist
        try:
            features = extract(options.runs if corpus == GRID else options.data, rule, trial, sounds)
            folds = [fold_accuracy(features, sounds, fold) for fold in range(1, 6)]
        except NotFiniteError as error:
            failed += 1
            name = f"{corpus} | {rule} | {trial.seed}"
            print_error("experiments.esc50_speech", f"{name} failed and is not recorded: {error}")
            continue
        record = {"corpus": corpus, "rule": rule, "seed": trial.seed, "digest": trial.digest}
        found = {"accuracy": float(np.mean(folds)), "folds": folds}
        records.append_line(path, record | found | {"environment": here})
        print(f"{corpus} | {rule} | {trial.seed}: {json.dumps(found)}", flush=True)
    return int(failed > 0)


def trials(*, quick: bool = False) -> Iterator[tuple[str, str, Planned]]:
    """Yields (corpus, rule, trial whose encoder is tested), seed by seed, with random weights first."""
    seeds = range(1) if quick else SEEDS
    for corpus, (experiment, group) in CORPORA.items():
        planned = plan(load_sweep(experiment), None if quick else [group], quick=quick)
        of_seed = [t for t in planned if t.seed in seeds and t.rule not in LEFT_OUT]
        for number, trial in enumerate(of_seed):
            if number == 0 or trial.seed != of_seed[number - 1].seed:
                yield corpus, RANDOM, trial
            yield corpus, trial.rule, trial


def is_recorded(results: list[dict], corpus: str, rule: str, trial: Planned) -> bool:
    """Whether a recorded result belongs to this trial, with these settings."""
    wanted = (corpus, rule, trial.seed, trial.digest)
    return any((r["corpus"], r["rule"], r["seed"], r["digest"]) == wanted for r in results)


def _rate(corpus: str, trial: Planned) -> int:
    return trial.settings.run.audio.sample_rate if corpus == GRID else av_mnist.RATE


def _from_grid(runs: Path, rule: str, trial: Planned, sounds: Sounds) -> np.ndarray:
    config = trial.settings.run
    if rule == RANDOM:
        model = build_model(config.model, audio=config.audio, seed=config.seed)
    else:
        _, model = load_model(runs / trial.digest)
    audio = replace(config.audio, seconds=config.audio_seconds)
    return frozen_features(model, even_windows(sounds, audio=audio, windows=WINDOWS_TESTED))


def _from_av_mnist(data: Path, rule: str, trial: Planned, sounds: Sounds) -> np.ndarray:
    # In fp32, because the experiment's bf16 is many times slower on a CPU without instructions for it.
    config = replace(trial.settings.run, train=replace(trial.settings.run.train, precision="fp32"))
    corpus = make_corpus(trial.settings.corpus, data=data, seed=config.seed)
    model = build_small_model(config.model, corpus.train, seed=config.seed)
    if rule != RANDOM:
        pretrain(model, config, corpus.train)
    length = int(av_mnist.RATE * av_mnist.SECONDS)
    starts = np.linspace(0, sounds.pcm.shape[1] - length, WINDOWS_TESTED).astype(int)
    windows = [av_mnist.to_log_mel(data, sounds.pcm[:, start : start + length]) for start in starts]
    return frozen_features(model, torch.stack(windows, dim=1))


if __name__ == "__main__":
    sys.exit(main())
