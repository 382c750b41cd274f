"""Runs on several data sets with weights: train.py on JPEG and VP9, killed, resumed, and resumed with other data."""

from __future__ import annotations

import random
import re
import sys
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml

import train
from common import phases
from evaluate import _loader_config
from evaluation.notes import pretrained_on
from pipeline.demo.corpus import make_demo
from pipeline.plan.mixture import Mixture, WeightedSet
from pipeline.prepare.run import prepare
from pipeline.preview.__main__ import _data
from portable.card import _parts
from settings import Config, MixedSetConfig, PrepareConfig, load_config
from settings.evaluation import EvaluationConfig
from settings.recipe import Resources, fewest_candidates, fit
from tests.training import kill_and_resume as kills
from tests.training.small_run import OVERRIDES
from training.report.page import page_data
from training.report.panels import panels_of
from training.report.runs import read_runs
from training.tracking.metrics import read_metrics

SMALL = [*OVERRIDES, "train.steps=6", "checkpoint.every_steps=2", "data.threads=1", "train.threads=1"]
SMALL += ["train.log_every=1", "checkpoint.keep=9"]


@pytest.fixture(scope="module")
def mix(demo_shards, tmp_path_factory) -> Path:
    """A configuration with the demo corpus as JPEG and twelve other videos as VP9 at 20 frames/s, with weights."""
    folder = tmp_path_factory.mktemp("mix")
    make_demo(folder / "videos", videos=12, seed=1)
    overrides = ["storage.short_side=64", "storage.codec=vp9", "storage.fps=20", "shard_samples=8"]
    settings = load_config(PrepareConfig, overrides=overrides)
    labels = folder / "videos" / "labels.csv"
    prepare(folder / "videos", folder / "shards", config=settings, labels_path=labels, workers=1)
    (folder / "weights.csv").write_text("source,weight\n" + "".join(f"{i:05d}.mp4,{1 + i % 2}\n" for i in range(12)))
    sets = {
        "demo": {"path": str(demo_shards), "weight": 0.7},
        "mine": {"path": str(folder / "shards"), "weight": 0.3, "weights": str(folder / "weights.csv")},
    }
    (folder / "mix.yaml").write_text(yaml.safe_dump({"data": {"mix": sets}}, sort_keys=False))
    return folder / "mix.yaml"


def run(mix: Path, *arguments: str) -> int:
    """Runs train.py in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", "--config", str(mix), *SMALL, *arguments])
        phases.open_log("train.py")
        try:
            return train.main()
        finally:
            phases.close_log()


@pytest.fixture
def run_main(mix):
    return partial(run, mix)


@pytest.fixture(scope="module")
def whole(mix, tmp_path_factory) -> Path:
    """The folder of an uninterrupted run; `run.log` next to it holds what it has said."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with folder.with_suffix(".log").open("w") as log, redirect_stderr(log):
        assert run(mix, f"run_dir={folder}") == 0
    return folder


def test_a_run_says_and_records_how_its_clips_are_shared(whole: Path):
    log = whole.with_suffix(".log").read_text()
    assert re.search(r"70.0% of the clips from 30 samples, each about 0.98 times per epoch", log)
    assert re.search(r"30.0% of the clips from 12 samples, each about 1.05 times per epoch", log)
    assert re.search(r"by data.mix.mine.weights=.*weights.csv a pass holds 9 of the 12 samples", log)
    assert re.search(r"step 6/6 .* demo (69|71)%  mine (31|29)%", log)
    lines = [line for line in read_metrics(whole / "metrics.jsonl") if "mix/demo/share" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        counts = {name: line[f"mix/{name}/samples"] for name in ("demo", "mine")}
        assert sum(counts.values()) == 8 * line["step"]
        assert abs(counts["demo"] - 0.7 * 8 * line["step"]) <= 1
        assert line["mix/demo/share"] == counts["demo"] / (8 * line["step"])
        assert line["mix/mine/passes"] == counts["mine"] / 12


def test_the_page_of_a_run_shows_its_shares(whole: Path):
    runs = read_runs([whole])
    titles = [panel.title for panel in panels_of(runs)]
    assert {"Share of the samples so far", "Passes through the data sets"} <= set(titles)
    assert not [title for title in titles if title.startswith("mix/")]
    assert page_data(runs)["settings"]["data.mix.demo.weight"] == ["0.7"]
    assert (whole / "report.html").exists()


def test_a_killed_run_ends_with_the_same_bits(whole: Path, mix: Path, tmp_path: Path, run_main):
    killed = tmp_path / "killed"
    process = kills.start(killed, ["--config", str(mix), *SMALL, "train.log_every=1"])
    kills.wait_for_moment(process, killed, random.Random(3), spread=0.0, starting=0.0)
    while process.poll() is None and not kills.saved(killed):
        pass
    kills.kill(process, random.Random(0))
    for path in (killed / "checkpoints").glob("step-00000000[46].*"):  # it may have come far before it was killed
        path.unlink()
    assert run_main(f"run_dir={killed}", "--resume", "auto") == 0
    assert kills.differences(whole, killed) == []


def test_a_run_resumes_only_with_the_same_data(whole: Path, mix: Path, tmp_path: Path, run_main, capsys):
    resumed = [f"run_dir={tmp_path / 'run'}", "--resume", str(whole / "checkpoints" / "step-000000004.pt")]
    other = tmp_path / "other.csv"
    other.write_text((mix.parent / "weights.csv").read_text().replace("00003.mp4,2", "00003.mp4,1"))
    sets = yaml.safe_load(mix.read_text())["data"]["mix"]
    swapped = {name: sets[name] for name in ("mine", "demo")}
    (tmp_path / "swapped.yaml").write_text(yaml.safe_dump({"data": {"mix": swapped}}, sort_keys=False))
    for arguments, message in (
        ([f"data.mix.mine.weights={other}"], r"with other weights of the samples: the setting data.mix.\*.weights has"),
        (["data.mix.mine.weights=''"], r"data.mix.\*.weights has changed, which now is empty"),
        (["data.mix.mine.weight=0.5"], r"data.mix.mine.weight: 0.3 in the checkpoint, 0.5 now"),
        (["data.mix.demo.split=train"], r"data.mix.demo.split: '' in the checkpoint, 'train' now"),
        (["--config", str(tmp_path / "swapped.yaml")], r"set data.mix to the same shards in the same order"),
    ):
        assert run_main(*resumed, *arguments) == 2
        assert re.search(message, capsys.readouterr().err), arguments


def test_a_dry_run_reports_the_shares(run_main, tmp_path: Path, capsys):
    assert run_main("--dry-run", f"run_dir={tmp_path / 'run'}") == 0
    assert re.search(
        r"data +42 samples, 5 steps per epoch, .* in total; \d+.\d% of the clips from demo; ", capsys.readouterr().out
    )


def test_the_values_chosen_for_a_mix_leave_every_selection_enough_candidates():
    config = load_config(Config, overrides=["train.batch_size=auto", "pool.size=auto", "dictionary.size=auto"])
    parts = ((10_000, 0.1), (100, 0.9))
    fitted, _ = fit(config, Resources(10_100, "cpu", parts=parts))
    assert fitted.train.batch_size == 32  # 29 of the 100 samples
    assert fewest_candidates(fitted, Resources(10_100, parts=parts)) < 100 + 0.1 * fitted.pool.size
    assert fitted.dictionary.size < 600
    assert fit(config, Resources(10_100, "cuda", parts=parts))[0].train.batch_size == 64
    even = ((5050, 0.5), (5050, 0.5))
    assert fit(config, Resources(10_100, parts=even))[0] == fit(config, Resources(10_100))[0]


def test_the_foreseen_candidates_are_those_of_a_stream_pool():
    parts, size, batch = ((1000, 0.3), (90, 0.7)), 800, 10
    config = load_config(Config, overrides=[f"pool.size={size}", f"train.batch_size={batch}"])
    foreseen = fewest_candidates(config, Resources(1090, parts=parts))
    sets = [
        WeightedSet(key="a", ids=np.arange(1000), share=0.3),
        WeightedSet(key="b", ids=np.arange(90), first=1000, share=0.7),
    ]
    ids, _ = Mixture(sets, batch=batch, seed=0).samples(np.arange(40_000))
    held = [len(set(ids[first : first + size].tolist())) for first in range(0, 39_000, 97)]
    assert foreseen <= min(held) + 12
    assert min(held) < 1.15 * foreseen


def test_other_commands_read_the_folder_that_they_are_given(mix: Path, demo_shards: Path):
    config = load_config(Config, mix, ["data.mix.demo.split=train"])
    mine = config.data.mix["mine"]
    evaluated, _ = _loader_config(config, str(demo_shards), EvaluationConfig(device="cpu"), trains=False)
    assert list(evaluated.data.sets.items()) == [("data.", MixedSetConfig(str(demo_shards), 1.0))]
    assert pretrained_on(config.data, str(demo_shards)) == []
    (note,) = pretrained_on(config.data, mine.path)
    assert "its split in data.mix is empty" in note
    assert _data(config.data, str(demo_shards)).split == "train"
    assert _data(config.data, mine.path).weights == mine.weights
    assert _data(config.data, "elsewhere").sets == {"data.": MixedSetConfig("elsewhere", 1.0)}
    assert _parts(config.data) == [
        ["of `demo`", "split `train`, weight 0.7"],
        ["of `mine`", "all samples, weighted, weight 0.3"],
    ]
