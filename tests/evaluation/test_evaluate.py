"""evaluate.py end to end on a prepared demo corpus: what it prints, writes and refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from evaluation.features import extract
from evaluation.protocols import PROTOCOLS, TRAINING
from evaluation.report import result_path, run_folder
from model import build_model
from pipeline.batch import Batch
from pipeline.shards.manifest import Manifest
from settings import ClipConfig, Config, DataConfig, ModelConfig, load_config
from settings.evaluation import EvaluationConfig

CONFIG = Config(
    data=DataConfig(path="elsewhere", split="train", shuffle_pairs=True),
    clip=ClipConfig(frames=4, fps=8.0, size=32),
    model=ModelConfig(video="tiny", audio="tiny", dim=16),
)


def call(run, shards, *arguments):
    return evaluate.main(["--checkpoint", str(run), "--data", str(shards), "clips=2", "device=cpu", *arguments])


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_probes_put_random_encoder_and_chance_beside_the_checkpoint(run, shards, capsys, protocol):
    assert call(run, shards, "--protocol", protocol, "--label", "kind,speed") == 0
    printed = capsys.readouterr().out
    for label in ("kind", "speed"):
        result = json.loads((run / f"evaluation-{protocol}-{label}.json").read_text())
        encoders = [(row["encoder"], row["modality"]) for row in result["rows"]]
        assert encoders == [
            ("pre-trained", "video"),
            ("pre-trained", "audio"),
            ("random-initialised", "video"),
            ("random-initialised", "audio"),
            ("chance", "majority class"),
        ]
        assert "24 train and 6 test samples; split: label column split; 2 clips" in result["caption"]
        assert {"accuracy", "accuracy_interval", "standard_error"} <= result["rows"][0].keys()
    assert all(text in printed for text in ("pre-trained", "random-initialised", "chance"))


def test_labels_with_odd_names_have_a_file_and_a_table(run, shards, monkeypatch, capsys):
    odd = "../a/b,c [/red]\x1b[2J\n"
    monkeypatch.setattr(
        Manifest, "label_columns", property(lambda self: [odd], lambda self, value: None), raising=False
    )
    monkeypatch.setattr(Manifest, "_column", lambda self, column: 0)
    assert call(run, shards, "--protocol", "knn", "--label", odd) == 0
    assert r"knn on ../a/b,c [/red]\x1b[2J\n" in capsys.readouterr().out
    (path,) = run.iterdir()
    assert path == result_path(run, f"knn-{odd}")
    assert json.loads(path.read_text())["title"] == f"knn on {odd}"


def test_a_result_is_printed_even_if_its_folder_cannot_be_written(run, shards, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(30, "Read-only file system", "runs/a")

    monkeypatch.setattr(evaluate, "write_json", refuse)
    assert call(run, shards, "--protocol", "retrieval") == 2
    printed = capsys.readouterr()
    assert "pre-trained" in printed.out
    assert "evaluate.py: cannot read or write runs/a: Read-only file system" in printed.err


def test_retrieval_reports_both_directions(run, shards):
    assert call(run, shards, "--protocol", "retrieval") == 0
    rows = json.loads((run / "evaluation-retrieval.json").read_text())["rows"]
    assert [row["modality"] for row in rows] == ["video to audio", "audio to video"] * 2 + ["random order"]
    assert rows[-1]["median_rank"] == 3.5


def test_retrieval_of_a_label_looks_among_the_training_samples_of_each_modality(run, shards):
    assert call(run, shards, "--protocol", "retrieval", "--label", "kind") == 0
    rows = json.loads((run / "evaluation-retrieval-kind.json").read_text())["rows"]
    assert [row["modality"] for row in rows] == ["video to video", "audio to audio"] * 2 + ["random order"]
    assert [key for key in rows[-1] if key.startswith("R@")] == ["R@1", "R@5"]  # of 24 candidates, 20 are too many


def test_few_test_samples_are_said_to_be_few(run, shards, capsys):
    assert call(run, shards, "--protocol", "retrieval") == 0
    result = json.loads((run / "evaluation-retrieval.json").read_text())
    omitted, few, *verdicts = result["notes"]
    assert omitted == "R@5 and R@10: not reported, as k is at least half the number of candidates (6)."
    assert few.startswith("6 test samples are few: a single one changes an accuracy or R@k by 0.167, and the 95 %")
    assert any("pre-trained is above random-initialised (" in verdict for verdict in verdicts)
    printed = capsys.readouterr()
    assert all(note in printed.out for note in result["notes"])
    low, high = result["rows"][0]["R@1_interval"]
    assert f"{result['rows'][0]['R@1']:.3f} [{low:.3f}, {high:.3f}]" in printed.out
    assert "standard error" not in printed.out
    assert "1/1 batches of test clips" in printed.err


def test_all_samples_are_searched_where_nothing_is_fitted(run, shards, capsys):
    assert call(run, shards, "--protocol", "retrieval", "split=all") == 0
    result = json.loads((run / "evaluation-retrieval.json").read_text())
    assert "30 test samples; split: all samples (split=all)" in result["caption"]
    assert result["rows"][-1]["R@10"] == pytest.approx(1 / 3)
    assert call(run, shards, "--protocol", "retrieval", "split=all", "--label", "kind") == 2
    assert "split=all is only for --protocol retrieval without --label" in capsys.readouterr().err


def test_a_checkpoint_that_was_trained_on_the_test_samples_says_so(run, shards, monkeypatch):
    model = evaluate.load_model(run)[1]
    for split, is_said in (("", True), ("train", False)):
        config = replace(CONFIG, data=DataConfig(path=str(shards), split=split))
        monkeypatch.setattr(evaluate, "load_model", lambda path, config=config: (config, model))
        assert call(run, shards, "--protocol", "retrieval") == 0
        notes = json.loads((run / "evaluation-retrieval.json").read_text())["notes"]
        assert any("pre-trained on all samples of this data set" in note for note in notes) == is_said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "linear", "--label", "colour"], "no such label column; it has the label columns kind, speed"),
        (["--protocol", "linear"], "choose what to predict with --label"),
        (["--protocol", "finetune", "--label", "kind,speed"], "finetune trains for one label at a time"),
        (["--protocol", "esc50"], "need the label columns fold and category; the data set has no category and no fold"),
        (["--protocol", "multilabel", "--label", "kind"], "no value of the label column kind holds the separator ';'"),
        (
            ["--protocol", "linear", "--label", "kind", "classes=kinetics_sounds"],
            "of the 31 classes that the setting `classes` lists, 0 have",
        ),
        (["--protocol", "linear", "--label", "kind", "classes=nowhere"], "neither kinetics_sounds nor a readable"),
        (["--protocol", "knn", "--label", "kind", "clipz=2"], "unknown key clipz; did you mean clips"),
        (["--protocol", "knn", "--label", "kind", "clips=0"], "clips must be at least 1, not 0"),
    ],
)
def test_mistakes_are_named_and_end_with_status_two(run, shards, capsys, arguments, message):
    assert call(run, shards, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(run.iterdir())


SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "eval").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_protocol_files_load_and_their_commands_fit(path):
    load_config(EvaluationConfig, path)
    text = path.read_text()
    (protocol,) = set(re.findall(r"--protocol (\w+)", text))
    assert protocol in PROTOCOLS
    assert f"--config configs/eval/{path.name}" in text
    assert "Comparable with" in text


def test_every_protocol_has_a_file():
    shipped = {re.search(r"--protocol (\w+)", path.read_text())[1] for path in SHIPPED}
    assert shipped == PROTOCOLS.keys()


def test_a_file_of_settings_is_read_and_overridden(run, shards, tmp_path):
    (tmp_path / "settings.yaml").write_text("clips: 5\nk: 3\n")
    assert call(run, shards, "--protocol", "knn", "--label", "kind", "--config", str(tmp_path / "settings.yaml")) == 0
    result = json.loads((run / "evaluation-knn-kind.json").read_text())
    assert (result["settings"]["clips"], result["settings"]["k"]) == (2, 3)


def test_a_folder_without_a_checkpoint_is_named(tmp_path, capsys, shards):
    assert call(tmp_path, shards, "--protocol", "retrieval") == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_results_of_a_checkpoint_file_go_into_its_run_folder(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert run_folder(tmp_path / "checkpoints" / "step-000000001.pt") == tmp_path
    assert run_folder(tmp_path / "model.pt") == tmp_path
    assert run_folder(tmp_path) == tmp_path


def test_features_are_means_over_clips_in_the_order_of_ids():
    model = build_model(replace(CONFIG.model), audio=CONFIG.audio, seed=0).eval()
    video, audio = torch.randn(6, 3, 4, 32, 32), torch.randn(6, 1, 80, 51)
    ids = np.array([9, 2])
    start = torch.zeros(3, dtype=torch.float64)
    batches = [
        Batch(video[:3], audio[:3], torch.tensor([9, 9, 9]), start),
        Batch(video[3:], audio[3:], torch.tensor([2, 2, 2]), start),
    ]
    features = extract({"m": model}, batches, ids)["m"]
    with torch.no_grad():
        out = model.query["video"](video)
    for row, clips in ((0, slice(0, 3)), (1, slice(3, 6))):
        np.testing.assert_allclose(features.pooled["video"][row], out.features[clips].mean(dim=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            features.embedding["video"][row], out.embedding[clips].mean(dim=0), rtol=1e-4, atol=1e-5
        )


def test_slots_keep_the_clips_of_a_sample_apart_in_their_order():
    model = build_model(CONFIG.model, audio=CONFIG.audio, seed=0).eval()
    video, audio = torch.randn(4, 3, 4, 32, 32), torch.randn(4, 1, 80, 51)
    batch = Batch(video, audio, torch.tensor([5, 5, 3, 3]), torch.zeros(4, dtype=torch.float64))
    features = extract({"m": model}, [batch], np.array([5, 3]), slots=2)["m"]
    with torch.no_grad():
        out = model.query["video"](video)
    np.testing.assert_allclose(features.pooled["video"], out.features.reshape(2, -1), rtol=1e-4, atol=1e-5)
    means = out.embedding.view(2, 2, -1).mean(dim=1)
    np.testing.assert_allclose(features.embedding["video"], means, rtol=1e-4, atol=1e-5)


def test_a_stream_that_the_data_lack_is_left_out():
    model = build_model(CONFIG.model, audio=CONFIG.audio, seed=0).eval()
    batch = Batch(torch.randn(1, 3, 4, 32, 32), None, torch.tensor([0]), torch.zeros(1, dtype=torch.float64))
    features = extract({"m": model}, [batch], np.array([0]))["m"]
    assert list(features.pooled) == ["video"]


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_the_loader_has_idle_priority_where_a_protocol_trains(run, shards, monkeypatch, protocol):
    class SeenError(Exception):
        pass

    def make_loader(config, **_):
        raise SeenError(config.data.idle_priority)

    monkeypatch.setattr(evaluate, "make_loader", make_loader)
    with pytest.raises(SeenError) as seen:
        call(run, shards, "--protocol", protocol)
    assert seen.value.args == (protocol in TRAINING,)
