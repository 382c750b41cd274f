"""The training loop of docs/own_loop.md, run as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own_loop.md"
(BLOCK,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_printed_loop_trains_for_two_epochs(demo_shards):
    names: dict[str, object] = {}
    exec(BLOCK.replace("data/demo/shards", str(demo_shards)), names)
    assert len(names["loader"]) == 3
    assert names["batch"].video.shape == (8, 3, 16, 64, 64)
    assert names["loss"].isfinite()


def test_the_printed_loop_is_twelve_lines_after_its_imports():
    lines = [line for line in BLOCK.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 12
