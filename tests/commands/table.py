"""The table of commands of ./cmacc."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CMACC = runpy.run_path(str(ROOT / "cmacc"))
COMMANDS: dict[str, tuple[str, str]] = CMACC["COMMANDS"]
