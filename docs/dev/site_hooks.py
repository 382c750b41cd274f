"""Hooks of mkdocs that make the site self-contained: it loads nothing from another host.

Links that leave docs/ (to README.md, to benchmarks/results/...) lead to copies under repository/ in the site. Formulas
become MathML, which browsers render without a script.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
"""A formula as pymdownx.arithmatex writes it with `generic: true` (mkdocs.yml)."""


def site_uri(path: Path) -> str:
    """Path of a file of the repository within the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"repository/{path.relative_to(ROOT).as_posix()}"


def linked(source: Path) -> set[Path]:
    """Files of this repository that a page links to, ignoring links inside fenced code blocks."""
    text = re.sub(r"^```.*?^```", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = {(source.parent / match[2]).resolve() for match in LINK.finditer(text)}
    return {target for target in targets if target.is_file() and target.is_relative_to(ROOT)}


def on_files(files: Files, config: Any) -> Files:
    """Adds README.md and all files outside docs/ that can be reached by links from it or from docs/."""
    pages = {*DOCS.rglob("*.md"), ROOT / "README.md"}
    seen: set[Path] = set()
    while pages - seen:
        page = (pages - seen).pop()
        seen.add(page)
        for target in linked(page):
            if target.suffix == ".md":
                pages.add(target)
            elif not target.is_relative_to(DOCS) and files.get_file_from_path(site_uri(target)) is None:
                files.append(File.generated(config, site_uri(target), abs_src_path=str(target)))
    for page in sorted(pages):
        if not page.is_relative_to(DOCS):
            files.append(File.generated(config, site_uri(page), abs_src_path=str(page)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replaces links to files of the repository by relative links within the site."""
    source = Path(page.file.abs_src_path)
    here = posixpath.dirname(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        target = (source.parent / match[2]).resolve()
        if not (target.is_file() and target.is_relative_to(ROOT)):
            return match[0]
        return f"{match[1]}{posixpath.relpath(site_uri(target), here or '.')}{match[3] or ''}{match[4]}"

    return LINK.sub(replaced, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Converts formulas from TeX to MathML."""
    unescape = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}

    def formula(match: re.Match[str]) -> str:
        tex = re.sub("|".join(unescape), lambda found: unescape[found[0]], match[3])
        return convert(tex, display="block" if match[2] == "[" else "inline")

    return FORMULA.sub(formula, html)
