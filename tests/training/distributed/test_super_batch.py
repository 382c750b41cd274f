"""Which clips of a super-batch are trained on, and what becomes of the others."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from settings.errors import ConfigError
from tests.training.small_run import new_learner, random_batch, small_config
from training.pool import choose_spread


def filled(config):
    learner = new_learner(config)
    learner.fill((random_batch(config, -n) for n in range(1, 5)), epoch=0)
    return learner


def test_the_choice_is_uniform_first_and_then_in_proportion_to_the_squared_distance():
    keys = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    picks = torch.stack([choose_spread(keys, block=2, seed=0, step=step) for step in range(4000)])
    assert ((picks[:, 0] < 2) & (picks[:, 1] >= 2)).all()
    assert float((picks[:, 0] == 1).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((picks[:, 1] == 3).float().mean()) == pytest.approx(0.8, abs=0.03)


def test_the_chosen_clips_cover_the_others_better_and_hold_more_rare_contents():
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(40, 32, generator=generator), dim=1)
    contents = torch.multinomial(torch.tensor([0.8] + [0.2 / 39] * 39), 400, replacement=True, generator=generator)
    noise = F.normalize(torch.randn(400, 32, generator=generator), dim=1)
    keys = F.normalize(centres[contents] + 0.3 * noise, dim=1)
    rows, rare = choose_spread(keys, block=4, seed=1, step=0), (contents != 0).float()
    assert float(rare[rows].mean()) > 1.5 * float(rare.mean())
    spread, regular = (torch.cdist(keys, keys[r]).amin(1).square().sum() for r in (rows, torch.arange(0, 400, 4)))
    assert float(spread) < 0.7 * float(regular)


@pytest.mark.parametrize("keys", [torch.zeros(6, 3), torch.full((6, 3), torch.nan)])
def test_degenerate_keys_give_one_clip_of_each_block(keys):
    rows = choose_spread(keys, block=3, seed=0, step=0)
    assert rows.div(3, rounding_mode="floor").tolist() == [0, 1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_trains_on_the_chosen_clips_and_the_pool_gets_all_keys(accumulate):
    config = small_config("train.super_batch=2", "loss.outrank_power=1", f"train.accumulate={accumulate}")
    learner, batch = filled(config), random_batch(config, 0)
    sizes, original = [], learner._encode_queries
    learner._encode_queries = lambda video, audio: sizes.append(len(video)) or original(video, audio)
    keys = learner._keys(batch, step=0)
    learner.step(batch, 0)
    assert sizes == ([4] if accumulate == 1 else [2] * 4)
    for modality, active in learner.active.items():
        rows = [active.pool.ids.tolist().index(clip) for clip in batch.ids.tolist()]
        torch.testing.assert_close(active.pool.keys[rows], keys[modality])
        assert not torch.isin(active.ids, batch.ids).any()


def test_blocks_that_do_not_fit_the_batch_or_the_processes_are_refused():
    with pytest.raises(
        ConfigError, match=r"train\.super_batch must be at least 1 and divide train\.batch_size=8, not 3"
    ):
        small_config("train.super_batch=3")
    learner = filled(small_config("train.super_batch=4"))
    with pytest.raises(ConfigError, match=r"train\.super_batch=4 must divide .* which is 2 clips on 1 process"):
        learner.step(random_batch(learner.config, 0, slice(2)), 0)
