"""Several processes train what one process trains on the same global batch."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from tests.training.distributed import processes
from tests.training.small_run import alone, new_learner, random_batch, small_config
from training.distributed import World, any_rank, from_main, gather_rows, mean_over_ranks, start
from training.sync_batchnorm import synchronise_batchnorm

# Only a few, because random clips make training chaotic: in three more steps, rounding errors grow a thousandfold.
STEPS = 4


def share(config, rank, size):
    rows = config.train.batch_size // size
    return slice(rank * rows, (rank + 1) * rows)


def train_some_steps(rank, size, overrides):
    # Adam divides by gradients that are almost zero, and BatchNorm over few values by deviations that are almost zero.
    # Both would amplify rounding errors until they look like a bug.
    config = small_config(
        "optim.name=sgd", "optim.lr=0.001", "loss.temperature=0.5", "train.batch_size=16", "clip.frames=8", *overrides
    )
    world = alone() if size == 1 else World(rank, size, rank, size, torch.device("cpu"))
    learner, rows = new_learner(config, world, total_steps=STEPS), share(config, rank, size)
    learner.fill((random_batch(config, -n, rows) for n in range(1, 7)), epoch=0)
    losses = []
    for step in range(STEPS):
        metrics = learner.step(random_batch(config, step, rows), step)
        losses.append(mean_over_ranks(metrics)["loss"])
    return {
        "losses": losses,
        "weights": learner.model.state_dict(),
        "dictionary": {modality: active.ids.clone() for modality, active in learner.active.items()},
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampler.name=fifo"],
        ["sampler.name=kmeanspp_sequential"],
        ["sampler.name=fifo", "clip.per_sample=4"],
        ["dictionary.whole_pool=true", "loss.outrank_power=1", "loss.false_negatives=agreement"],
        ["sampler.name=fifo", "train.super_batch=2"],
    ],
)
def test_two_processes_train_the_same_model_as_one(tmp_path, overrides):
    # The run on one process is in a separate process too, because this one may use more threads and round differently.
    (one,) = processes.run(train_some_steps, 1, tmp_path, overrides)
    two = processes.run(train_some_steps, 2, tmp_path, overrides)
    torch.testing.assert_close(two[0]["losses"], one["losses"], rtol=1e-5, atol=1e-5)
    for result in two:
        for modality in ("video", "audio"):
            assert torch.equal(result["dictionary"][modality], one["dictionary"][modality])
        for name, value in one["weights"].items():
            torch.testing.assert_close(result["weights"][name], value, rtol=1e-4, atol=1e-4, msg=name)
    for name, value in two[0]["weights"].items():
        assert torch.equal(value, two[1]["weights"][name]), name


def batchnorm_on_a_share(rank, size):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    inputs, target = torch.randn(8, 3, 6, 6), torch.randn(8, 5)
    network(inputs[:1].expand(2, -1, -1, -1))
    if size > 1:
        synchronise_batchnorm(network, torch.device("cpu"))
    rows = slice(rank * 8 // size, (rank + 1) * 8 // size)
    ((network(inputs[rows]) - target[rows]) ** 2).mean().backward()
    gradients = [p.grad for p in network.parameters()]
    if size > 1:
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
            gradient /= size
    return {"gradients": gradients, "buffers": dict(network.named_buffers())}


def test_synchronised_batchnorm_equals_batchnorm_on_the_global_batch(tmp_path):
    complete = batchnorm_on_a_share(0, 1)
    for part in processes.run(batchnorm_on_a_share, 2, tmp_path):
        for ours, theirs in zip(part["gradients"], complete["gradients"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        for name, value in complete["buffers"].items():
            torch.testing.assert_close(part["buffers"][name], value, rtol=1e-5, atol=1e-6, msg=name)


def results_of_collectives(rank, size):
    ids = torch.tensor([2**40 + rank, -1])
    rows, every_id = gather_rows([torch.full((2, 3), float(rank)), torch.arange(2.0)[:, None] + rank], ids)
    return {
        "rows": rows,
        "ids": every_id,
        "from_main": from_main(f"rank {rank}"),
        "any": (any_rank(rank == 1), any_rank(False)),
        "mean": mean_over_ranks({"a": float(rank), "b": 1.0}),
    }


def test_a_gather_keeps_rank_order_and_every_bit_of_the_ids(tmp_path):
    for result in processes.run(results_of_collectives, 2, tmp_path):
        assert result["ids"].tolist() == [2**40, -1, 2**40 + 1, -1]
        assert result["rows"][0][:, 0].tolist() == [0, 0, 1, 1]
        assert result["rows"][1][:, 0].tolist() == [0, 1, 1, 2]
        assert result["from_main"] == "rank 0"
        assert result["any"] == (True, False)
        assert result["mean"] == {"a": 0.5, "b": 1.0}


def weights_after_a_step(rank, size, overrides):
    config = small_config("optim.name=sgd", "train.batch_size=12", *overrides)
    learner = new_learner(config, World(rank, size, rank, size, torch.device("cpu")))
    learner.fill((random_batch(config, -n, share(config, rank, size)) for n in range(1, 4)), epoch=0)
    learner.step(random_batch(config, 0, share(config, rank, size)), 0)
    return learner.model.query.state_dict()


def test_gradients_are_averaged_if_a_share_does_not_divide_into_the_parts(tmp_path):
    # Four parts are asked for, but of 6 clips per process, parts of ceil(6 / 4) = 2 clips are only three.
    one, other = processes.run(weights_after_a_step, 2, tmp_path, ["train.accumulate=4"])
    assert all(torch.equal(one[name], other[name]) for name in one)


def clips_that_matter(rank, size, batchnorm):
    """Returns which clips change the query and which the key of this rank's first clip, as positions in the batch."""
    config = small_config(f"train.batchnorm={batchnorm}", "train.batch_size=16")
    learner = new_learner(config, World(rank, size, rank, size, torch.device("cpu")))
    learner.model.train()

    def outputs(changed):
        batch = random_batch(config, 0)
        if changed is not None:
            batch.video[changed] += 1.0
        batch = type(batch)(*(column[share(config, rank, size)] for column in batch[:4]))
        with torch.no_grad():
            query = learner.model.query["video"](batch.video).embedding[0]
        return query, learner._keys(batch, step=3)["video"][0]

    query, key = outputs(None)
    changes = [outputs(n) for n in range(config.train.batch_size)]
    of_query = {n for n, (q, _) in enumerate(changes) if not torch.allclose(q, query)}
    of_key = {n for n, (_, k) in enumerate(changes) if not torch.allclose(k, key)}
    return of_query, of_key


def test_shuffling_normalises_keys_with_other_clips_than_their_queries(tmp_path):
    for name, folder in (("local", tmp_path / "a"), ("shuffle", tmp_path / "b")):
        folder.mkdir()
        for rank, (of_query, of_key) in enumerate(processes.run(clips_that_matter, 2, folder, name)):
            own_share = set(range(8 * rank, 8 * rank + 8))
            assert of_query == own_share
            if name == "local":
                # This is the leak: a query and its key are normalised with the same clips.
                assert of_key == own_share
            else:
                assert len(of_key) in (8, 9)
                assert len(of_key & own_share) < 8


def test_a_loader_thread_cannot_hold_the_interpreter_for_milliseconds():
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        start("cpu", torch.get_num_threads())
        assert sys.getswitchinterval() < 0.001
    finally:
        sys.setswitchinterval(before)
