"""BatchNorm's running statistics on several processes that each normalise by their own clips."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.training.distributed import processes
from tests.training.distributed.test_distributed import share
from tests.training.small_run import new_learner, random_batch, small_config
from training.distributed import World, from_main


def statistics_of_runs(rank, size, batchnorm):
    """Statistics after the pool was filled, after 4 steps, and after 2 steps, resuming from rank 0, and 2 more."""
    config = small_config(f"train.batchnorm={batchnorm}")
    world, rows = World(rank, size, rank, size, torch.device("cpu")), share(config, rank, size)
    learner, found = new_learner(config, world), {}

    def steps(of, first, last):
        for step in range(first, last):
            of.step(random_batch(config, step, rows), step)

    learner.fill((random_batch(config, -n, rows) for n in range(1, 7)), epoch=0)
    found["filled"] = copy.deepcopy(learner.model.state_dict())
    steps(learner, 0, 2)
    resumed = new_learner(config, world)
    resumed.load_state_dict(from_main(copy.deepcopy(learner.state_dict())))
    for name, of in (("uninterrupted", learner), ("resumed", resumed)):
        steps(of, 2, 4)
        found[name] = copy.deepcopy(of.model.state_dict())
    return found


@pytest.mark.parametrize("batchnorm", ["local", "shuffle"])
def test_they_are_equal_on_all_ranks_and_the_same_after_resuming(tmp_path, batchnorm):
    one, other = processes.run(statistics_of_runs, 2, tmp_path, batchnorm)
    for moment in one:
        different = [name for name, value in one[moment].items() if not torch.equal(value, other[moment][name])]
        assert not different, moment
    for rank in (one, other):
        assert all(torch.equal(value, rank["resumed"][name]) for name, value in rank["uninterrupted"].items())


def statistics_of_a_step(rank, size):
    config = small_config("train.batchnorm=local")
    learner = new_learner(config, World(rank, size, rank, size, torch.device("cpu")))
    before = copy.deepcopy(learner.model)
    learner.step(random_batch(config, 0, share(config, rank, size)), 0)
    expected = []
    for part in range(size):
        encoder = copy.deepcopy(before.query["video"])
        encoder(random_batch(config, 0, share(config, part, size)).video)
        expected.append(encoder.backbone.stem[1].running_mean)
    return expected, learner.model.query["video"].backbone.stem[1].running_mean


def test_they_are_the_mean_over_the_shares_of_all_ranks(tmp_path):
    for shares, found in processes.run(statistics_of_a_step, 2, tmp_path):
        assert not torch.allclose(*shares, rtol=1e-3)
        torch.testing.assert_close(found, sum(shares) / len(shares))
