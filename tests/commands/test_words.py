"""Every command answers mistakes and --help before it imports torch, and says what it does."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import train
from common import phases
from pipeline.demo.__main__ import main as demo
from pipeline.prepare.__main__ import main as prepare
from pipeline.shards.meta import sealed
from tests.commands.table import COMMANDS, ROOT
from training.report.__main__ import main as report

LIGHT = [name for name in COMMANDS if not name.startswith(("experiments.", "benchmarks."))]
RUN = """
import contextlib, io, json, runpy, sys
answers = []
for module, arguments in json.load(sys.stdin):
    sys.argv, printed = [module, *arguments], io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as error:
            answers.append([error.code, printed.getvalue()])
    loaded = [name for name in ("numpy", "torch", "nvidia.dali", "av", "faiss", "rich") if name in sys.modules]
    answers[-1].append(loaded)
print(json.dumps(answers))
"""


def answers(calls: list[tuple[str, list[str]]]) -> list[tuple[int | None, str, list[str]]]:
    """For each (module, arguments), run as a command, all in one process: status, text, slow modules."""
    line = [sys.executable, "-c", RUN]
    done = subprocess.run(line, input=json.dumps(calls), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [tuple(answer) for answer in json.loads(done.stdout)]


def test_help_needs_nothing_that_is_slow_to_import():
    calls = [(COMMANDS[name][0], ["--help"]) for name in [*LIGHT, *COMMANDS.keys() - set(LIGHT)]]
    for number, ((module, _), (status, text, loaded)) in enumerate(zip(calls, answers(calls), strict=True)):
        assert status == 0, module
        assert text.startswith("usage: "), module
        assert not set(loaded) & ({"torch", "nvidia.dali", "faiss"} if number >= len(LIGHT) else set(loaded)), module


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set without samples and labels."""
    root = tmp_path_factory.mktemp("data")
    text = {"streams": "both", "fingerprint": "f", "version": "a1"}
    lists = {key: [] for key in ("label_columns", "shards", "shard_bytes", "shard_sha256")}
    meta = {"format": 2, "samples": 240_000, "sample_rate": 16000, **text, **lists, "array_sha256": {}, "storage": {}}
    (root / "manifest").mkdir()
    (root / "manifest" / "meta.json").write_text(sealed(meta))
    (root / "checkpoints").mkdir()
    (root / "checkpoints" / "step-000000001.pt").touch()
    (root / "config.yaml").write_text("seed: 3\n")
    (root / "mistake.yaml").write_text("optim: {lrr: 1}\n")
    return root


def test_mistakes_are_answered_before_slow_imports(unlabelled: Path):
    data, evaluated = f"data.path={unlabelled}", ["--checkpoint", str(unlabelled), "--data", str(unlabelled)]
    cases = [
        ("train", [data, "optim.lrr=1"], "train.py: command line: unknown key optim.lrr; did you mean lr?"),
        ("train", [data, "--config", f"{unlabelled}/mistake.yaml"], "mistake.yaml: unknown key optim.lrr"),
        ("train", [data, "--config", "none.yaml"], "cannot read the configuration none.yaml"),
        ("train", [data, "sampler.name=kmeans"], "train.py: command line: sampler.name='kmeans' is not known; did you"),
        ("train", [data, "model.video=tin"], "train.py: command line: model.video='tin' is not known; did you mean"),
        ("train", [data, "data.split=train"], "needs a label column named split; there are: none"),
        ("train", [data, "audio.sample_rate=24000"], "was prepared at 16000 Hz"),
        ("train", [data, f"run_dir={unlabelled}"], "already holds a run (up to step-000000001.pt)"),
        ("train", [data, "--resume", "nowhere"], "no checkpoint at nowhere"),
        ("train", ["data.path=nowhere"], "nowhere holds no manifest"),
        ("train", [], "data.path must be set"),
        ("train", [data, "--profile", "5:2"], "--profile must be FIRST:LAST"),
        ("evaluate", [*evaluated, "--protocol", "linear"], "choose what to predict with --label: the data set has no"),
        ("evaluate", [*evaluated, "--protocol", "knn", "--label", "b"], "--label b: the data set has no such label"),
        (
            "evaluate",
            [*evaluated, "--protocol", "knn", "clipz=1"],
            "command line: unknown key clipz; did you mean",
        ),
        ("evaluate", [*evaluated, "--protocol", "knn", "split=all"], "command line: split=all is only for"),
        ("evaluate", [*evaluated, "--protocol", "knm"], "invalid choice: 'knm'"),
        ("evaluate", ["--checkpoint", "x", "--data", "x", "--protocol", "knn"], "no checkpoint at x"),
        ("export", ["nowhere", "out"], "export.py: no checkpoint at nowhere"),
        ("export", ["nowhere", "out", "--private"], "--private needs --push USER/NAME"),
        ("explore", ["nowhere", "--data", str(unlabelled)], "explore: no checkpoint at nowhere"),
        ("embed", ["nowhere", str(unlabelled), "out"], "embed: no checkpoint at nowhere"),
        (
            "embed",
            [str(unlabelled), "nowhere", "out"],
            "embed: SRC must be a folder of prepared data or of videos, but",
        ),
        ("embed", [str(unlabelled), str(unlabelled), "out", "evry=2"], "unknown key evry; did you mean every?"),
        ("index", ["nowhere", "out"], "index: nowhere holds no finished embeddings"),
        ("index", ["nowhere", "--remove", "dog.mp4"], "index: nowhere holds no index (no index.json)"),
        ("query", ["nowhere", "--sound", "dog.wav"], "query: nowhere holds no index (no index.json)"),
        ("serve", ["nowhere"], "serve: nowhere holds no index (no index.json)"),
        ("curate", ["nowhere", str(unlabelled)], "curate: no checkpoint at nowhere"),
        ("curate", [str(unlabelled), "nowhere"], "curate: nowhere holds no manifest"),
        ("curate", [str(unlabelled), str(unlabelled), "--folds", "1"], "--folds must be at least 2"),
        (
            "prepare",
            [str(unlabelled), "out", "--leave-out", "none.csv"],
            "cannot read the list of samples to leave out",
        ),
        ("train", [data, "data.leave_out=none.csv"], "cannot read the list of samples to leave out, none.csv"),
        ("train", [data, "data.weights=none.csv"], "data.weights: cannot read the weights none.csv"),
        ("train", ["data.mix={a: {path: nowhere, weight: 1}}"], "nowhere holds no manifest"),
        ("localise", ["nowhere", "x.mp4"], "localise: no checkpoint at nowhere"),
        ("localise", [str(unlabelled), "x.mp4"], "localise: VIDEO must be a file, but x.mp4 does not exist"),
        ("preview", ["nowhere"], "preview: nowhere holds no manifest"),
        ("labels", [str(unlabelled), "none.csv"], "labels: cannot read the labels none.csv"),
        ("prepare", [str(unlabelled), "out", "--labels", "none.csv"], "prepare: cannot read the labels none.csv"),
        ("prepare", ["nowhere", "out"], "nowhere does not exist"),
        ("prepare", [str(unlabelled), "out", "storage.codek=jpeg"], "command line: unknown key storage.codek"),
    ]
    assert_refused(cases)


def assert_refused(cases: list[tuple[str, list[str], str]]) -> None:
    """Asserts that commands with these arguments end with these messages, without a slow import."""
    calls = [(COMMANDS[name][0], arguments) for name, arguments, _ in cases]
    for (name, arguments, message), (status, text, loaded) in zip(cases, answers(calls), strict=True):
        assert (status, loaded) == (2, []), (name, arguments, text)
        assert message in text, (name, arguments, text)


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]):
    """Returns a function that returns all that was written to stderr, which is no terminal here."""
    written = []

    def read() -> str:
        written.append(capsys.readouterr().err)
        return "".join(written)

    yield read
    phases.close_log()


def test_the_first_line_says_what_the_command_does(unlabelled: Path, tmp_path: Path, log, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", f"data.path={unlabelled}", f"run_dir={tmp_path}"])
    phases.open_log("train.py")
    assert train.announce() == 0
    phases.open_log("other")
    assert prepare([str(unlabelled), str(tmp_path / "out")]) == 2
    assert report([str(unlabelled)]) == 2
    monkeypatch.setattr(sys, "argv", ["demo", str(tmp_path / "demo"), "--videos", "0"])
    assert demo() == 2
    lines = [line for line in log().splitlines() if not line.startswith(("prepare:", "report:", "pipeline.demo:"))]
    assert lines == [
        f"train.py: training on 240,000 samples of {unlabelled}; writing to {tmp_path}",
        "train.py: importing torch and DALI",
        f"other: preparing the videos in {unlabelled} as shards in {tmp_path / 'out'}",
        f"other: listing the files in {unlabelled}",
        "other: comparing 1 run(s); writing to report.html",
        f"other: making 0 videos in {tmp_path / 'demo'}",
    ]


def wait_for(read, pattern: str) -> re.Match[str]:
    for _ in range(500):
        if found := re.search(pattern, read()):
            return found
        time.sleep(0.01)
    raise AssertionError(f"{pattern!r} is not in {read()!r}")


def test_a_log_file_says_every_few_seconds_what_is_still_going_on(log):
    phases.open_log("train.py", interval=0.05)
    phases.begin("opening 240,000 samples")
    wait_for(log, r"^train.py: opening 240,000 samples\ntrain.py: still opening 240,000 samples \(0 s\)\n")
    phases.begin("step 12", quietly=True)
    wait_for(log, r"\ntrain.py: still step 12 \(0 s\)\n")
    assert "train.py: step 12" not in log()


def test_only_rank_0_speaks_and_nobody_without_a_log(log, monkeypatch):
    phases.begin("a phase of a library")
    monkeypatch.setenv("RANK", "3")
    phases.open_log("train.py")
    phases.begin("a phase of rank 3")
    assert not log()


def test_a_terminal_shows_the_phase_with_its_time_and_leaves_stdout_alone(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    phases.open_log("train.py", interval=0.05)
    phases.begin("building the pipeline")
    wait_for(screen.getvalue, r"building the pipeline.*0:00:00")
    print("the result")
    phases.close_log()
    assert "still" not in screen.getvalue()
    assert capsys.readouterr().out == "the result\n"
