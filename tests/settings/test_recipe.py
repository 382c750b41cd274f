"""Settings that are `auto` become numbers that fit the data, and every selection then finds what it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.plan.order import global_order
from sampler.active import ActiveDictionary
from settings import Config, ConfigError, SamplerConfig, load_config, to_yaml
from settings.pitfalls import find_pitfalls
from settings.recipe import Resources, auto_keys, auto_value, fewest_candidates, fit, value_of

CONFIGS = Path(__file__).parents[2] / "configs"
KEYS = ("train.batch_size", "pool.size", "dictionary.size", "train.steps", "train.epochs", "optim.warmup_steps")
PAPER = (128, 38400, 3840, 93750, 50, 500)


def mine(*overrides: str) -> Config:
    return load_config(Config, CONFIGS / "mine.yaml", overrides)


def chosen(samples: int, device: str = "cpu", processes: int = 1, *overrides: str) -> tuple[int, ...]:
    config, _ = fit(mine(*overrides), Resources(samples, device, processes))
    return tuple(value_of(config, key) for key in KEYS)


@pytest.mark.parametrize("processes", [1, 8])
@pytest.mark.parametrize(
    ("samples", "device", "values"),
    [
        (30, "cpu", (8, 60, 8, 1000, 334, 100)),
        (30, "cuda", (8, 60, 8, 1000, 334, 100)),
        (36, "cpu", (8, 72, 16, 1000, 250, 100)),
        (36, "cuda", (8, 72, 16, 1000, 250, 100)),
        (1000, "cpu", (32, 2000, 480, 1550, 50, 155)),
        (1000, "cuda", (128, 2000, 384, 1000, 143, 100)),
        (30_000, "cuda", (128, 38400, 3840, 11700, 50, 500)),
        (240_000, "cpu", (32, 9600, 960, 375_000, 50, 500)),
        (240_000, "cuda", PAPER),
    ],
)
def test_the_values_follow_from_the_samples_and_the_device(samples, device, processes, values):
    assert chosen(samples, device, processes) == values


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_few_samples_are_enough_for_one_process(device):
    assert chosen(7, device) == (2, 14, 2, 1000, 334, 100)


@pytest.mark.parametrize(("samples", "processes", "least"), [(2, 1, 4), (2, 8, 16), (7, 8, 16), (15, 8, 16)])
def test_too_few_samples_are_refused_with_the_number_that_is_needed(samples, processes, least):
    with pytest.raises(ConfigError, match=rf"auto: {samples} samples are too few for {processes} .* at least {least},"):
        fit(mine(), Resources(samples, "cpu", processes))


@pytest.mark.parametrize("samples", [4, 7, 24, 30, 36, 100, 1000, 30_000, 240_000])
@pytest.mark.parametrize("more", [[], ["pool.source=epoch"], ["sampler.name=fifo"], ["sampler.every_n_steps=4"]])
def test_what_was_chosen_has_no_pitfalls(samples, more):
    for device in ("cpu", "cuda"):
        config, _ = fit(mine(*more), Resources(samples, device))
        assert auto_keys(config) == []
        assert find_pitfalls(config, Resources(samples, device)) == []


def test_six_processes_share_a_batch_evenly():
    assert chosen(240_000, "cuda", 6)[0] == 96


def test_numbers_that_are_given_are_kept_and_the_others_fit_them():
    assert chosen(36, "cpu", 1, "train.batch_size=4") == (4, 72, 16, 1000, 112, 100)
    assert chosen(36, "cpu", 1, "train.epochs=30") == (8, 72, 16, 120, 30, 12)
    assert chosen(36, "cpu", 1, "train.steps=77") == (8, 72, 16, 77, 20, 7)
    assert chosen(36, "cpu", 1, "train.steps=0") == (8, 72, 16, 0, 250, 100)
    assert chosen(36, "cpu", 1, "pool.source=epoch") == (8, 36, 16, 1000, 250, 100)
    assert chosen(240_000, "cuda", 1, "pool.size=1000")[1:3] == (1000, 384)
    assert auto_value(mine("train.batch_size=8", "pool.size=72"), "dictionary.size", Resources(36)) == 16


def test_each_choice_is_given_with_its_reason():
    _, choices = fit(mine("train.steps=77"), Resources(36))
    assert [(choice.key, choice.value) for choice in choices] == [
        ("train.batch_size", 8),
        ("pool.size", 72),
        ("dictionary.size", 16),
        ("train.epochs", 20),
        ("optim.warmup_steps", 7),
    ]
    assert all(choice.reason for choice in choices)


def test_a_stream_pool_is_no_larger_than_the_data_can_fill():
    config, choices = fit(load_config(Config, CONFIGS / "quickstart.yaml"), Resources(36))
    assert config.pool.size == 72
    assert [choice.key for choice in choices] == ["pool.size"]
    config, _ = fit(load_config(Config, None, ["sampler.name=fifo", "pool.source=epoch"]), Resources(36))
    assert config.pool.size == 72


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("quickstart", 640),
        ("grid", 800),
        ("kinetics_sounds", 19_000),
        ("kinetics700_240k", 240_000),
        ("audioset", 240_000),
    ],
)
def test_shipped_configurations_stay_as_they_are(name, samples):
    config = load_config(Config, CONFIGS / f"{name}.yaml")
    assert fit(config, Resources(samples, "cuda", 8)) == (config, [])
    assert find_pitfalls(config, Resources(samples, "cuda", 8)) == []


def test_a_run_that_is_resumed_keeps_the_values_it_started_with():
    saved = {"train.batch_size": 16, "pool.size": 50, "train.epochs": 9, "train.steps": 0, "optim.warmup_steps": 0}
    config, choices = fit(mine(), Resources(5000, "cuda", 8), saved=saved)
    assert tuple(value_of(config, key) for key in KEYS) == (16, 50, 16, 0, 9, 0)
    assert {choice.reason for choice in choices if choice.key in saved} == {"as when this run started"}


@pytest.mark.parametrize(("before", "kept"), [(640, 640), (72, 72), (700, 80)])
def test_a_pool_that_was_given_is_resumed_as_it_was(before, kept):
    given = load_config(Config, CONFIGS / "quickstart.yaml")
    config, _ = fit(given, Resources(40), saved={"pool.size": before})
    assert config.pool.size == kept


@pytest.mark.parametrize("text", ["Auto", "half", "true", "1.5"])
def test_nothing_else_stands_for_a_number(text):
    with pytest.raises(ConfigError, match=r"train.batch_size must be a whole number or auto, not"):
        mine(f"train.batch_size={text}")


def test_auto_is_read_back(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(mine()))
    assert load_config(Config, tmp_path / "config.yaml") == mine()
    assert auto_keys(mine()) == list(KEYS)


def missing(config: Config, samples: int, *, steps: int) -> list[int]:
    """Returns how many keys each selection lacks; the ids move as in a run, and the keys are random."""
    batch, source = config.train.batch_size, config.pool_in_use.source
    active = ActiveDictionary(
        sampler=SamplerConfig(name=config.sampler.name, embedding="feature"),
        pool=config.pool_in_use, dictionary=config.dictionary, dim=2, temperature=0.1,
    )  # fmt: skip
    needed = 2 * config.dictionary.size + batch if source == "stream" else config.pool.size
    count = min(-(-needed // batch), config.pool.size // batch, samples // batch) * batch
    found = []
    for step in range(steps):
        epoch, offset = divmod(step, samples // batch)
        if offset == 0 and config.draws_pool(epoch):
            ids = torch.from_numpy(global_order(samples, seed=0, epoch=epoch, purpose="pool")[:count].copy())
            active.fill(torch.randn(count, 2), ids)
        ids = global_order(samples, seed=0, epoch=epoch)[offset * batch :][:batch]
        ids = torch.from_numpy(ids.copy())
        found.append(active.update(torch.randn(batch, 2), None, batch_ids=ids, step=step)["missing"])
        active.add(torch.randn(batch, 2), ids)
    return found


@pytest.mark.parametrize("more", [[], ["pool.source=epoch"], ["sampler.name=fifo"]], ids=["stream", "epoch", "fifo"])
@pytest.mark.parametrize("samples", [4, 7, 30, 36, 1000])
def test_every_selection_finds_what_it_is_asked_for(samples, more):
    config, _ = fit(mine("sampler.name=uniform", *more), Resources(samples))
    assert max(missing(config, samples, steps=120)) == 0


@pytest.mark.parametrize(
    ("samples", "sizes"), [(36, (8, 36, 16)), (640, (32, 640, 400)), (640, (32, 320, 320)), (36, (8, 36, 30))]
)
def test_the_number_of_candidates_is_foreseen(samples, sizes):
    names = ("train.batch_size", "pool.size", "dictionary.size")
    config = mine("sampler.name=uniform", *(f"{name}={size}" for name, size in zip(names, sizes, strict=True)))
    enough = fewest_candidates(config, Resources(samples)) >= sizes[0] + sizes[2]
    assert (max(missing(config, samples, steps=120)) == 0) == enough


@pytest.mark.parametrize(("device", "batch"), [("cpu", 32), ("cuda", 128)])
def test_several_clips_per_sample_are_counted_as_clips(device, batch):
    sizes = chosen(1000, device, 2, "clip.per_sample=2")
    assert sizes == (batch, *chosen(2000, device, 2)[1:])
    assert chosen(9, device, 1, "clip.per_sample=3")[0] == 3 * chosen(9, device)[0]
    with pytest.raises(ConfigError, match=r"auto: 7 samples are too few for 8 .* at least 16, two batches of 8"):
        fit(mine("clip.per_sample=2"), Resources(7, "cpu", 8))


@pytest.mark.parametrize("samples", [12, 30, 200])
@pytest.mark.parametrize("clips", [2, 3, 40])
def test_chosen_batches_hold_complete_samples_and_have_no_pitfall(samples, clips):
    for processes in (1, 2):
        resources = Resources(samples, "cpu", processes)
        config, _ = fit(mine(f"clip.per_sample={clips}"), resources)
        assert config.train.batch_size % (clips * processes) == 0
        assert not find_pitfalls(config, resources)
