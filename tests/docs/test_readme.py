"""The README's shell blocks run as printed in a copy of the repository, and its figures are those of the results."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.demo.corpus import make_demo

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [block.strip() for block in re.findall(r"```(?:ba)?sh\n(.*?)```", TEXT, re.DOTALL)]
PYTHON = f'#!/bin/sh\nexec "{sys.executable}" '


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository, an environment that counts as installed, a demo corpus too small to learn from."""
    folder = tmp_path_factory.mktemp("checkout") / "cmacc"
    left_out = shutil.ignore_patterns(".*", "data", "runs", "__pycache__", "benchmarks")
    shutil.copytree(ROOT, folder, ignore=left_out)
    (folder / ".venv/bin").mkdir(parents=True)
    for name, program in {"python": '"$@"', "torchrun": '-m torch.distributed.run "$@"'}.items():
        (folder / ".venv/bin" / name).write_text(PYTHON + program + "\n")
        (folder / ".venv/bin" / name).chmod(0o755)
    (folder / ".venv/bin/activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    make_demo(folder / "data/demo/videos", videos=48, seed=0)
    # A dictionary from which so few samples leave something to select.
    config = folder / "configs/quickstart.yaml"
    config.write_text(config.read_text().replace("dictionary: {size: 256}", "dictionary: {size: 16}"))
    for stamp in ("installed", "installed-tests"):
        (folder / ".venv" / stamp).touch()
    return folder


def run(command: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout


def result(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_it_is_read_in_two_minutes():
    assert len(TEXT.splitlines()) <= 80


def test_the_figures_are_those_of_the_results():
    words = " ".join(TEXT.split())
    found = result("decode")["comparisons"]
    jpeg = {kind: f"{found[kind]['ratio']['shards_jpeg_144']:.1f}×" for kind in found}
    peers = "the fastest of torchcodec, decord, PyAV and SPDL"
    assert f"{jpeg['files_as_people_have_them']} {peers} reading H.264 files of 256 pixels" in words
    assert f"{jpeg['same_size_any_storage']} the fastest of them on any storage of equal size" in words
    times = {record["backend"]: record["times_faster"] for record in result("sampling_38400x3840")["records"]}
    assert f"{times['kmeanspp_faiss_sketch']:.0f}× faster than one pick at a time" in words
    # The results of the samplers are Markdown tables, as the sweeps' report writes them.
    pages = [*ROOT.glob("docs/results/*.md"), *ROOT.glob("experiments/results/*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    shares = re.findall(r"`adaptive` \*\*beats `fifo`\*\*[^\n]* (\d+) ?% of its CPU", text)
    claimed = re.search(r"in (\d+) % and (\d+) % of its CPU time", words).groups()
    assert set(claimed) <= set(shares)


def test_it_has_two_commands_and_then_a_block_for_your_own_videos():
    assert [block.split()[0] for block in BLOCKS] == ["make", "."]
    assert re.findall(r"^make \w+", BLOCKS[0], re.MULTILINE) == ["make train", "make test"]


def test_make_train_goes_from_videos_to_a_table(checkout):
    printed = run("make train", checkout)
    assert re.search(r"pre-trained.*random-initialised.*chance.*run folder: runs/quickstart", printed, re.DOTALL)
    assert "train.py" in run("make -n train", checkout)
    assert "-m pytest" in run("make -n test", checkout)


def test_your_own_videos_are_prepared_trained_on_and_shown(checkout):
    # Twenty steps, because those that are chosen for so few videos take minutes.
    block = BLOCKS[1].replace(" VIDEOS ", " data/demo/videos ").replace("mine.yaml", "mine.yaml train.steps=20")
    run(block, checkout)
    for name in ("preview.png", "report.png", "report.html", "explore.html"):
        assert (checkout / name).stat().st_size > 10_000, name
