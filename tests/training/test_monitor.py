"""The online monitor: it measures the quality and the collapse of features and does not affect the run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evaluation import monitor as monitor_module
from evaluation.monitor import Monitor, effective_rank, knn_accuracy
from model.encoder import EncoderOutput
from pipeline.batch import Batch
from settings import ConfigError
from tests.training.small_run import new_learner, random_batch, small_config

SAMPLES, CLASSES = 48, 4
ON = ("monitor.every_epochs=1", "monitor.label=kind", "monitor.samples=40", "monitor.neighbours=5")


class LabelledData:
    label_columns = ("kind",)

    def labels(self, column):
        # The last four samples have no label.
        return np.where(np.arange(SAMPLES) < SAMPLES - 4, np.arange(SAMPLES) % CLASSES, -1).astype(np.int32)


class LabelledClips:
    """A loader without files: one pattern per class plus noise per sample."""

    dataset = LabelledData()

    def __init__(self, config):
        self.config = config

    def uniform_clips(self, ids, *, clips):
        assert clips == 1
        for start in range(0, len(ids), 8):
            rows = torch.as_tensor(ids[start : start + 8])
            video, audio = zip(*(self._clip(int(i)) for i in rows), strict=True)
            yield Batch(torch.stack(video), torch.stack(audio), rows, torch.zeros(len(rows), dtype=torch.float64))

    def _clip(self, sample):
        own, common = random_batch(self.config, sample), random_batch(self.config, 900 + sample % CLASSES)
        return common.video[0] + 0.3 * own.video[0], common.audio[0] + 0.3 * own.audio[0]


@pytest.fixture
def new_monitor(monkeypatch):
    seen = []

    def make_loader(config, **kwargs):
        seen.append(config)
        return LabelledClips(config)

    monkeypatch.setattr(monitor_module, "make_loader", make_loader)

    def build(*overrides, **kwargs):
        return Monitor(small_config(*ON, *overrides), device=torch.device("cpu"), **kwargs)

    build.configs = seen
    return build


def train(config, monitor=None):
    learner = new_learner(config)
    learner.fill((random_batch(config, -n) for n in range(1, 7)), epoch=0)
    for step in range(4):
        learner.step(random_batch(config, step), step)
        if monitor is not None:
            monitor.measure(learner.model)
    return learner


def tensors_of(tree, path=""):
    if isinstance(tree, torch.Tensor):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    return {name: value for key, item in items for name, value in tensors_of(item, f"{path}/{key}").items()}


def test_monitoring_does_not_change_any_bit_of_a_run(new_monitor):
    torch.manual_seed(3)
    monitored = train(small_config(), new_monitor())
    random_state = torch.get_rng_state()
    torch.manual_seed(3)
    alone = train(small_config())
    assert torch.equal(random_state, torch.get_rng_state())
    one, other = tensors_of(monitored.state_dict()), tensors_of(alone.state_dict())
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_train_and_eval_modes_are_restored(new_monitor):
    model = new_learner(small_config()).model
    query = model.query
    model.train()
    query["audio"].eval()
    before = [part.training for part in model.modules()]
    new_monitor().measure(model)
    assert [part.training for part in model.modules()] == before


def test_distinct_classes_are_recognised_and_the_metrics_have_their_names(new_monitor):
    numbers = new_monitor().measure(new_learner(small_config()).model)
    assert numbers.keys() == {
        "monitor/knn_video", "monitor/knn_audio", "monitor/majority",
        "monitor/rank_video", "monitor/rank_audio", "monitor/seconds",
    }  # fmt: skip
    assert numbers["monitor/knn_video"] > 0.9
    assert numbers["monitor/knn_audio"] > 0.9
    assert numbers["monitor/majority"] < 0.4


def test_ranks_share_the_samples_and_measure_what_one_process_measures(new_monitor):
    model = new_learner(small_config()).model
    alone = new_monitor().measure(model)
    shares = []
    for rank in range(2):
        new_monitor(rank=rank, world_size=2, gather=lambda share: (shares.append(share), [share])[1]).measure(model)
    ids = [set(share[0].tolist()) for share in shares]
    assert not ids[0] & ids[1]
    assert len(ids[0] | ids[1]) == 40
    together = new_monitor(world_size=2, gather=lambda share: shares).measure(model)
    for name in alone.keys() - {"monitor/seconds"}:
        assert together[name] == pytest.approx(alone[name], rel=1e-4)


def test_unlabelled_samples_are_excluded_and_pairs_are_not_shuffled(new_monitor):
    monitor = new_monitor(
        "monitor.samples=1000", "monitor.data=elsewhere", "data.split=train", "data.shuffle_pairs=true"
    )
    assert monitor._mine.tolist() == list(range(SAMPLES - 4))
    data = new_monitor.configs[0].data
    assert (data.path, data.split, data.shuffle_pairs) == ("elsewhere", "", False)


def test_an_error_names_a_missing_label(new_monitor):
    with pytest.raises(ConfigError, match=r"monitor.label='colour' is not a label column of .*; it has: kind"):
        new_monitor("monitor.label=colour")
    with pytest.raises(ConfigError, match=r"44 samples .* needs more than monitor.neighbours=44"):
        new_monitor("monitor.samples=900", "monitor.neighbours=44")


def test_more_ranks_than_samples_leave_some_without_work(new_monitor):
    shares = []
    model = new_learner(small_config()).model
    for rank in range(7):
        settings = ("monitor.samples=6", "monitor.neighbours=2")
        last = new_monitor(*settings, rank=rank, world_size=7, gather=lambda share: [*shares, share])
        if rank < 6:  # three copies of a share, because the kNN needs more rows than neighbours
            new_monitor(*settings, rank=rank, world_size=7, gather=lambda s: shares.append(s) or [s] * 3).measure(model)
    assert len(last._mine) == 0
    assert last.measure(model)["monitor/rank_video"] > 0


class Collapsed(nn.Module):
    def forward(self, clips):
        same = torch.ones(len(clips), 16) / 4
        return EncoderOutput(same, same, same)


def test_only_rank_0_warns_of_collapse(new_monitor, caplog):
    model = new_learner(small_config()).model
    model.query["video"] = Collapsed()
    numbers = new_monitor("monitor.min_rank=0.1").measure(model)
    assert numbers["monitor/rank_video"] == pytest.approx(1)
    assert "the video embeddings collapse: their effective rank is 1.0 of at most 16" in caplog.text
    assert "the audio embeddings" not in caplog.text
    caplog.clear()
    new_monitor("monitor.min_rank=0.1", rank=1).measure(model)
    assert not caplog.text


class HalfBroken(nn.Module):
    """Gives NaN for every second clip."""

    def forward(self, clips):
        values = torch.ones(len(clips), 16)
        values[1::2] = torch.nan
        return EncoderOutput(values, values, values)


def test_features_that_are_not_finite_give_a_warning_and_no_number(new_monitor, caplog, monkeypatch):
    monkeypatch.setattr(LabelledData, "source", lambda self, i: f"day1/\x1b{i}.mp4", raising=False)
    model = new_learner(small_config()).model
    model.query["video"] = HalfBroken()
    monitor = new_monitor()
    numbers = monitor.measure(model)
    assert numbers.keys() == {"monitor/knn_audio", "monitor/majority", "monitor/rank_audio", "monitor/seconds"}
    assert all(np.isfinite(value) for value in numbers.values())
    first = monitor._mine[1]
    assert f"the video features of 20 of 40 samples are not finite (the first: day1/\\x1b{first}.mp4)" in caplog.text
    assert "collapse" not in caplog.text
    caplog.clear()
    new_monitor(rank=1).measure(model)
    assert not caplog.text


def test_effective_rank_of_known_matrices():
    assert effective_rank(np.eye(7)) == pytest.approx(7)
    assert effective_rank(np.ones((9, 4)) + 1e-6 * np.random.default_rng(0).normal(size=(9, 4))) == pytest.approx(
        1, abs=1e-3
    )
    # Singular values 3 and 1: shares 3/4 and 1/4.
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert effective_rank(np.diag([3.0, 1.0, 0.0])) == pytest.approx(np.exp(entropy))
    assert effective_rank(np.zeros((3, 3))) == 0
    assert np.isnan(effective_rank(np.full((3, 3), float("nan"))))


def test_knn_accuracy_equals_a_count_by_hand():
    features = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    labels = np.arange(30) % 3
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    right = 0
    for i, row in enumerate(rows):
        nearest = sorted((j for j in range(30) if j != i), key=lambda j, row=row: -row @ rows[j])[:5]
        right += np.bincount(labels[nearest], minlength=3).argmax() == labels[i]
    assert knn_accuracy(features, labels, k=5) == pytest.approx(right / 30)
    assert np.isnan(knn_accuracy(np.full_like(features, np.nan), labels, k=5))


def test_a_monitor_without_label_is_refused():
    with pytest.raises(ConfigError, match=r"monitor\.label"):
        small_config("monitor.every_epochs=1")


@pytest.mark.parametrize("key", ["every_epochs", "neighbours", "min_rank"])
def test_negative_settings_of_the_monitor_are_refused(key):
    with pytest.raises(ConfigError, match=f"monitor.{key}"):
        small_config(f"monitor.{key}=-1")
