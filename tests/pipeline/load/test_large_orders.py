"""Epochs of more samples than a table of their order holds: each once, on any number of processes, from any step."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.load.clip_loader import ClipLoader
from pipeline.plan.batch_plan import BatchPlan
from pipeline.plan.permutation import TABLE
from settings import Config, from_dict

SAMPLES, SELECTED, BATCH = 90_000, 81_000, 640


class Data(SimpleNamespace):
    """A data set without files."""

    def __len__(self) -> int:
        return SAMPLES


class PlansOnly(ClipLoader[Any]):
    """Yields the ids of the planned clips."""

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[Any]:
        return (batch.plan.ids for batch in plans)


def loader(order: str, *, rank: int = 0, world_size: int = 1, per_sample: int = 1) -> PlansOnly:
    number = np.arange(SAMPLES)
    dataset = Data(
        frames=np.full(SAMPLES, 40, dtype=np.int32),
        width=np.full(SAMPLES, 96, dtype=np.int32),
        height=np.full(SAMPLES, 72, dtype=np.int32),
        audio_samples=np.full(SAMPLES, 64_000),
        shard=(number // 100).astype(np.int32),
        sample_rate=16_000,
        label_columns=["split"],
        labels=lambda column: (number % 10 > 0).astype(np.int32),
        label_names=lambda column: ["test", "train"],
        source=str,
    )
    config = from_dict(
        Config,
        {"data": {"order": order, "split": "train", "window": 1000}, "clip": {"frames": 4, "per_sample": per_sample}},
    )
    return PlansOnly(
        config=config, dataset=dataset, fps=10.0, device="cpu", rank=rank, world_size=world_size, batch_size=BATCH
    )


@pytest.mark.parametrize("order", ["global", "shards"])
def test_each_sample_of_the_split_is_visited_at_most_once_per_epoch(order: str) -> None:
    one = loader(order)
    assert TABLE < SELECTED == len(one.samples)
    seen = np.concatenate(list(one.epoch(0)))
    assert len(seen) == len(one) * BATCH == SELECTED // BATCH * BATCH
    assert len(np.unique(seen)) == len(seen)
    assert (seen % 10 > 0).all()
    assert (next(one.epoch(1)) == seen[:BATCH]).sum() < 5


@pytest.mark.parametrize("order", ["global", "shards"])
def test_a_step_has_the_same_samples_on_any_number_of_processes_and_from_any_start(order: str) -> None:
    one = loader(order)
    whole = list(one.steps(len(one) - 3, len(one) + 3))
    late = list(one.steps(len(one) + 1, len(one) + 3))
    assert all(np.array_equal(a, b) for a, b in zip(whole[4:], late, strict=True))
    for world_size in (2, 5):
        ranks = [loader(order, rank=rank, world_size=world_size) for rank in range(world_size)]
        shares = zip(*(rank.steps(len(one) - 3, len(one) + 3) for rank in ranks), strict=True)
        assert all(np.array_equal(np.concatenate(share), ids) for share, ids in zip(shares, whole, strict=True))


def test_the_clips_of_a_sample_are_next_to_each_other() -> None:
    ids = next(loader("global", per_sample=4).steps(0, 1))
    assert np.array_equal(ids, ids[::4].repeat(4))
    assert len(np.unique(ids)) == BATCH // 4
