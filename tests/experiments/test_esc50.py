from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import esc50_speech
from experiments.corpora import av_mnist
from experiments.corpora.esc50 import Sounds, even_windows, make_pairs, read_sounds, spectrum_video
from experiments.esc50_page import esc50_page, speech_status, speech_table
from experiments.esc50_transfer import FILE, RANDOM, RULES, SETTINGS, frozen_features, pretrain
from model import build_model
from settings import AudioConfig, Config, ConfigError, ModelConfig, PoolConfig, TrainConfig
from settings.learning import DictionaryConfig

RATE = 8000
AUDIO = AudioConfig(seconds=0.5, sample_rate=RATE, n_mels=16, f_max=4000.0)


def tone(hertz: float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


@pytest.fixture
def sounds() -> Sounds:
    """Twenty tones of one second, silent after that, in five folds."""
    pcm = np.zeros((20, 5 * RATE), dtype=np.float32)
    for row, hertz in enumerate(np.geomspace(200, 3000, 20)):
        pcm[row, :RATE] = tone(hertz, 1.0)
    return Sounds(pcm=torch.from_numpy(pcm), classes=np.arange(20) % 2, folds=np.arange(20) % 5 + 1)


def test_sounds_are_read_by_name_whatever_their_suffix(tmp_path: Path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta" / "esc50.csv").write_text("filename,fold,target,category\n1-2-A-7.ogg,3,7,cow\n")
    with wave.open(str(tmp_path / "audio" / "1-2-A-7.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((tone(440, 2.0) * 32767).astype("<i2").tobytes())
    read = read_sounds(tmp_path, RATE)
    assert (read.classes.tolist(), read.folds.tolist(), tuple(read.pcm.shape)) == ([7], [3], (1, 5 * RATE))
    assert torch.allclose(read.pcm[0, : 2 * RATE], torch.from_numpy(tone(440, 2.0)), atol=1e-3)
    assert not read.pcm[0, 2 * RATE :].any()


def test_a_folder_without_the_table_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"must hold ESC-50 .*esc50.csv is missing"):
        read_sounds(tmp_path / "nothing", RATE)


def test_the_picture_of_a_higher_tone_has_its_bar_further_right():
    video = spectrum_video(torch.from_numpy(np.stack([tone(300, 0.5), tone(2500, 0.5)])), rate=RATE)
    assert (video.shape, video.dtype) == ((2, 8, 32, 32), torch.uint8)
    highest = video.float().sum((1, 2)).argmax(1)
    assert highest[0] < 10 < 20 < highest[1]


def test_the_picture_does_not_say_how_loud_a_sound_is():
    sound = torch.from_numpy(tone(700, 0.5))[None]
    assert torch.equal(spectrum_video(sound, rate=RATE), spectrum_video(sound / 8, rate=RATE))


def test_windows_are_not_of_the_silence_after_a_sound(sounds: Sounds):
    pairs = make_pairs(sounds, np.arange(4), audio=AUDIO, windows=10, seed=0)
    assert len(pairs) == 40
    assert pairs.classes[:, 0].tolist() == sounds.classes[:4].tolist() * 10
    assert pairs.video.flatten(1).any(1).all()
    loudest = pairs.audio.flatten(1).amax(1)
    assert (loudest > loudest.max() - 1.0).all()


def test_pretraining_changes_the_encoder_and_features_are_of_whole_clips(sounds: Sounds):
    config = Config(
        audio=AUDIO,
        model=ModelConfig(video="tiny", audio="tiny", dim=16),
        pool=PoolConfig(size=32),
        dictionary=DictionaryConfig(size=16),
        train=TrainConfig(steps=2, batch_size=8, device="cpu", precision="fp32"),
    )
    model = build_model(config.model, audio=config.audio, seed=0)
    windows = even_windows(sounds, audio=AUDIO, windows=3)
    before = frozen_features(model, windows)
    pairs = make_pairs(sounds, np.flatnonzero(sounds.folds != 1), audio=AUDIO, windows=6, seed=0)
    assert pretrain(model, config, pairs) > 0
    after = frozen_features(model, windows)
    assert before.shape == after.shape == (20, 256)
    assert np.abs(after - before).max() > 1e-3


def test_the_page_claims_what_five_folds_show_and_says_what_is_missing(tmp_path: Path):
    here = {"cpu": "a cpu", "commit": "abc"}
    lines = [
        {"fold": fold, "rule": rule, "settings": [*SETTINGS, *RULES[rule]], "accuracy": base + fold / 1000, **extra}
        for rule, base in ((RANDOM, 0.3), ("fifo", 0.4))
        for fold, extra in ((fold, {"environment": here}) for fold in range(1, 6))
    ]
    stale = lines[0] | {"settings": ["another"], "accuracy": 0.9}
    (tmp_path / FILE).write_text("\n".join(json.dumps(line) for line in [*lines, stale]))
    page = esc50_page(tmp_path, tmp_path / "docs")
    assert "**is ahead of** the random-initialised encoder by 0.100" in page.details
    assert "15 of 25 trials" in page.method
    for table in (page.summary, page.details):
        assert "0.9" not in table.split("| p |")[1]
    assert "| pre-trained, `fifo` | 0.403 ± 0.002 | 0.100 ± 0.000 |" in page.summary
    assert (tmp_path / "docs" / page.plot).stat().st_size > 5_000


def test_each_speech_encoder_is_asked_beside_its_own_random_weights():
    planned = list(esc50_speech.trials())
    assert {(corpus, trial.seed) for corpus, rule, trial in planned if rule == RANDOM} == {
        (corpus, seed) for corpus in esc50_speech.CORPORA for seed in esc50_speech.SEEDS
    }
    assert {rule for corpus, rule, _ in planned if corpus == "GRID"} == {RANDOM, "fifo", "hard", "kmeanspp gradient"}


def test_the_speech_table_compares_by_seed_and_ignores_other_settings(tmp_path: Path):
    lines = [
        {"corpus": corpus, "rule": rule, "seed": trial.seed, "digest": trial.digest, "folds": [],
         "accuracy": (0.3 if rule == RANDOM else 0.35) + trial.seed / 1000, "environment": {"cpu": "a", "commit": "b"}}
        for corpus, rule, trial in esc50_speech.trials() if rule in (RANDOM, "fifo")
    ]  # fmt: skip
    lines.append(lines[0] | {"digest": "another", "accuracy": 0.9})
    (tmp_path / esc50_speech.FILE).write_text("\n".join(map(json.dumps, lines)))
    table = speech_table(tmp_path)
    assert "| GRID | `fifo` | 5 | 0.352 ± 0.002 | 0.050 ± 0.000 |" in table
    assert "0.9" not in table.split("| p |")[1]
    assert "**Not run yet**" in speech_status(tmp_path)


def test_kept_runs_that_are_not_there_end_in_a_line(tmp_path: Path, monkeypatch, capsys, sounds: Sounds):
    monkeypatch.setattr(esc50_speech, "read_sounds", lambda folder, rate: sounds)
    assert (
        esc50_speech.main(
            ["--data", str(tmp_path), "--runs", str(tmp_path), "--results", str(tmp_path), "--share", "1/40"]
        )
        == 2
    )
    assert "no checkpoint at" in capsys.readouterr().err


def test_other_sounds_are_heard_on_the_scale_of_the_digits(tmp_path: Path):
    folder = tmp_path / "spoken_digits"
    (folder / "recordings").mkdir(parents=True)
    spoken = torch.randn(4, 6000, generator=torch.Generator().manual_seed(0)) * 0.1
    rows = ["file,digit,speaker"]
    for number, wave_ in enumerate(spoken):
        (folder / "recordings" / f"{number}.wav").write_bytes(
            bytes(44) + (wave_ * 32768).numpy().astype("<i2").tobytes()
        )
        rows.append(f"{number}.wav,{number},a")
    (folder / "index.csv").write_text("\n".join(rows))
    heard = av_mnist.to_log_mel(tmp_path, spoken)
    assert (heard.shape, heard.dtype) == ((4, 32, 49), torch.float32)
    assert abs(float(heard.mean())) < 1e-2
    assert abs(float(heard.std()) - 1) < 1e-2
    assert float(av_mnist.to_log_mel(tmp_path, spoken / 10).mean()) < -1
