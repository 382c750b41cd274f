"""Fixtures shared by all tests."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.demo.corpus import make_demo
from pipeline.prepare.run import prepare
from settings import PrepareConfig, load_config


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data, from the environment variable CMACC_DATA; skips the test if it is not set."""
    folder = os.environ.get("CMACC_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CMACC_DATA does not name a folder of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty videos of the demo corpus, prepared at a small size."""
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", videos=30, seed=0)
    prepare(
        folder / "videos",
        folder / "shards",
        config=load_config(PrepareConfig, overrides=["storage.short_side=64", "storage.codec=jpeg", "shard_samples=8"]),
        labels_path=folder / "videos" / "labels.csv",
        workers=1,
    )
    return folder / "shards"


@pytest.fixture(scope="session")
def store_server() -> Iterator[Any]:
    """An S3 server on the loopback interface (tests/stores/server.py); skips the test where its packages are absent."""
    for package in ("moto", "flask", "flask_cors", "obstore"):
        pytest.importorskip(package)
    from tests.stores.server import StoreServer

    server = StoreServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(store_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The S3 server without faults and without recorded requests; the environment variables lead to it.

    Each test makes buckets of its own: `store.make_bucket()`.
    """
    store_server.begin_test()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in store_server.environment.items():
        monkeypatch.setenv(name, value)
    yield store_server
    store_server.begin_test()


@pytest.fixture
def in_browser(tmp_path: Path) -> Callable[[str, str], Any]:
    """Opens a page in Chromium and returns what the body of an async JavaScript function returns there, as JSON.

    The answer also names errors of the page and whatever it loaded from elsewhere: both must be empty. Skips the test
    where there is no Chromium.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no chromium on this machine")

    def run(page: str, probe: str) -> Any:
        listen = "<script>window.faults = []; addEventListener('error', e => faults.push(e.message));"
        listen += "addEventListener('securitypolicyviolation', e => faults.push(e.blockedURI));</script><title>"
        report = f"<script>(async () => {{ {probe} }})().catch(e => String(e.stack)).then(answer => {{"
        report += "document.title = JSON.stringify({answer, faults, loaded: performance.getEntriesByType('resource')"
        report += ".map(e => e.name).filter(name => !name.startsWith('data:'))}); });</script></body>"
        file = tmp_path / "probed.html"
        file.write_text(page.replace("<title>", listen, 1).replace("</body>", report), encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        options += ["--window-size=1400,900", "--virtual-time-budget=4000", "--dump-dom"]
        shown = subprocess.run(
            [program, *options, file.as_uri()], capture_output=True, text=True, timeout=60, check=True
        )
        told = json.loads(html.unescape(re.search("<title>(.*?)</title>", shown.stdout, re.DOTALL)[1]))
        assert told["faults"] == told["loaded"] == []
        return told["answer"]

    return run
