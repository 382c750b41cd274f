"""The documentation site builds strictly and loads nothing from another host (needs requirements-docs.txt)."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("mkdocs", "material", "mkdocstrings", "latex2mathml")
LOADING = re.compile(r"<(?:script|img|iframe|link|source)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")
PUBLIC = {
    "pipeline.html": [
        "pipeline.loader.make_loader",
        "pipeline.load.decoder.Decoder",
        "pipeline.batch.Batch",
        "pipeline.plan.clips.ClipPlanner",
        "pipeline.shards.codecs.CODECS",
        "pipeline.shards.codecs.base.Codec",
    ],
    "sampler.html": ["sampler.SAMPLERS", "sampler.base.Selection"],
    "model.html": ["model.encoder.CrossModalModel", "model.loss.info_nce"],
    "training.html": ["training.step.Learner.step"],
    "evaluation.html": ["evaluation.protocols.PROTOCOLS"],
    "settings.html": ["settings.schema.Config", "settings.load.load_config"],
    "common.html": ["common.randomness.uniforms"],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    if not all(importlib.util.find_spec(name) for name in TOOLS):
        pytest.skip("the site's tools are not installed: pip install -r requirements-docs.txt")
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert "WARNING" not in result.stderr
    return folder


def test_pages_load_nothing_from_another_host(site):
    pages = [*site.rglob("*.html")]
    assert len(pages) > 20
    for page in pages:
        assert LOADING.findall(page.read_text(encoding="utf-8")) == [], page.name


def test_nothing_asks_the_theme_to_load_mermaid_or_mathjax(site):
    # The theme's script loads Mermaid from a public server as soon as a page has a diagram of its kind.
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert 'class="mermaid"' not in text
        assert 'class="arithmatex"' not in text


@pytest.mark.parametrize("page", PUBLIC)
def test_the_public_names_have_api_pages(site, page):
    text = (site / "api" / page).read_text(encoding="utf-8")
    for name in PUBLIC[page]:
        assert f'id="{name}"' in text, name


def test_pictures_are_in_the_site(site):
    for page in site.rglob("*.html"):
        for picture in re.findall(r'<img[^>]*\bsrc="([^"]+)"', page.read_text(encoding="utf-8")):
            if not picture.startswith("data:"):
                assert (page.parent / picture).is_file(), f"{page.name} shows {picture}"
