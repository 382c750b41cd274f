"""A run small enough for a test: tiny encoders on random clips."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from model.encoder import build_model
from pipeline.batch import Batch
from settings import Config, load_config
from training.distributed import World
from training.step import Learner

OVERRIDES = [
    "model.video=tiny",
    "model.audio=tiny",
    "model.dim=16",
    "model.momentum=0.9",
    "clip.frames=4",
    "clip.size=32",
    "audio.n_mels=16",
    "dictionary.size=24",
    "pool.size=64",
    "train.batch_size=8",
    "optim.warmup_steps=2",
    "optim.lr=0.01",
    "sampler.name=kmeanspp_sequential",
]


def small_config(*overrides: str) -> Config:
    return load_config(Config, overrides=[*OVERRIDES, *overrides])


def alone() -> World:
    return World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))


def random_batch(config: Config, step: int, rows: slice = slice(None)) -> Batch:
    """Returns the global batch of a step, or some of its rows; step -n is the n-th batch that fills the pool."""
    generator = torch.Generator().manual_seed(1000 + step)
    size, clip = config.train.batch_size, config.clip
    # Coarse patterns, because clips of noise all look the same to a network, and BatchNorm would amplify its rounding.
    video = torch.randn(size, 3, 2, 4, 4, generator=generator)
    video = F.interpolate(video, size=(clip.frames, clip.size, clip.size))
    audio = F.interpolate(torch.randn(size, 1, 4, 5, generator=generator), size=(config.audio.n_mels, 40))
    ids = (torch.arange(size) + (step % 16) * size) // clip.per_sample
    return Batch(video[rows], audio[rows], ids[rows], torch.zeros(size, dtype=torch.float64)[rows])


def new_learner(config: Config, world: World | None = None, total_steps: int = 20) -> Learner:
    model = build_model(config.model, audio=config.audio, seed=config.seed)
    return Learner(model=model, config=config, world=world or alone(), total_steps=total_steps)
