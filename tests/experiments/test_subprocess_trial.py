from __future__ import annotations

from pathlib import Path

import pytest

from experiments.trial import TrialConfig, run_trial
from settings.errors import ConfigError
from settings.load import load_config
from training.checkpoint import load_model

SETTINGS = [
    "corpus.name=shards", "corpus.probe=clips=1 folds=2", "run.clip.frames=2",
    "run.clip.size=32", "run.model.video=tiny",
    "run.model.audio=tiny", "run.model.dim=16", "run.sampler.name=fifo", "run.pool.size=16", "run.dictionary.size=8",
    "run.train.batch_size=8", "run.train.steps=2", "run.train.device=cpu",
    "run.monitor.dictionary_every=2",  # its line is the last of metrics.jsonl
]  # fmt: skip


def test_shards_are_trained_on_and_probed_as_a_user_would(demo_shards: Path, tmp_path: Path):
    trial = load_config(TrialConfig, None, [*SETTINGS, "corpus.labels=kind"])
    final = run_trial(trial, data=demo_shards, keep=tmp_path / "kept")["final"]
    assert load_model(tmp_path / "kept")[0].model == trial.run.model
    assert final["step"] == 2
    assert final["probe"] == final["probe_kind"]
    assert 0 <= final["random_kind"] <= 1
    assert final["cpu_seconds"] > 0


def test_only_a_trial_on_shards_has_a_run_to_keep(tmp_path: Path):
    with pytest.raises(ConfigError, match="only trials on shards"):
        run_trial(load_config(TrialConfig, None, ["run.train.steps=1"]), data=tmp_path, keep=tmp_path)


def test_what_train_py_said_is_in_the_error(tmp_path: Path):
    trial = load_config(TrialConfig, None, [*SETTINGS, "corpus.labels=kind"])
    with pytest.raises(ConfigError, match=r"train\.py ended with status 2"):
        run_trial(trial, data=tmp_path / "nowhere")


def test_labels_belong_to_shards_alone():
    with pytest.raises(ConfigError, match=r"corpus\.labels"):
        load_config(TrialConfig, None, ["run.train.steps=1", "corpus.labels=kind"])
