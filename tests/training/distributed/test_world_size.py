"""Any number of processes, even a changing one, gives the same batches and losses and sees every sample once."""

from __future__ import annotations

import os
import signal

import pytest
import torch

import train
from settings import Config, load_config
from tests.training import same_losses
from tests.training.distributed import processes
from tests.training.small_run import OVERRIDES, alone
from training.checkpoint import find, read
from training.distributed import World
from training.run import Run
from training.step import Learner
from training.tracking.metrics import read_metrics

EPOCH_STEPS, STEPS = 7, 14


def train_until(rank, size, overrides, stop_at):
    """Resumes a run until SIGTERM in step `stop_at`; returns the ids of this rank's share of each step."""
    ids, step, record = {}, Learner.step, Run.record

    def noted_step(self, batch, number):
        ids[number] = batch.ids.tolist()
        return step(self, batch, number)

    def interrupted_record(self, *args, **kwargs):
        if rank == 0 and self.step + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        record(self, *args, **kwargs)

    world = alone() if size == 1 else World(rank, size, rank, size, torch.device("cpu"))
    Learner.step, Run.record = noted_step, interrupted_record
    try:
        finished = train.train(load_config(Config, overrides=overrides), world, resume="auto")
    finally:
        Learner.step, Run.record = step, record
    assert finished == (stop_at == STEPS)
    return ids


def global_batches(shares):
    """Joins each rank's {step: ids} into {step: ids of the global batch}."""
    return {step: [i for share in shares for i in share[step]] for step in shares[0]}


def test_from_two_to_one_to_four_processes_every_sample_is_seen_once(demo_shards, tmp_path):
    # With this small learning rate rounding errors do not grow, so the losses can be compared.
    more = [*OVERRIDES, "optim.lr=1e-5", "train.batch_size=4", f"train.steps={STEPS}", "train.log_every=1"]
    more += ["dictionary.size=8", "pool.size=20", "data.threads=1", "train.threads=1", f"data.path={demo_shards}"]
    undisturbed, changed = ([*more, f"run_dir={tmp_path / name}"] for name in ("undisturbed", "changed"))
    expected = global_batches([train_until(0, 1, undisturbed, STEPS)])

    # Both stops are within an epoch.
    seen = global_batches(processes.run(train_until, 2, tmp_path, changed, 3))
    assert list(seen) == [0, 1, 2]
    seen |= global_batches([train_until(0, 1, changed, 9)])
    seen |= global_batches(processes.run(train_until, 4, tmp_path, changed, STEPS))

    assert seen == expected
    for epoch in range(STEPS // EPOCH_STEPS):
        ids = [i for step in range(EPOCH_STEPS) for i in seen[epoch * EPOCH_STEPS + step]]
        assert len(set(ids)) == len(ids) == 4 * EPOCH_STEPS
    states = [read(find(tmp_path / name)) for name in ("undisturbed", "changed")]
    for modality in ("video", "audio"):
        ids = [state["active"][modality]["dictionary.ids"] for state in states]
        assert torch.equal(*ids)
    runs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("undisturbed", "changed")]
    losses = [[line["loss"] for line in lines] for lines in runs]
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


def test_one_two_and_four_processes_have_the_same_losses_and_bugs_are_detected(tmp_path):
    # `python -m tests.training.same_losses` runs fifty steps.
    steps, intact = 6, [(name, "") for name in same_losses.SAMPLERS]
    broken = [("fifo", what) for what in same_losses.BREAKAGES]
    one = dict(zip(same_losses.SAMPLERS, same_losses.losses_of(0, 1, intact, steps, []), strict=True))
    for size, cases in ((2, intact + broken), (4, intact)):
        results = processes.run(same_losses.losses_of, size, tmp_path, cases, steps, [])
        for (name, what), result in zip(cases, results[0], strict=True):
            difference = same_losses.largest_difference(result, one[name])
            if what:
                assert difference > 10 * same_losses.TOLERANCE, (name, what)
            else:
                assert difference < same_losses.TOLERANCE, (name, size)
                assert torch.equal(result["ids"], one[name]["ids"])
