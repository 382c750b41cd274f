"""What the documents name exists: files, settings, commands and their options, versions."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.doctor.checks import PYTHONS
from settings import Config, PrepareConfig, load_config, to_dict
from settings.evaluation import EvaluationConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/results/*.md")])
SECTIONS = {field.name for cls in (Config, PrepareConfig) for field in dataclasses.fields(cls)}


def _flat(tree: dict, prefix: str = "") -> set[str]:
    keys = set()
    for key, value in tree.items():
        keys |= {prefix + key} | (_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else set())
    return keys


KEYS = _flat(to_dict(Config())) | _flat(to_dict(PrepareConfig()))


def _commands(page: Path) -> list[list[str]]:
    """The command lines of a page's shell blocks, without here-documents and comments."""
    commands = []
    for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        block = re.sub(r"<<'PYTHON'\n.*?^PYTHON$", "", block, flags=re.MULTILINE | re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                commands.append(words)
    return commands


COMMANDS = [
    pytest.param(words, id=f"{page.name}: {shlex.join(words)[:60]}") for page in PAGES for words in _commands(page)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|yaml|sbatch|md))`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_that_are_named_exist(page):
    for key in re.findall(r"`([a-z_]+\.[a-z_.]+)(?:[=:][^`]*)?`", page.read_text(encoding="utf-8")):
        if key.partition(".")[0] in SECTIONS and not key.endswith(".py"):
            assert key in KEYS or key.startswith("sampler.options"), f"{page.name} names the setting {key}"


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_exist_with_these_options(words):
    while re.match(r"^[A-Z_]+=", words[0]):
        words = words[1:]
    program = _program(words)
    if program is None:
        return
    arguments = words[words.index(program[-1]) + 1 :]
    source = _source(program[-1]) if program[0] == "-m" else ROOT / program[0]
    assert source is not None
    declared = source.read_text(encoding="utf-8")
    for option in arguments:
        if option.startswith("--"):
            assert f'"{option.partition("=")[0]}"' in declared, f"{source.name} has no {option}"
    overrides = [word for word in arguments if re.match(r"^[a-z_.]+=", word)]
    if program == ("-m", "pipeline.prepare"):
        load_config(PrepareConfig, None, overrides)
    elif program == ("train.py",):
        load_config(Config, None, overrides)
    elif program == ("evaluate.py",):
        load_config(EvaluationConfig, None, overrides)


def _program(words: list[str]) -> tuple[str, ...] | None:
    """What of this repository a command starts, as arguments of python; None for other programs."""
    for place, word in enumerate(words):
        if word == "-m" and _source(words[place + 1]) is not None:
            return ("-m", words[place + 1])
        if word in ("train.py", "evaluate.py", "export.py"):
            return (word,)
    return None


def _source(module: str) -> Path | None:
    """The file that `python -m MODULE` runs; None if it is not in this repository."""
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__main__.py") if file.is_file()), None)


def test_versions_agree():
    version = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1)
    assert newest == version


def test_formats_in_the_changelog_are_those_of_the_code():
    sources = [ROOT / "pipeline" / "shards" / "manifest.py", ROOT / "training" / "checkpoint.py"]
    formats = [re.search(r"^FORMAT = (\d+)$", source.read_text(), re.MULTILINE).group(1) for source in sources]
    newest = re.search(r"\*Formats\*: shards (\d+), checkpoints (\d+)", (ROOT / "CHANGELOG.md").read_text())
    assert list(newest.groups()) == formats


def test_pre_commit_runs_the_ruff_of_the_requirements():
    repository, _ = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "requirements-test.txt").read_text(), re.MULTILINE).group(1)
    assert repository["rev"] == f"v{pinned}"


def test_continuous_integration_runs_the_supported_pythons():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert [tuple(map(int, v.split("."))) for v in (versions[0], versions[-1])] == list(PYTHONS)
