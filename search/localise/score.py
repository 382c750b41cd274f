"""Measures on the demo corpus, in which the place of what sounds is known, how often heat maps point there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.finite import require_finite
from evaluation.statistics import CHANCE, wilson
from model.encoder import CrossModalModel, build_model
from pipeline.demo.corpus import RECIPE, causes
from pipeline.demo.scene import HEIGHT, WIDTH, shape_positions
from pipeline.load.dali_loader import DaliLoader
from pipeline.plan.clips import ClipPlan
from search.encoders import DIVERGED
from search.localise.heat import Localiser, grid_shape, heat_maps
from search.localise.video import slice_times, whole_frames
from settings import Config, ConfigError

TEST = "test"
"""The split that is measured, if the data set has it."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Maps of n clips and where their shapes are; S maps belong to each clip."""

    centres: np.ndarray
    """float64 [n, S, 2], centre (x, y) of the shape when each map holds, in pixels of the video."""
    radii: np.ndarray
    """float64 [n], in pixels."""

    def hits(self, points: np.ndarray) -> np.ndarray:
        """Share of each clip's points [n, S, 2], in pixels of the video, that lie within the shape's circle; [n]."""
        return (np.linalg.norm(points - self.centres, axis=2) <= self.radii[:, None]).mean(axis=1)

    def covered(self) -> np.ndarray:
        """Share of the frame that the shape's circle covers, [n]: how often a random point hits."""
        y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        distance = np.hypot(x - self.centres[:, :1, 0, None], y - self.centres[:, :1, 1, None])
        return (distance <= self.radii[:, None, None]).mean(axis=(1, 2))


def measure_pointing(shards: Path, demo: Path, config: Config, model: CrossModalModel) -> list[dict[str, Any]]:
    """Rows of a table: how often the hottest place lies on the shape that is heard.

    The middle clip of each test video is taken. `hits` is the share of heat maps whose hottest place lies within the
    circle around the shape. `finds_heard` is how often, of two videos side by side, the hottest place lies in the one
    that is heard, which chance and an eye for whatever moves find in half of the cases.

    Args:
        shards: prepared from `demo`.
        demo: folder that pipeline.demo made.

    Raises:
        ConfigError: the folders do not belong together.
        ManifestError, SampleError: the data cannot be read.
        NotFiniteError: the heat is not finite.
    """
    data = config.data.without_split(path=str(shards), loader="dali", labels="", max_bad_fraction=0.0)
    loader = DaliLoader(config=replace(config, data=data), batch_size=16)
    ids = _measured(loader)
    locate = _locator(demo)
    width, height = int(loader.dataset.width[ids[0]]), int(loader.dataset.height[ids[0]])
    plan = whole_frames(loader.planner.uniform(ids, clips=1), width, height)
    random = build_model(config.model, audio=config.audio, seed=config.seed + 1).eval()
    rows, scenes = [], None
    for name, encoders in (("pre-trained", model), ("random-initialised", random)):
        own, other = _maps(Localiser(encoders, config), loader, plan, grid_shape(width, height), name)
        if scenes is None:
            times = slice_times(torch.from_numpy(plan.start), own.shape[1], config).reshape(len(ids), -1)
            scenes = _scenes([loader.dataset.source(int(i)) for i in ids], times, locate)
        # Clip i + 1 with the sound of clip i stands beside clip i.
        beside = np.roll(other.max(axis=(1, 2, 3)), -1)
        found = _share("finds_heard", own.max(axis=(1, 2, 3)) > beside)
        rows.append({"encoder": name, **_share("hits", scenes.hits(_hottest(own))), **found})
        if name == "pre-trained":
            wrong = {"encoder": "pre-trained, sound of another video", **_share("hits", scenes.hits(_hottest(other)))}
    assert scenes is not None
    centre = np.broadcast_to(np.array([WIDTH, HEIGHT]) / 2, scenes.centres.shape)
    middle = {"encoder": "middle of the frame", **_share("hits", scenes.hits(centre))}
    chance = {"encoder": CHANCE, "hits": float(scenes.covered().mean()), "finds_heard": 0.5}
    return [rows[0], wrong, rows[1], middle, chance]


def _maps(
    localiser: Localiser, loader: DaliLoader, plan: ClipPlan, grid: tuple[int, int], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Heat maps [n, S, rows, columns] of each clip with its own sound, and with that of the clip before."""
    places, sounds = [], []
    for batch in loader.carry_out(plan):
        assert batch.video is not None
        assert batch.audio is not None
        places.append(localiser.projections(batch.video))
        sounds.append(localiser.sounds(batch.audio))
    projections = torch.cat([plain for plain, _ in places]), torch.cat([mirrored for _, mirrored in places])
    own = torch.cat(sounds)
    found = []
    for heard in (own, own.roll(1, dims=0)):
        found.append(heat_maps(projections, heard, rows=grid[0], columns=grid[1]))
        require_finite(found[-1].reshape(len(own), -1), f"the heat maps of the {name} encoder", advice=DIVERGED)
    return found[0], found[1]


def _hottest(maps: np.ndarray) -> np.ndarray:
    """The hottest point of each map [n, S, rows, columns], as (x, y) in pixels of the video; [n, S, 2]."""
    rows, columns = maps.shape[2:]
    top = maps.reshape(*maps.shape[:2], -1).argmax(axis=2)
    return np.stack([(top % columns + 0.5) / columns * WIDTH, (top // columns + 0.5) / rows * HEIGHT], axis=2)


def _share(name: str, hits: np.ndarray) -> dict[str, Any]:
    share = float(np.mean(hits))
    return {name: share, f"{name}_interval": wilson(share, len(hits))}


def _measured(loader: DaliLoader) -> np.ndarray:
    dataset = loader.dataset
    if "split" not in dataset.label_columns or TEST not in dataset.label_names("split"):
        return loader.ids
    return np.flatnonzero(dataset.labels("split") == dataset.label_names("split").index(TEST))


def _locator(demo: Path) -> Callable[[int, np.ndarray], tuple[np.ndarray, float]]:
    """A function of (number of a video, times) that returns the shape's centres and radius, in pixels."""
    try:
        recipe = json.loads((demo / RECIPE).read_text(encoding="utf-8"))
        seed = recipe["seed"]
    except (OSError, ValueError, TypeError, KeyError):
        raise ConfigError(f"--score must be a folder that pipeline.demo made, with {RECIPE}, not {demo}") from None

    def locate(number: int, times: np.ndarray) -> tuple[np.ndarray, float]:
        _, speed, _ = causes(number)
        return shape_positions(speed, (seed, number), times)

    return locate


def _scenes(
    sources: list[str], times: np.ndarray, locate: Callable[[int, np.ndarray], tuple[np.ndarray, float]]
) -> Scenes:
    found: list[tuple[np.ndarray, float]] = []
    for source, when in zip(sources, times, strict=True):
        number = re.fullmatch(r"(\d{5})\.mp4", source)
        if number is None:
            raise ConfigError(f"the shards hold {source}, which is no video of the demo corpus: prepare them from it")
        found.append(locate(int(number[1]), when))
    return Scenes(centres=np.stack([centres for centres, _ in found]), radii=np.array([radius for _, radius in found]))
