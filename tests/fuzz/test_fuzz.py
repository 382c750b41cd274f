"""A small part of what `python -m tests.fuzz` runs, and tests of its guard."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys

import pytest

from common import phases
from pipeline.shards.manifest import Manifest
from tests.fuzz import campaign
from tests.fuzz.cases import World
from tests.fuzz.mutate import damaged

CASES = range(200)


def test_two_hundred_cases_end_with_a_result_or_a_one_line_error():
    report = campaign.run(CASES, seed=1)
    assert report.findings == []
    assert report.outcomes.keys() == campaign.SHARES.keys()
    assert sum(sum(outcomes.values()) for outcomes in report.outcomes.values()) == len(CASES)


def test_a_long_campaign_says_how_far_it_is(capsys):
    phases.open_log("tests.fuzz", interval=0.01)
    try:
        campaign.run([number for number in range(100) if campaign.kind_of(number) == "yaml"] * 3, seed=1, announce=True)
    finally:
        phases.close_log()
    said = re.findall(r"tests\.fuzz: (\d+) of 36 cases, 0 findings, \d+ s left", capsys.readouterr().err)
    assert said == sorted(said, key=int)
    assert said


def test_a_file_that_aborts_decord_is_refused():
    report = campaign.run([3498], seed=1)
    assert report.findings == []
    assert report.outcomes == {"container": {"accepted, decord refused: RawVideoError": 1}}


def test_every_file_of_a_damaged_folder_is_prepared_or_rejected(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    originals, rng = World(folder=tmp_path).media, random.Random("damaged folder")
    for number in range(40):
        suffix = rng.choice(list(originals))
        data = damaged(originals[suffix], rng, other=originals[rng.choice(list(originals))])
        (videos / f"{number}.{suffix}").write_bytes(data)
    before = sorted(path for path in tmp_path.rglob("*") if out not in path.parents)
    settings = ["storage.short_side=32", "storage.codec=jpeg", "timeout_seconds=60"]
    command = [sys.executable, "-m", "pipeline.prepare", str(videos), str(out), *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    rejected = [json.loads(line)["source"] for line in (out / "rejected.jsonl").read_text().splitlines()]
    manifest = Manifest.open(out)
    prepared = [manifest.source(index) for index in range(len(manifest))]
    assert sorted(rejected + prepared) == sorted(path.name for path in videos.iterdir())
    assert sorted(path for path in tmp_path.rglob("*") if out not in path.parents and path != out) == before


def test_the_shares_of_the_kinds_sum_to_a_hundred():
    assert sum(campaign.SHARES.values()) == 100


GUARDED = """
import os, pickle, subprocess, sys
from pathlib import Path
from tests.fuzz.guard import Forbidden, Guard
inside, outside = Path(sys.argv[1]) / "inside", Path(sys.argv[1]) / "outside"
guard = Guard(inside)
guard.active = True
(inside / "a").write_text("x")
(inside / "a").rename(inside / "b")
attempts = [
    lambda: outside.write_text("x"), lambda: (inside / "../outside").write_text("x"), lambda: outside.mkdir(),
    lambda: (inside / "b").rename(outside), lambda: (inside / "link" / "x").write_text("x"),
    lambda: subprocess.run(["true"]), lambda: os.system("true"), lambda: pickle.loads(b"cos\\nsystem\\n."),
    lambda: os.remove(sys.argv[0]),
]
for attempt in attempts:
    try:
        attempt()
    except Forbidden:
        continue
    sys.exit(f"not noticed: {attempts.index(attempt)}")
print(len(guard.seen))
"""


def test_the_guard_detects_writes_outside_the_folder_programs_and_pickles(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path)
    script = tmp_path / "guarded.py"
    script.write_text(GUARDED)
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("9\n", "")


def test_a_case_depends_only_on_seed_and_number(tmp_path):
    first, second = ([_bytes_of(tmp_path / name, case) for case in range(12, 20)] for name in ("a", "b"))
    assert first == second
    assert len(set(first)) == len(first)


def _bytes_of(folder, case: int) -> str:
    folder.mkdir(exist_ok=True)
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.fuzz.text_cases.load_config", lambda cls, path, overrides=(): seen.extend(overrides))
        patch.setattr("tests.fuzz.text_cases._check_config", lambda cls, config, path: None)
        campaign._kinds()["override"](campaign.random.Random(f"0/{case}"), World(folder=folder))
    return "\n".join(seen)
