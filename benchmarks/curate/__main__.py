"""Measures how well search.curate finds pairs that do not belong together, in data that its models were trained on.

    python -m benchmarks.curate --seeds 1 2 3 --json out.json
    python -m benchmarks.curate --run runs/mine --videos VIDEOS --json out.json storage.fps=25

For each seed another demo corpus is made, or VIDEOS are copied; every tenth video gets the sound of another one of
these; and all are prepared and curated, which trains the models of the folds with the settings of the run. The result
is the area under the ROC curve (AUC) of the scores: the chance that a swapped pair scores lower than an unchanged one.
Of the demo corpus it is known what decides a sound, so there the swapped pairs are also divided by that.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

from benchmarks.tools.options import at_least
from common.phases import introduce
from common.terminal import command

STORAGE = ("storage.codec=jpeg", "storage.short_side=80")
"""Settings of the quickstart's shards."""
FEWEST = 200
"""Smallest number of videos: with fewer, the interval may have resamples without a swapped pair."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curate", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="run folder, or a checkpoint file")
    parser.add_argument("--videos", type=Path, help="folder of MP4 files with sound (default: demo corpora)")
    parser.add_argument("--count", type=functools.partial(at_least, FEWEST), default=800, help="videos per demo corpus")
    parser.add_argument("--seeds", type=functools.partial(at_least, 0), nargs="+", default=[1], help="one per trial")
    parser.add_argument("--folds", type=functools.partial(at_least, 2), help="as for search.curate")
    parser.add_argument("--steps", type=functools.partial(at_least, 0), default=0, help="as for search.curate")
    parser.add_argument("--work", type=Path, help="new folder for videos, shards and folds (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help=f"as for pipeline.prepare (default: {' '.join(STORAGE)})"
    )
    return parser.parse_intermixed_args(arguments)


if __name__ == "__main__":
    introduce("benchmarks.curate", "measuring how well search.curate finds swapped sounds", parse)

import os
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.curate.swapped_sounds import swap_sounds
from benchmarks.tools.result import publish
from common.environment import environment
from common.finite import NotFiniteError
from common.randomness import numpy_generator
from evaluation.statistics import bootstrap
from pipeline.demo.corpus import causes, make_demo
from pipeline.prepare.records import PrepareError
from pipeline.prepare.run import prepare
from search.curate.folds import FoldStopped
from search.curate.run import Options, curate
from search.curate.verdicts import Verdicts
from settings import ConfigError, PrepareConfig, load_config
from training.saving.files import CheckpointError, require_some_checkpoint

SHARE = 10
"""One video of this many gets another sound."""


def trial(work: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one corpus, which is made in `work`."""
    videos = work / "videos"
    if options.videos is None:
        make_demo(videos, videos=options.count, seed=seed)
    else:
        videos.mkdir(parents=True)
        for video in options.videos.glob("*.mp4"):
            shutil.copy(video, videos)
    every = sorted(videos.glob("*.mp4"))
    if len(every) < FEWEST:
        raise ConfigError(f"--videos must hold at least {FEWEST} MP4 files, but {options.videos} holds {len(every)}")
    chosen = numpy_generator(seed, 0, "swapped videos").permutation(len(every))[: len(every) // SHARE]
    sound_of = swap_sounds([every[place] for place in sorted(chosen.tolist())], seed=seed)
    prepare(videos, work / "shards", config=load_config(PrepareConfig, None, options.settings or STORAGE))
    before = sum(os.times()[:4])
    found = curate(
        options.run,
        work / "shards",
        work / "curated",
        Options(folds=options.folds, steps=options.steps, against=None, lowest_score=0.0),
    )
    cpu_minutes = (sum(os.times()[:4]) - before) / 60
    record = {"seed": seed, "cpu_minutes": round(cpu_minutes, 2), **figures(found, sound_of)}
    return record | ({} if options.videos else {"auc_by_change": by_change(found, sound_of)})


def figures(found: Verdicts, sound_of: Mapping[str, str]) -> dict[str, Any]:
    """The AUC of the scores with its 95 % interval, and the shares of pairs below the limit of search.curate."""
    swapped = np.array([source in sound_of for source in found.sources])
    scores = found.scores
    below = scores < found.lowest_score

    def auc(drawn: np.ndarray) -> float:
        return float(roc_auc_score(~swapped, scores, sample_weight=drawn))

    return {
        "pairs": len(scores),
        "swapped": int(swapped.sum()),
        "auc": auc(np.ones(len(scores))),
        "auc_interval": bootstrap(auc, len(scores), seed=0, purpose="AUC of swapped pairs"),
        "swapped_below_limit": float(below[swapped].mean()),
        "others_below_limit": float(below[~swapped].mean()),
    }


def by_change(found: Verdicts, sound_of: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Of demo videos: the number and the AUC of the swapped pairs whose sound is of another speed, or another kind."""
    true = [score for source, score in zip(found.sources, found.scores, strict=True) if source not in sound_of]
    wrong: dict[str, list[float]] = {}
    for source, score in zip(found.sources, found.scores, strict=True):
        if source in sound_of:
            own, other = (causes(int(Path(name).stem)) for name in (source, sound_of[source]))
            change = "other speed" if own[1] != other[1] else "other kind" if own[0] != other[0] else "same causes"
            wrong.setdefault(change, []).append(float(score))
    return {
        change: {
            "swapped": len(scores),
            "auc": float(roc_auc_score([1] * len(true) + [0] * len(scores), [*true, *scores])),
        }
        for change, scores in sorted(wrong.items())
    }


@command("benchmarks.curate", *(NotFiniteError, CheckpointError, ConfigError, FoldStopped, PrepareError))
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    require_some_checkpoint(options.run)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        records = [trial(folder / f"{seed}", seed, options) for seed in options.seeds]
    setting = {
        "videos": "demo" if options.videos is None else "folder",
        "folds": options.folds or "default",
        "steps": options.steps or "default",
    }
    mean = float(np.mean([record["auc"] for record in records]))
    versions = environment("nvidia-dali-cuda130", "torch", "numpy")
    publish({"environment": versions, "setting": setting, "mean_auc": mean, "records": records}, options.json)


if __name__ == "__main__":
    sys.exit(main())
