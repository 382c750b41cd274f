"""Several clips per sample: each has its own positive, and none is a negative of another of the same sample."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from model.loss import batch_retrieval, info_nce
from pipeline.batch import Batch, clip_ids
from sampler.active import all_clips_of
from settings import Config, ConfigError
from settings.load import from_dict
from tests.training.small_run import new_learner, random_batch, small_config
from training.distributed import World
from training.pool import pool_ids

CLIPS = 4
MODALITIES = ("video", "audio")


def filled(config: Config):
    learner = new_learner(config)
    learner.fill((random_batch(config, -n) for n in range(1, 7)), epoch=0)
    return learner


@pytest.fixture(params=["fifo", "uniform", "kmeanspp_sequential"])
def config(request: pytest.FixtureRequest) -> Config:
    return small_config(f"sampler.name={request.param}", f"clip.per_sample={CLIPS}", "train.batch_size=8")


def test_clip_ids_are_distinct_and_lead_to_their_samples():
    samples = torch.tensor([7, 7, 7, 0, 0, 0, 2**40, 2**40, 2**40])
    ids = clip_ids(samples, 3)
    assert ids.tolist() == [21, 22, 23, 0, 1, 2, 3 * 2**40, 3 * 2**40 + 1, 3 * 2**40 + 2]
    assert torch.equal(ids // 3, samples)
    assert torch.equal(clip_ids(samples, 1), samples)
    assert all_clips_of(torch.tensor([22, 2]), 3).tolist() == [21, 22, 23, 0, 1, 2]
    assert all_clips_of(torch.tensor([22, 2]), 1).tolist() == [22, 2]


def few_samples(config: Config, step: int) -> Batch:
    """The batch of a step, with clips of two of eight samples, so that dictionaries hold clips of these samples."""
    batch = random_batch(config, step)
    chosen = torch.randperm(8, generator=torch.Generator().manual_seed(step))[: len(batch.ids) // CLIPS]
    return batch._replace(ids=chosen.repeat_interleave(CLIPS))


def loss_by_hand(query, positive, negatives, samples, held, temperature) -> torch.Tensor:
    """The loss of `info_nce`, over all pairs of a query and a negative of another sample; [B] and [K] are ids."""
    losses = []
    for row, sample in enumerate(samples):
        others = [j for j, i in enumerate(held) if i >= 0 and i // CLIPS != sample]
        keys = torch.stack([positive[row], *(negatives[j] for j in others)])
        losses.append(-torch.log_softmax(keys @ query[row] / temperature, dim=0)[0])
    return torch.stack(losses).mean()


def test_no_clip_is_a_negative_of_another_of_its_sample(config, monkeypatch: pytest.MonkeyPatch):
    """Compares the losses and their gradients with a loop over all pairs of clips."""
    learner = filled(config)
    calls: list[int] = []  # for each loss, how many clips of the batch's samples the dictionary held

    def checked(query, positive, negatives, *, temperature, mask, **variants):
        assert not any(variants.values())
        held = learner.active["audio" if len(calls) % 2 == 0 else "video"]
        assert negatives is held.keys
        samples, ids = batch.ids.tolist(), held.ids.tolist()
        one, other = (query.detach().requires_grad_() for _ in range(2))
        found = info_nce(one, positive, negatives, temperature=temperature, mask=mask)[0]
        expected = loss_by_hand(other, positive, negatives, samples, ids, temperature)
        torch.testing.assert_close(found, expected)
        gradients = (torch.autograd.grad(loss, at)[0] for loss, at in ((found, one), (expected, other)))
        torch.testing.assert_close(*gradients)
        calls.append(sum(i >= 0 and i // CLIPS in samples for i in ids))
        return info_nce(query, positive, negatives, temperature=temperature, mask=mask)

    monkeypatch.setattr("model.objective.info_nce", checked)
    for step in range(12):
        batch = few_samples(config, step)
        learner.step(batch, step)
    assert len(calls) == 24
    assert sum(calls) > 10  # so the mask was needed


def test_clips_of_the_batchs_samples_are_never_selected(config):
    learner = filled(config)
    before = {m: learner.active[m].ids.clone() for m in MODALITIES}
    for step in range(20):
        batch = few_samples(config, step)
        learner.step(batch, step)
        for modality in MODALITIES:
            active = learner.active[modality]
            new = active.ids[~torch.isin(active.ids, before[modality])]
            assert not torch.isin(new // CLIPS, batch.ids).any()
            assert len(active.ids[active.ids >= 0].unique()) == (active.ids >= 0).sum()
            held = active.pool.ids[active.pool.ids >= 0]
            assert len(held.unique()) == len(held)
            before[modality] = active.ids.clone()
    # Pool and dictionary hold several clips of a sample, each with its own key.
    pool = learner.active["video"].pool
    assert len(pool.ids.unique()) > len((pool.ids // CLIPS).unique())
    assert len(F.normalize(pool.keys[pool.ids >= 0]).unique(dim=0)) == (pool.ids >= 0).sum()


def test_one_clip_per_sample_is_the_mask_by_sample_id():
    learner = filled(small_config())
    active, ids = learner.active["video"], random_batch(learner.config, -1).ids
    expected = (active.ids < 0)[None, :] | (active.ids[None, :] == ids[:, None])
    assert torch.equal(active.excluded(ids), expected)
    assert expected.any()


def test_a_resumed_run_continues_bit_for_bit(config):
    whole, part = filled(config), filled(config)
    losses = [float(whole.step(random_batch(config, step), step)["loss"]) for step in range(6)]
    for step in range(3):
        part.step(random_batch(config, step), step)
    resumed = new_learner(config)
    resumed.load_state_dict(part.state_dict())
    assert [float(resumed.step(random_batch(config, step), step)["loss"]) for step in range(3, 6)] == losses[3:]


def test_accumulated_parts_have_the_ids_of_the_complete_batch():
    """Parts of three clips cut through the clips of a sample."""
    config = small_config(f"clip.per_sample={CLIPS}", "train.accumulate=3", "sampler.name=fifo")
    learner = filled(config)
    for step in range(4):
        learner.step(random_batch(config, step), step)
    held = learner.active["video"].pool.ids
    latest = clip_ids(random_batch(config, 3).ids, CLIPS)
    assert torch.isin(latest, held).all()


def test_retrieval_leaves_out_the_other_clips_of_a_sample():
    keys = {m: F.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])) for m in MODALITIES}
    queries = {m: F.normalize(torch.tensor([[1.0, 0.2], [1.0, 0.1], [0.0, 1.0]])) for m in MODALITIES}
    apart = batch_retrieval(queries, keys, torch.tensor([0, 1, 2]))
    together = batch_retrieval(queries, keys, torch.tensor([0, 0, 1]))
    assert [float(value) for value in apart.values()] == pytest.approx([1 / 3, 1 / 3])
    assert [float(value) for value in together.values()] == [1.0, 1.0]


def test_classes_are_those_of_the_samples(config):
    learner = filled(config)
    learner.step(random_batch(config, 0), 0)
    labels = torch.arange(64).numpy() % 7
    active = learner.active["video"]
    found = learner.diagnostics(labels)["video/distinct_classes"]
    assert found == len({int(i) // CLIPS % 7 for i in active.ids.tolist() if i >= 0})


def test_the_pool_is_filled_with_complete_batches_of_distinct_samples():
    config = small_config("clip.per_sample=2", "train.batch_size=8", "pool.size=30", "pool.source=epoch")
    ids = torch.arange(50).numpy()
    shares = [pool_ids(config, ids, 3, World(rank, 2, rank, 2, torch.device("cpu"))) for rank in range(2)]
    alone = pool_ids(config, ids, 3, World(0, 1, 0, 1, torch.device("cpu")))
    assert len(set(alone.tolist())) == len(alone) == 12  # 24 clips: three batches of 8
    joined = torch.tensor([share.tolist() for share in shares]).view(2, 3, 2).transpose(0, 1)
    assert joined.flatten().tolist() == alone.tolist()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"clip": {"per_sample": 3}, "train": {"batch_size": 8}},
            "train.batch_size=8 counts clips, so it must be a multiple of clip.per_sample=3",
        ),
        ({"clip": {"per_sample": 0}}, r"clip.per_sample must be in \[1, 1000\], not 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tree, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, tree)
