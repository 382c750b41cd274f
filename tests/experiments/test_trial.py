from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import trial as trials
from experiments.corpora.pairs import Corpus, Pairs
from experiments.measure import dictionary_figures, measure
from experiments.trial import TrialConfig, run_trial
from settings.errors import ConfigError
from settings.load import load_config

SETTINGS = [
    "run.model.dim=16", "run.model.momentum=0.9", "run.pool.size=128", "run.dictionary.size=32", "run.optim.lr=3e-3",
    "run.optim.warmup_steps=2", "run.train.batch_size=32", "run.train.steps=30", "run.train.channels_last=false",
    "run.train.device=cpu", "measure_every=15",
]  # fmt: skip


def toy_pairs(count: int, *, seed: int) -> Pairs:
    """The class is where a bright bar stands, in the picture and in the sound."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(4, size=count)
    video = rng.integers(0, 60, size=(count, 1, 16, 16)).astype(np.uint8)
    audio = rng.normal(size=(count, 16, 16)).astype(np.float32)
    for row, place in enumerate(classes):
        video[row, :, :, 4 * place : 4 * place + 4] += 150
        audio[row, 4 * place : 4 * place + 4] += 4
    return Pairs(torch.from_numpy(video), torch.from_numpy(audio), torch.from_numpy(classes)[:, None])


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Corpus:
    corpus = Corpus(train=toy_pairs(256, seed=0), probe=toy_pairs(128, seed=1), test=toy_pairs(128, seed=2))
    monkeypatch.setattr(trials, "make_corpus", lambda config, *, data, seed: corpus)
    return corpus


def toy_trial(*overrides: str) -> TrialConfig:
    return load_config(TrialConfig, None, [*SETTINGS, *overrides])


@pytest.mark.parametrize("rule", ["fifo", "hard"])
def test_a_trial_learns_and_gives_figures_that_json_can_hold(toy: Corpus, rule: str):
    found = run_trial(toy_trial(f"run.sampler.name={rule}"), data=Path("."))
    assert [point["step"] for point in found["curve"]] == [15, 30]
    assert found["final"]["probe"] > 0.9
    assert 0 < found["final"]["mass"] < 1
    assert found["final"]["cpu_seconds"] > found["curve"][0]["cpu_seconds"] > 0
    json.dumps(found, allow_nan=False)


def test_equal_settings_give_equal_figures_and_another_seed_others(toy: Corpus):
    def figures(*overrides: str) -> dict[str, float]:
        final = run_trial(toy_trial("run.train.steps=5", *overrides), data=Path("."))["final"]
        return {name: value for name, value in final.items() if "seconds" not in name}

    assert figures() == figures()
    assert figures() != figures("run.seed=1")


def test_a_pool_of_the_epoch_is_filled_anew_and_trains(toy: Corpus):
    found = run_trial(toy_trial("run.pool.source=epoch", "run.sampler.name=uniform"), data=Path("."))
    assert found["final"]["probe"] > 0.9


def test_measuring_changes_nothing_of_the_learner(toy: Corpus, monkeypatch: pytest.MonkeyPatch):
    kept = []

    def check(learner, corpus, *, batch_size):
        before = {name: value.clone() for name, value in learner.model.state_dict().items()}
        figures = measure(learner, corpus, batch_size=batch_size)
        after = learner.model.state_dict()
        kept.append(all(torch.equal(value, after[name]) for name, value in before.items()))
        assert learner.model.training
        return figures

    monkeypatch.setattr(trials, "measure", check)
    run_trial(toy_trial("run.train.steps=2", "measure_every=1"), data=Path("."))
    assert kept == [True, True]


def test_dictionary_figures_count_classes_and_false_negatives(toy: Corpus, monkeypatch: pytest.MonkeyPatch):
    found = {}

    def fill(learner, corpus, *, batch_size):
        same = (corpus.train.classes[:, 0] == 0).nonzero().squeeze(1)
        for active in learner.active.values():
            active.dictionary.evict(active.ids >= 0)
            active.dictionary.enqueue(torch.eye(16)[torch.arange(32) % 16], same[:32])
        found.update(dictionary_figures(learner, corpus.train, batch_size=batch_size))
        return {"probe": 0.0, "retrieval": 0.0}

    monkeypatch.setattr(trials, "measure", fill)
    run_trial(toy_trial("run.train.steps=1"), data=Path("."))
    share = float((toy.train.classes == 0).float().mean())
    assert found["distinct"] == pytest.approx(1 / 32)
    # Less than the class's share: a clip is no negative of itself.
    assert share - 0.05 < found["false_negatives"] < share


def test_data_that_are_not_there_are_an_error_that_names_what_is_missing(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"images_background_small1\.zip"):
        run_trial(toy_trial("corpus.name=omniglot"), data=tmp_path)
    with pytest.raises(ConfigError, match="Spoken Digit"):
        run_trial(toy_trial("corpus.name=av_mnist"), data=tmp_path)


def test_a_trial_needs_numbers():
    with pytest.raises(ConfigError, match=r"a trial needs numbers, but pool.size, train.steps is auto"):
        toy_trial("run.train.steps=auto", "run.pool.size=auto")


def test_settings_that_a_trial_would_ignore_are_refused():
    with pytest.raises(
        ConfigError, match=r"model\.init, init_video and init_audio must be empty on the corpus omniglot"
    ):
        toy_trial("run.model.init_audio=weights.pth")
    with pytest.raises(ConfigError, match=r"corpus\.part must be tuning or test for corpus\.name=tuxpaint"):
        toy_trial("corpus.name=tuxpaint")
    with pytest.raises(ConfigError, match=r"stretch must be positive, and 1 for corpus\.name=shards"):
        toy_trial("corpus.name=shards", "corpus.labels=kind", "stretch=2")


def test_a_stretched_trial_takes_more_steps_and_further_tests_get_a_prefix(
    toy: Corpus, monkeypatch: pytest.MonkeyPatch
):
    more = replace(toy, other_tests={"other": toy.probe})
    monkeypatch.setattr(trials, "make_corpus", lambda config, *, data, seed: more)
    found = run_trial(toy_trial("stretch=1.5", "run.train.steps=10", "measure_every=10"), data=Path("."))
    assert [point["step"] for point in found["curve"]] == [10, 15]
    assert {"other_probe", "other_probe_video", "other_probe_audio", "other_retrieval"} < found["final"].keys()
    # The probe was fitted to these pairs.
    assert found["final"]["other_probe"] >= found["final"]["probe"]
