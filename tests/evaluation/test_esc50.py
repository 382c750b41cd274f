"""The ESC-50 protocol on a corpus laid out like ESC-50, against scikit-learn, and on real ESC-50 where available."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchaudio
from sklearn.model_selection import PredefinedSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import evaluate
from evaluation import esc50
from evaluation.esc50 import BASELINE, LogMelMoments, esc50_tasks, fit_svm, run_esc50
from evaluation.finetune import FULL, run_finetune
from model import build_model
from pipeline.loader import make_loader
from pipeline.prepare.run import prepare
from pipeline.shards.manifest import Manifest
from settings import AudioConfig, ClipConfig, Config, ConfigError, DataConfig, ModelConfig, PrepareConfig, TrainConfig
from settings.evaluation import EvaluationConfig, FinetuneConfig

CONFIG = Config(clip=ClipConfig(frames=4, fps=8.0, size=32), model=ModelConfig(video="tiny", audio="tiny", dim=16))


def call(run, shards, *arguments):
    common = ["--checkpoint", str(run), "--data", str(shards), "device=cpu", "batch_size=8"]
    assert evaluate.main([*common, *arguments]) == 0
    (path,) = run.glob("evaluation-*.json")
    return json.loads(path.read_text())


def test_every_row_has_an_accuracy_for_each_fold(run, esc_like):
    result = call(run, esc_like, "--protocol", "esc50", "clips=10")
    rows = {row["encoder"]: row for row in result["rows"]}
    assert list(rows) == ["pre-trained", "random-initialised", BASELINE, "chance (majority class)"]
    assert rows[BASELINE]["accuracy"] == pytest.approx(np.mean(rows[BASELINE]["each"]))
    assert len(rows[BASELINE]["each"]) == 5
    assert rows[BASELINE]["accuracy"] > 0.9
    assert rows["chance (majority class)"]["accuracy"] == pytest.approx(1 / 3)


def test_the_fine_tuning_variant_has_the_same_folds(run, esc_like):
    settings = ["clips=2", "finetune.epochs=1", "batch_size=24"]
    result = call(run, esc_like, "--protocol", "esc50_finetune", *settings)
    assert [row["training"] for row in result["rows"]] == ["fine-tuned", "linear"] * 2 + ["majority class"]
    assert all(len(row["each"]) == 5 for row in result["rows"])
    assert "fold 1 to fold 5" in result["caption"]
    assert "1 epoch, the last one; audio" in result["caption"]


def test_fine_tuning_learns_from_random_windows_of_sound(esc_like):
    loader = make_loader(replace(CONFIG, data=DataConfig(path=str(esc_like)), train=TrainConfig(batch_size=8)))
    recipe = FinetuneConfig(epochs=16, lr=1e-3, head_lr=1e-3, dropout=0.0)
    models = {"any": build_model(CONFIG.model, audio=CONFIG.audio, seed=0).eval()}
    tuned, majority = run_finetune(
        models,
        loader,
        esc50_tasks(loader.dataset)[:1],
        EvaluationConfig(clips=4, finetune=recipe),
        modality="audio",
        kinds=(FULL,),
    )
    assert tuned["accuracy"] > majority["accuracy"] + 0.3


def test_the_tested_fold_is_never_trained_on(esc_like):
    data = Manifest.open(esc_like)
    folds = np.array([int(data.source(i)[0]) for i in range(len(data))])
    for number, task in enumerate(esc50_tasks(data), 1):
        assert (task.test == (folds == number)).all()
        assert (task.train == (folds != number)).all()


def test_c_is_chosen_by_leaving_out_whole_folds():
    """The chosen C is the one that scikit-learn's cross-validation with those folds ranks first."""
    rng = np.random.default_rng(0)
    y, groups = rng.integers(0, 5, 160), np.repeat(np.arange(4), 40)
    x = rng.normal(size=(5, 20))[y] + rng.normal(0, 1.8, (160, 20)) + rng.normal(size=(4, 20))[groups]
    scores = []
    for c in esc50.CS:
        svm = make_pipeline(StandardScaler(), SVC(C=c, kernel="linear"))
        scores.append(cross_val_score(svm, x, y, cv=PredefinedSplit(groups)).mean())
    fitted, c = fit_svm(x, y, groups=groups)
    assert c == esc50.CS[int(np.argmax(scores))]
    assert len(set(scores)) > 2
    assert fitted.score(x, y) > max(scores)


def test_the_baseline_is_the_mean_and_deviation_of_all_frames_of_all_windows():
    moments = LogMelMoments()(torch.randn(4, 1, 80, 50)).features
    assert moments.shape == (4, 160)
    windows = torch.randn(3, 1, 80, 50) * 3 + 1
    pooled = LogMelMoments()(windows).features.mean(dim=0, keepdim=True).numpy()
    frames = windows.squeeze(1).permute(1, 0, 2).flatten(1).double()
    expected = torch.cat([frames.mean(dim=1), frames.std(dim=1, correction=0)])
    np.testing.assert_allclose(esc50._mean_and_deviation(pooled)[0], expected, rtol=1e-4, atol=1e-4)


def test_ten_windows_are_spread_over_the_whole_clip(esc_like):
    config = Config(data=DataConfig(path=str(esc_like)), clip=CONFIG.clip, train=TrainConfig(batch_size=10))
    (batch,) = make_loader(config).uniform_clips([0], clips=10)
    assert batch.video is None
    np.testing.assert_allclose(batch.start, np.linspace(0, 1, 10), atol=1e-4)  # Seconds: windows of 0.5 s.
    loudness = batch.audio.mean(dim=(1, 2, 3))
    assert loudness[:2].min() > loudness[-1] + 0.1


def test_data_without_folds_are_refused(ucf_like):
    with pytest.raises(ConfigError, match="no category and no fold: prepare it with --labels"):
        esc50_tasks(Manifest.open(ucf_like.shards))


CATEGORIES = ("dog", "rooster", "rain", "sea_waves", "crying_baby", "clock_tick", "sneezing", "helicopter", "chainsaw")


def test_log_mel_of_a_real_clip_is_close_to_torchaudio_and_the_baseline_classifies(real_data, tmp_path):
    """On nine classes of ESC-50; per mel band, the mean over one clip is compared with torchaudio's."""
    with open(real_data / "esc50" / "meta" / "esc50_ogg.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["category"] in CATEGORIES and row["take"] == "A"]
    (tmp_path / "audio").mkdir()
    for row in rows:
        (tmp_path / "audio" / row["filename"]).symlink_to(real_data / "esc50" / "audio" / row["filename"])
    labels = real_data / "esc50" / "meta" / "esc50_ogg.csv"
    prepare(tmp_path / "audio", tmp_path / "shards", config=PrepareConfig(streams="audio"), labels_path=labels)
    config = Config(
        data=DataConfig(path=str(tmp_path / "shards")),
        audio=AudioConfig(seconds=5.0),
        train=TrainConfig(batch_size=16),
    )
    loader = make_loader(config)
    result = run_esc50({}, loader, esc50_tasks(loader.dataset), EvaluationConfig(clips=1))
    baseline, majority = result
    assert baseline["accuracy"] > 0.6
    assert majority["accuracy"] < 0.25
    (batch,) = loader.uniform_clips([0], clips=1)
    source = real_data / "esc50" / "audio" / loader.dataset.source(0)
    pcm = _decoded(source).clip(-1, 1)
    mel = torchaudio.transforms.MelSpectrogram(16000, n_fft=512, win_length=400, hop_length=160, n_mels=80, f_max=8000)
    decibels = torchaudio.transforms.AmplitudeToDB()(mel(torch.from_numpy(pcm)))
    normalised = (decibels - config.audio.mean_db) / config.audio.std_db
    assert (batch.audio[0, 0].mean(dim=1) - normalised.mean(dim=1)).abs().max() < 0.1


def _decoded(path):
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.concatenate(frames)[:80000].astype(np.float32)
