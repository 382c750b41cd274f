"""What would spoil a run is said before its first step, with the setting and the value that would do."""

from __future__ import annotations

import pytest

from settings import Config, load_config
from settings.pitfalls import SHORTEST_RUN, find_pitfalls
from settings.recipe import Resources
from settings.schedule import learning_rate
from tests.settings.test_recipe import CONFIGS, missing

SOUND = {
    "train.batch_size": 8, "pool.size": 72, "dictionary.size": 16, "train.steps": 0, "train.epochs": 100,
    "optim.warmup_steps": 20, "sampler.name": "uniform",
}  # fmt: skip


def config_of(**changes) -> Config:
    values = SOUND | {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(Config, None, [f"{key}={value}" for key, value in values.items()])


def found(samples: int = 36, **changes) -> list[tuple[str, bool]]:
    return [(p.message, p.fatal) for p in find_pitfalls(config_of(**changes), Resources(samples))]


def test_sound_settings_are_not_commented():
    assert found() == []


def test_the_quick_start_on_36_clips_is_refused_and_each_fault_named():
    config = load_config(Config, CONFIGS / "quickstart.yaml")
    batch, selection, schedule = find_pitfalls(config, Resources(36))
    assert batch.message == (
        "train.batch_size=32 is more than half of the 36 samples, so that an epoch has a single step and leaves out 4 "
        "of them: set train.batch_size=8"
    )
    assert selection.message == (
        "no negative can be selected, because every sample is always in the dictionary (dictionary.size=256, 36 "
        "samples): set dictionary.size=16 pool.size=72 train.batch_size=8"
    )
    assert schedule.message == (
        "optim.warmup_steps=50 is not shorter than the run, which has 25 steps, so that the learning rate rises until "
        "the end, to 50% of optim.lr: set optim.warmup_steps=2"
    )
    assert [batch.fatal, selection.fatal, schedule.fatal] == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim__warmup_steps": 400}, "optim.warmup_steps=400 is not shorter than the run, which has 400 steps, "
         "so that the learning rate rises until the end, to 100% of optim.lr: set optim.warmup_steps=40"),
        ({"optim__warmup_steps": 398}, "the learning rate ends at 50% of optim.lr instead of near 0, because the run "
         "has 400 steps and optim.warmup_steps=398: set optim.warmup_steps=40"),
        ({"train__steps": 3, "optim__warmup_steps": 0}, "the learning rate ends at 25% of optim.lr instead of near 0, "
         "because the run has 3 steps and optim.warmup_steps=0: give it at least 5 steps with train.steps or "
         "train.epochs, and optim.warmup_steps=0"),
        ({"train__steps": 401}, "train.epochs=100 ends the run after 400 of train.steps=401 steps: set "
         "train.epochs=101"),
        ({"train__batch_size": 18, "dictionary__size": 18}, None),
        ({"train__batch_size": 19, "dictionary__size": 16}, "train.batch_size=19 is more than half of the 36 samples, "
         "so that an epoch has a single step and leaves out 17 of them: set train.batch_size=8"),
        ({"dictionary__size": 32}, "selections will often pick fewer than 8 keys: dictionary.size=32 and "
         "train.batch_size=8 need 40 candidates, and there are 36 (pool.size=72, 36 samples): set dictionary.size=16"),
        ({"dictionary__size": 28}, None),
        ({"dictionary__size": 28, "pool__source": "epoch"}, "selections will often pick fewer than 8 keys: "
         "dictionary.size=28 and train.batch_size=8 need 36 candidates, and there are 32 (pool.size=72, 36 samples): "
         "set dictionary.size=16"),
        ({"dictionary__size": 24, "pool__source": "epoch"}, None),
        ({"sampler__every_n_steps": 4, "dictionary__size": 24, "pool__size": 20}, "selections will often pick fewer "
         "than 24 keys: dictionary.size=24 and train.batch_size=8 need 24 candidates, and there are 20 (pool.size=20, "
         "36 samples): set dictionary.size=8"),
    ],
)  # fmt: skip
def test_a_warning_names_the_setting_and_the_value_that_would_do(changes, message):
    assert found(**changes) == ([] if message is None else [(message, False)])


@pytest.mark.parametrize(
    ("samples", "changes", "message"),
    [
        (36, {"dictionary__size": 44}, "every sample is always in the dictionary (dictionary.size=44, 36 samples): set "
         "dictionary.size=16"),
        (36, {"pool__size": 7}, "pool.size=7 is smaller than train.batch_size=8, so that the pool stays empty: set "
         "pool.size=72"),
        (8, {}, "every sample is always in the batch (train.batch_size=8, 8 samples): set dictionary.size=4 "
         "pool.size=16 train.batch_size=2"),
        (3, {"train__batch_size": 2, "dictionary__size": 5}, "every sample is always in the dictionary "
         "(dictionary.size=5, 3 samples): add samples, or check data.path and data.split"),
    ],
)  # fmt: skip
def test_a_run_that_would_learn_nothing_is_refused(samples, changes, message):
    (fatal,) = (text for text, is_fatal in found(samples, **changes) if is_fatal)
    assert fatal.endswith(message)


def test_the_refused_dictionary_is_the_smallest_that_nothing_can_be_picked_for():
    assert not any(fatal for _, fatal in found(dictionary__size=43))
    assert sum(8 - short for short in missing(config_of(dictionary__size=43), 36, steps=400)[50:]) > 0
    assert sum(8 - short for short in missing(config_of(dictionary__size=44), 36, steps=400)[50:]) == 0


def test_a_data_set_smaller_than_a_batch_is_left_to_the_loader():
    assert found(samples=7) == []


def test_the_shortest_run_ends_near_zero():
    ends = [learning_rate(n - 1, peak=1, warmup=0, total=n) < 0.1 for n in (SHORTEST_RUN - 1, SHORTEST_RUN)]
    assert ends == [False, True]


def test_a_small_pool_of_many_samples_is_fine():
    """A plain queue: the pool holds the last batch, all of which enters the dictionary."""
    assert found(samples=100_000, pool__size=8, dictionary__size=4000, sampler__name="fifo") == []


def test_with_several_clips_per_sample_the_clips_are_counted():
    assert found(18, clip__per_sample=2) == []
    batch, *_ = found(6, clip__per_sample=2, dictionary__size=8, pool__size=24, optim__warmup_steps=5)
    assert batch == (
        "train.batch_size=8 is more than half of the 12 clips of 6 samples, so that an epoch has a single step and "
        "leaves out 2 of them: set train.batch_size=4",
        False,
    )
    _, selection, *_ = found(4, clip__per_sample=2, dictionary__size=8)
    nothing = "no negative can be selected, because every sample is always in the batch "
    assert selection[0].startswith(f"{nothing}(train.batch_size=8, 8 clips of 4 samples)")
    assert selection[1]
