"""Runs one trial: trains a configuration on a corpus with the product's own step, and measures it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from common.finite import require_finite_figures
from experiments.corpora.av_mnist import FREQUENT, make_av_mnist
from experiments.corpora.omniglot import make_omniglot
from experiments.corpora.pairs import Corpus, Part
from experiments.corpora.tuxpaint import make_tuxpaint
from experiments.encoders import build_small_model
from experiments.measure import measure
from experiments.subprocess_trial import run_in_subprocesses
from settings import Config
from settings.errors import require
from settings.recipe import auto_keys
from training.distributed import World
from training.pool import pool_ids
from training.step import Learner


@dataclass(frozen=True)
class CorpusConfig:
    """The training data."""

    name: Literal["omniglot", "av_mnist", "tuxpaint", "shards"] = "omniglot"
    """Strips of Omniglot characters, moving and spoken digits, pictures and their spoken names, or prepared shards
    (with train.py and evaluate.py)."""
    part: Part = "all"
    """Which sources the test pairs are from: those kept for tuning, or the others (not for shards)."""
    frequent: tuple[int, ...] = FREQUENT
    """The digits that corpus.skew refers to (only for av_mnist)."""
    shards: str = ""
    """Folder of the shards within that of the data (only for shards)."""
    labels: str = ""
    """Label columns to probe, separated by commas (only for shards)."""
    probe: str = ""
    """Settings of the probe as key=value, separated by spaces (only for shards; see settings/evaluation.py)."""
    characters: int = 1
    """Number n of cells per strip (only for omniglot)."""
    cell: int = 24
    """Side of a cell in pixels (only for omniglot)."""
    train: int = 16384
    """Number of training pairs."""
    held_out: int = 1000
    """Number of pairs that the probe is fitted to, and number of pairs that it is tested on."""
    skew: float = 0.0
    """Share of the training pairs that come from few classes (four characters, three digits); 0 draws all equally."""

    def __post_init__(self) -> None:
        require(bool(self.labels) == (self.name == "shards"), "corpus.labels must be given for corpus.name=shards only")
        parts = {"shards": ("all",), "tuxpaint": ("tuning", "test")}.get(self.name, get_args(Part))
        require(self.part in parts, f"corpus.part must be {' or '.join(parts)} for corpus.name={self.name}")
        require(0 <= self.skew < 1, f"corpus.skew must be in [0, 1), not {self.skew}")
        require(self.held_out >= 512, f"corpus.held_out must be at least 512, not {self.held_out}")


@dataclass(frozen=True)
class TrialConfig:
    """All settings of a trial. Trials with equal settings give equal figures, except for times."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    measure_every: int = 100
    """Number of steps between measurements; the last step is always measured."""
    stretch: float = 1.0
    """Factor of run.train.steps, to give a rule with cheaper steps the time of another (not for shards)."""
    run: Config = field(default_factory=Config)
    """The product's configuration; train.steps sets the length."""

    def __post_init__(self) -> None:
        open_keys = auto_keys(self.run)
        require(not open_keys, f"a trial needs numbers, but {', '.join(open_keys)} is auto")
        require(
            self.run.clip.per_sample == 1 or self.corpus.name == "shards",
            f"run.clip.per_sample must be 1 on the corpus {self.corpus.name}, whose samples are single clips",
        )
        model = self.run.model
        require(
            self.corpus.name == "shards" or not (model.init or model.init_video or model.init_audio),
            f"run.model.init, init_video and init_audio must be empty on the corpus {self.corpus.name}, whose encoders "
            "always start from random weights",
        )
        require(
            self.stretch > 0 and (self.stretch == 1 or self.corpus.name != "shards"),
            f"stretch must be positive, and 1 for corpus.name=shards, not {self.stretch}",
        )
        require(self.run.train.steps >= 1, "run.train.steps must be at least 1: nothing else ends a trial")
        require(self.measure_every >= 1, f"measure_every must be at least 1, not {self.measure_every}")


def make_corpus(config: CorpusConfig, *, data: Path, seed: int) -> Corpus:
    """Makes the corpus of a seed; the folder `data` holds omniglot/, or mnist/ and spoken_digits/."""
    common: dict[str, Any] = {"train": config.train, "held_out": config.held_out, "seed": seed, "part": config.part}
    if config.name == "tuxpaint":
        return make_tuxpaint(**common)
    if config.name == "av_mnist":
        return make_av_mnist(data, skew=config.skew, frequent=config.frequent, **common)
    return make_omniglot(data / "omniglot", characters=config.characters, cell=config.cell, skew=config.skew, **common)


def run_trial(
    trial: TrialConfig, *, data: Path, keep: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Trains and measures.

    Args:
        data: folder of the data sets, or of the shards.
        keep: folder that keeps the run folder; only a trial on shards has one.
        say: called with a line of text at each measurement.

    Returns:
        curve: for each measurement the step, the process's CPU seconds and wall-clock seconds in training (without
        measurements) and all figures of `measure`; final: the last of them.

    Raises:
        ConfigError: data are missing, or settings contradict each other.
        NotFiniteError: the trial has diverged.
    """
    config = trial.run
    if trial.stretch != 1:
        steps = round(trial.stretch * config.train.steps)
        config = replace(config, train=replace(config.train, steps=steps))
    if config.dictionary.whole_pool:
        config = replace(config, dictionary=replace(config.dictionary, size=config.pool.size))
    if trial.corpus.name == "shards":
        labels, probe = trial.corpus.labels.split(","), trial.corpus.probe.split()
        return run_in_subprocesses(config, shards=data / trial.corpus.shards, labels=labels, probe=probe, keep=keep)
    require(keep is None, "only trials on shards (corpus.name=shards) have a run folder that could be kept")
    torch.set_num_threads(config.train.threads or 1)
    corpus = make_corpus(trial.corpus, data=data, seed=config.seed)
    world = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
    model = build_small_model(config.model, corpus.train, seed=config.seed)
    learner = Learner(model=model, config=config, world=world, total_steps=config.train.steps)
    size = config.train.batch_size
    curve: list[dict[str, Any]] = []
    cpu = wall = 0.0
    filled = -1
    for step, (epoch, batch) in enumerate(corpus.train.epochs(size=size, seed=config.seed)):
        started_cpu, started = time.process_time(), time.perf_counter()
        if epoch > filled and config.draws_pool(epoch):
            ids = pool_ids(config, torch.arange(len(corpus.train)).numpy(), epoch, world)
            learner.fill(corpus.train.batches(ids, size), epoch=epoch)
        filled = epoch
        metrics = learner.step(batch, step)
        cpu, wall = cpu + time.process_time() - started_cpu, wall + time.perf_counter() - started
        done = step + 1
        if done % trial.measure_every == 0 or done == config.train.steps:
            figures = measure(learner, corpus, batch_size=size)
            loss = float(metrics["loss"])
            curve.append({"step": done, "cpu_seconds": cpu, "wall_seconds": wall, "loss": loss, **figures})
            require_finite_figures(curve[-1], f"the figures of step {done}")
            say(f"step {done}: loss {loss:.3f}, probe {figures['probe']:.3f}, R@1 {figures['retrieval']:.3f}")
        if done == config.train.steps:
            return {"curve": curve, "final": curve[-1]}
    raise AssertionError("the epochs never end")
