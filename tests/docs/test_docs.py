"""What the documents name exists: files, Python names, settings, commands and their options, versions."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipeline.doctor.checks import PYTHONS
from sampler import SAMPLERS
from settings import Config, PrepareConfig, load_config, to_dict
from settings.evaluation import EvaluationConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"benchmarks", "training", "tests"}
SECTIONS = {field.name for cls in (Config, PrepareConfig) for field in dataclasses.fields(cls)}


def _flat(tree: dict, prefix: str = "") -> set[str]:
    keys = set()
    for key, value in tree.items():
        keys |= {prefix + key} | (_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else set())
    return keys


KEYS = _flat(to_dict(Config())) | _flat(to_dict(PrepareConfig()))


def _commands(page: Path) -> list[list[str]]:
    """The command lines of a page, from shell blocks (without here-documents and comments) and from prose."""
    text = page.read_text(encoding="utf-8")
    lines = []
    for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        block = re.sub(r"<<'PYTHON'\n.*?^PYTHON$", "", block, flags=re.MULTILINE | re.DOTALL)
        lines += block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += [" ".join(command.split()) for command in re.findall(r"`((?:python|torchrun|make)\s[^`…]+)`", prose)]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


COMMANDS = [
    pytest.param(words, id=f"{page.name}: {shlex.join(words)[:60]}") for page in PAGES for words in _commands(page)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), f"{page.name} links to {target}"


@cache
def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|yaml|sbatch|md))`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_names_are_where_the_page_says(page):
    text = page.read_text(encoding="utf-8")
    for name, file in re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?`\s+(?:in\s+|\()`([\w/-]+\.py)`", text):
        if name in KEYS or name in SAMPLERS:
            continue
        assert name in _names(ROOT / file), f"{page.name} says that {name} is in {file}"
    for name in re.findall(r"`([a-z_]+(?:\.\w+)+)(?:\(\))?`", text):
        if name.partition(".")[0] in PACKAGES and name not in KEYS and not name.startswith("sampler.options"):
            assert _resolves(name), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_attributes_of_classes_that_are_named_exist(page):
    for owner, attribute in re.findall(r"`([A-Z]\w+)\.(\w+)(?:\(\))?`", page.read_text(encoding="utf-8")):
        if owner in _classes():
            assert attribute in _classes()[owner], f"{page.name} names {owner}.{attribute}"


@cache
def _names(path: Path) -> set[str]:
    """What a file defines or imports: names of the module, `Class.member`, and members alone."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        own = _bound(node)
        names |= own
        if isinstance(node, ast.ClassDef):
            members = {member for child in node.body for member in _bound(child)}
            members |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and _is_self(part)}
            names |= members | {f"{node.name}.{member}" for member in members}
    return names


def _bound(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return set()


def _is_self(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"


@cache
def _classes() -> dict[str, set[str]]:
    """Class -> its members and those that it inherits from classes of this repository."""
    own: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for package in PACKAGES - {"tests"}:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    prefix = f"{node.name}."
                    members = {name.removeprefix(prefix) for name in _names(path) if name.startswith(prefix)}
                    own[node.name] = own.get(node.name, set()) | members
                    bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
    return {name: own[name].union(*(own.get(base, set()) for base in bases[name])) for name in own}


def _resolves(dotted: str) -> bool:
    """Whether a dotted name is a package, a module, or something that a module defines."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path, rest = ROOT.joinpath(*parts[:length]), ".".join(parts[length:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path.is_dir() and not rest:
            return True
        if file.is_file():
            return not rest or rest in _names(file)
    return False


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
    declared = _with_imports(source)
    for option in arguments:
        if option.startswith("--") and option != "--help":
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
    if words[0] == "make":
        targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if word.isalpha() and word.islower()} <= targets, shlex.join(words)
        return None
    for place, word in enumerate(words):
        if word == "-m" and words[place + 1].partition(".")[0] in PACKAGES and not words[place + 1].endswith(".NAME"):
            assert _source(words[place + 1]) is not None, f"there is no module {words[place + 1]}"
            return ("-m", words[place + 1])
        if word.endswith(".py") and words[0] in ("python", "torchrun"):
            assert (ROOT / word).is_file(), f"there is no {word}"
            return (word,)
    return None


def _with_imports(source: Path) -> str:
    """The text of a script and of the modules of this repository that it imports, which may add options to it."""
    text = source.read_text(encoding="utf-8")
    names = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    modules = [file for name in names if (file := _source(name))]
    return "\n".join([text, *(module.read_text(encoding="utf-8") for module in modules)])


def _source(module: str) -> Path | None:
    """The file that `python -m MODULE` runs; None if it is not in this repository."""
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__main__.py") if file.is_file()), None)


def test_versions_agree():
    version = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1)
    assert newest == version


def test_formats_in_the_changelog_are_those_of_the_code():
    sources = [ROOT / "pipeline" / "shards" / "meta.py", ROOT / "training" / "checkpoint.py"]
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
