"""What the table of the first hour measures, and that it is about the commands that the documents name."""

from __future__ import annotations

import re
import sys

import pytest

from benchmarks.first_hour import COMMANDS, measure
from benchmarks.report import TABLES
from benchmarks.tools.result import ResultError, read
from tests.commands import table

PROGRAM = """
import pathlib, sys
print("I begin", flush=True)
for name in ("data/mine/a/1", "data/mine/b/2", "runs/mine/config", "single", "data/mine/a/old"):
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
print("I end", file=sys.stderr)
"""


def test_the_figures_of_a_command_are_its_words_times_and_files(tmp_path):
    (tmp_path / "kept").write_text("x")
    found = measure([sys.executable, "-c", PROGRAM], tmp_path)
    assert found["lines"] == 2
    assert 0 < found["first_word_seconds"] <= found["longest_silence_seconds"] + 1e-9 <= found["seconds"] + 1e-9
    assert 0 <= found["first_word_cpu_seconds"] <= found["cpu_seconds"] + 0.02
    left = {group["path"]: group["files"] for group in found["leaves"]}
    assert left == {"data/mine/": 3, "runs/mine/": 1, "single": 1}
    again = measure([sys.executable, "-c", "print(1); open('data/mine/a/1', 'w').write('changed')"], tmp_path)
    assert [group["path"] for group in again["leaves"]] == ["data/mine/a/1"]
    assert measure([sys.executable, "-c", "print(1)"], tmp_path)["leaves"] == []


def test_a_command_that_fails_is_named_with_its_last_line(tmp_path):
    with pytest.raises(ResultError, match=r"ended with status 3: it is broken$"):
        measure([sys.executable, "-c", "print('it is broken'); raise SystemExit(3)"], tmp_path)


def test_the_commands_are_those_of_the_readme_and_of_the_result():
    names = [line.split()[0] for line in COMMANDS]
    assert set(names) <= set(table.COMMANDS)
    readme = (table.ROOT / "README.md").read_text()
    block = next(
        text for text in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "pipeline.prepare VIDEOS" in text
    )
    modules = {module: name for name, (module, _) in table.COMMANDS.items()}
    named = [
        modules[(m or f).removesuffix(".py")] for m, f in re.findall(r"^python (?:-m (\S+)|(\S+\.py))", block, re.M)
    ]
    assert named == [name for name in names if name in named], "in the order of the README"
    result = read(table.ROOT / "benchmarks" / "results" / "first_hour.json")
    assert [record["command"] for record in result["records"]] == [
        line.format(videos=result["videos"]) for line in COMMANDS
    ]
    assert "first_hour" in TABLES


def test_no_command_was_silent_for_long():
    result = read(table.ROOT / "benchmarks" / "results" / "first_hour.json")
    assert max(record["longest_silence_seconds"] for record in result["records"]) < 30
