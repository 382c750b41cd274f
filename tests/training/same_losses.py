"""Trains the same steps on 1, 2 and 4 processes and compares their losses.

    python -m tests.training.same_losses [--steps 50] [key=value ...]

The comparison tests the trainer: averaged gradients, synchronised BatchNorm, and the same negatives on all processes.
The encoders have SiLU in place of ReLU because of rounding in float32: sums over different shares differ by 1e-7 of a
value, and among a million values some are so close to 0 that a ReLU then takes the other branch. One such flip changes
the gradient of its layer by a hundredth, and after ten steps the losses of a correct trainer would differ by as much.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import training.encode
from model.encoder import build_model
from tests.training.distributed import processes
from tests.training.small_run import alone, random_batch, small_config
from training.distributed import World, mean_over_ranks
from training.step import Learner

SAMPLERS = ("fifo", "kmeanspp_faiss")
BREAKAGES = ("gradients", "batchnorm", "negatives")
TOLERANCE = 1e-4
# SGD for one of the samplers because, unlike Adam, it depends on the scale of the gradient.
OPTIMISERS = {
    "fifo": ["optim.name=sgd", "optim.lr=0.0005", "optim.warmup_steps=0"],
    "kmeanspp_faiss": ["optim.name=adamw", "optim.lr=0.001", "optim.warmup_steps=50"],
}


def losses_of(rank: int, size: int, cases: list[tuple[str, str]], steps: int, overrides: list[str]) -> list[dict]:
    """Returns the losses [steps] and the final dictionary's ids for each case (sampler, what is broken)."""
    return [_train(rank, size, sampler, broken, steps, overrides) for sampler, broken in cases]


def _train(rank: int, size: int, sampler: str, broken: str, steps: int, overrides: list[str]) -> dict:
    more = ["train.batch_size=32", "dictionary.size=64", "pool.size=160", *OPTIMISERS[sampler], *overrides]
    if broken == "batchnorm":
        more.append("train.batchnorm=local")
    config = small_config(f"sampler.name={sampler}", *more)
    world = alone() if size == 1 else World(rank, size, rank, size, torch.device("cpu"))
    share = config.train.batch_size // size
    rows = slice(rank * share, (rank + 1) * share)
    wrap, gather = Learner._wrap, training.encode.gather_rows
    try:
        if broken == "gradients":
            Learner._wrap = lambda self, pair: pair
        model = smooth(build_model(config.model, audio=config.audio, seed=config.seed))
        learner = Learner(model=model, config=config, world=world, total_steps=2 * steps)
        learner.fill((random_batch(config, -n, rows) for n in range(1, 6)), epoch=0)
        if broken == "negatives":
            training.encode.gather_rows = lambda columns, ids: ([c.detach().float() for c in columns], ids)
        losses = []
        for step in range(steps):
            metrics = learner.step(random_batch(config, step, rows), step)
            losses.append(mean_over_ranks({"loss": metrics["loss"]})["loss"])
    finally:
        Learner._wrap, training.encode.gather_rows = wrap, gather
    return {"losses": losses, "ids": torch.cat([active.ids for active in learner.active.values()])}


def smooth(module: nn.Module) -> nn.Module:
    """Replaces every ReLU with SiLU."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.SiLU())
        else:
            smooth(child)
    return module


def largest_difference(one: dict, other: dict) -> float:
    """Returns the largest difference of the losses over all steps."""
    return max(abs(a - b) for a, b in zip(one["losses"], other["losses"], strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    intact, broken = [(name, "") for name in SAMPLERS], [(name, what) for name in SAMPLERS for what in BREAKAGES]
    torch.set_num_threads(1)
    one = dict(zip(SAMPLERS, losses_of(0, 1, intact, args.steps, args.overrides), strict=True))
    for name in SAMPLERS:
        losses = one[name]["losses"]
        print(f"{name}, 1 process: first loss {losses[0]:.3f}, last loss {losses[-1]:.3f}")
    failed = False
    for size, cases in ((2, intact + broken), (4, intact)):
        with tempfile.TemporaryDirectory() as folder:
            results = processes.run(losses_of, size, Path(folder), cases, args.steps, args.overrides)[0]
        for (name, what), result in zip(cases, results, strict=True):
            difference = largest_difference(result, one[name])
            same = torch.equal(result["ids"], one[name]["ids"])
            case = f"{name}, {size} processes" + (f", {what} broken" if what else "")
            print(f"{case}: largest difference {difference:.1e}, dictionary {'equal' if same else 'different'}")
            failed |= (difference > TOLERANCE) != bool(what)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
