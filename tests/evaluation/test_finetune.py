"""Fine-tuning: what it trains on, what it leaves alone, what it reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy

import evaluate
from evaluation.finetune import Classifier, _optimizer, classify, fit
from evaluation.statistics import wilson
from model import build_model
from pipeline.loader import make_loader
from settings import AudioConfig, ClipConfig, Config, ConfigError, DataConfig, ModelConfig, TrainConfig
from settings.evaluation import EvaluationConfig, FinetuneConfig

CONFIG = Config(clip=ClipConfig(frames=4, fps=8.0, size=32), model=ModelConfig(video="tiny", audio="tiny", dim=16))
SETTINGS = EvaluationConfig(clips=2, crops=3, batch_size=4, finetune=FinetuneConfig(epochs=1))


def backbone(seed=0) -> nn.Module:
    return build_model(CONFIG.model, audio=AudioConfig(), seed=seed).query["video"].backbone.eval()


@pytest.fixture(scope="module")
def loader(ucf_like):
    config = Config(data=DataConfig(path=str(ucf_like.shards)), clip=CONFIG.clip, train=TrainConfig(batch_size=4))
    return make_loader(config)


@pytest.fixture(scope="module")
def codes(loader):
    return np.asarray(loader.dataset.labels("label"))


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("frozen", [True, False])
def test_only_full_fine_tuning_changes_the_encoder(loader, codes, frozen):
    network = backbone()
    before = weights(network)
    fit(network, loader, np.arange(8), codes, SETTINGS, modality="video", frozen=frozen)
    after = weights(network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if frozen:
        assert not changed
    else:
        assert {"stem.0.weight", "stem.1.running_mean"} <= changed


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.5, 1.0])
def test_both_rates_warm_up_to_their_peaks_and_fall_to_zero(warmup_epochs):
    recipe = FinetuneConfig(epochs=4, warmup_epochs=warmup_epochs, lr=0.01, head_lr=0.1)
    classifier = Classifier(backbone=backbone(), features=256, classes=3, dropout=0.0, frozen=False)
    optimizer, schedule = _optimizer(classifier, recipe, steps_per_epoch=5)
    rates = []
    for _ in range(21):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert len(rates[0]) == 4  # matrices and vectors of the backbone and of the head
    for group, peak in enumerate((0.01, 0.01, 0.1, 0.1)):
        assert max(step[group] for step in rates) == pytest.approx(peak)
    assert rates[20] == pytest.approx([0.0] * 4)


def test_no_clip_of_another_part_is_trained_on(loader, codes, monkeypatch):
    seen = []

    clips = loader.clips

    def spying(ids, **options):
        for batch in clips(ids, **options):
            seen.append(batch.ids)
            yield batch

    monkeypatch.setattr(loader, "clips", spying)
    train = np.array([1, 3, 4, 6, 8, 9, 11, 12])
    settings = EvaluationConfig(batch_size=4, finetune=FinetuneConfig(epochs=2))
    fit(backbone(), loader, train, codes, settings, modality="video", frozen=False)
    epochs = torch.cat(seen).view(2, 8)
    assert [sorted(epoch.tolist()) for epoch in epochs] == [train.tolist()] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_fitting_twice_gives_the_same_classifier_and_leaves_the_callers_random_state(loader, codes):
    first, second = (
        fit(backbone(), loader, np.arange(8), codes, SETTINGS, modality="video", frozen=True) for _ in range(2)
    )
    assert torch.equal(first.head[2].weight, second.head[2].weight)
    torch.manual_seed(5)
    fit(backbone(), loader, np.arange(8), codes, SETTINGS, modality="video", frozen=True)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


def test_a_video_is_the_mean_softmax_of_its_clips_and_crops(loader, codes):
    torch.manual_seed(0)
    network = nn.Sequential(backbone(), nn.Linear(256, 3)).eval()
    ids = np.array([7, 2, 5])
    ((means, right),) = classify({"any": network}, loader, ids, codes, SETTINGS, modality="video").values()
    with torch.no_grad():
        batches = list(loader.uniform_clips(ids, clips=2, crops=3))
        scores = torch.cat([network(batch.video).softmax(dim=1) for batch in batches])
    clip_ids = torch.cat([batch.ids for batch in batches]).numpy()
    for row, sample in enumerate(ids):
        assert (clip_ids == sample).sum() == 6
        np.testing.assert_allclose(means[row], scores[clip_ids == sample].mean(dim=0), atol=1e-5)
    theirs = multiclass_accuracy(scores, torch.from_numpy(codes[clip_ids]).long(), 3, average="micro")
    assert right.mean() == pytest.approx(float(theirs), abs=1e-6)


def call(run, corpus, *arguments):
    common = ["--checkpoint", str(run), "--data", str(corpus.shards), "device=cpu", "batch_size=4", "clips=2"]
    return evaluate.main([*common, f"splits={corpus.lists}", *arguments])


def test_all_three_splits_are_trained_and_tested_beside_scratch_linear_and_majority(run, ucf_like, capsys):
    settings = ["crops=3", "finetune.epochs=12", "finetune.lr=1e-3", "finetune.head_lr=1e-2", "finetune.augment.gray=0"]
    assert call(run, ucf_like, "--protocol", "finetune", *settings) == 0
    result = json.loads((run / "evaluation-finetune-ucf101.json").read_text())
    rows = {(row["encoder"], row["training"]): row for row in result["rows"]}
    assert list(rows) == [
        ("pre-trained", "fine-tuned"),
        ("pre-trained", "linear"),
        ("random-initialised", "fine-tuned"),
        ("random-initialised", "linear"),
        ("chance", "majority class"),
    ]
    tuned = rows["pre-trained", "fine-tuned"]
    each = tuned["each"]
    assert len(each) == 3
    assert tuned["accuracy"] == pytest.approx(np.mean(each))
    assert tuned["accuracy_sd"] == pytest.approx(np.std(each, ddof=1))
    assert tuned["accuracy"] > rows["chance", "majority class"]["accuracy"] + 0.3
    assert {"clip_accuracy", "clip_accuracy_sd"} <= tuned.keys()
    tests = 16  # of the 18 videos, one is missing and one unreadable; each is tested in one of the splits
    assert tuned["accuracy_interval"] == pytest.approx(wilson(tuned["accuracy"], tests))
    assert f"{tests} test samples are few" in result["notes"][0]
    assert sum(row["missing"] for row in result["coverage"]) == 3
    printed = capsys.readouterr().out
    assert "1 unreadable" in printed
    assert "12 epochs, the last one" in result["caption"]


def test_kinetics_linear_and_class_retrieval_use_split_one(run, ucf_like):
    assert call(run, ucf_like, "--protocol", "kinetics_linear", "finetune.epochs=1") == 0
    rows = json.loads((run / "evaluation-kinetics_linear-ucf101.json").read_text())["rows"]
    assert [row["training"] for row in rows] == ["linear", "linear", "majority class"]
    assert "each" not in rows[0]
    assert rows[0]["top5_accuracy"] == rows[-1]["top5_accuracy"] == 1.0
    assert call(run, ucf_like, "--protocol", "retrieval") == 0
    result = json.loads((run / "evaluation-retrieval-ucf101.json").read_text())
    assert {"R@1", "R@5"} <= result["rows"][0].keys()
    assert "R@20: not reported, as k is at least half the number of candidates (11)." in result["notes"][0]
    assert [row["modality"] for row in result["rows"]] == ["video to video"] * 2 + ["random order"]
    assert "official split 1 of ucf101" in result["caption"]


@pytest.mark.parametrize(("protocol", "kind"), [("vggsound", "linear"), ("vggsound_finetune", "fine-tuned")])
def test_vggsound_reports_its_figures_for_each_modality(run, shards, monkeypatch, protocol, kind):
    monkeypatch.setattr("evaluation.statistics.RESAMPLES", 50)
    options = ["--label", "kind", "device=cpu", "batch_size=8", "clips=1", "finetune.epochs=1"]
    arguments = ["--checkpoint", str(run), "--data", str(shards), "--protocol", protocol, *options]
    assert evaluate.main(arguments) == 0
    result = json.loads((run / f"evaluation-{protocol}.json").read_text())
    rows = [(row["encoder"], row["modality"], row["training"]) for row in result["rows"]]
    models = ("pre-trained", "random-initialised")
    expected = [(model, modality, kind) for modality in ("video", "audio") for model in models]
    assert rows == [*expected, ("chance", "majority class", "majority class")]
    figures = {"accuracy", "top5_accuracy", "mAP", "AUC", "d_prime"}
    for row in result["rows"][:-1]:
        assert figures <= row.keys()
        assert all(row[f"{name}_interval"][0] <= row[name] <= row[f"{name}_interval"][1] for name in figures)
    assert result["rows"][-1]["AUC"] == 0.5
    assert "VGGSound 309: do not compare" in result["notes"][0]


def test_a_training_part_smaller_than_a_batch_is_refused(run, ucf_like, capsys):
    assert call(run, ucf_like, "--protocol", "finetune", "batch_size=64") == 2
    assert "batch_size=64 is larger than the training part of 10 samples" in capsys.readouterr().err


def test_label_and_official_lists_exclude_each_other(run, ucf_like, capsys):
    assert call(run, ucf_like, "--protocol", "knn", "--label", "label") == 2
    assert "give --label or splits, not both" in capsys.readouterr().err


def test_concatenated_clips_take_one_crop():
    with pytest.raises(ConfigError, match="pooling=concat keeps the clips of a sample apart"):
        EvaluationConfig(pooling="concat", crops=3)
