"""What preparing videos costs: CPU time and bytes per clip."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.shards.manifest import Manifest

CODECS = ("vp9", "jpeg")


def measure_preparation(videos: Path) -> dict[str, Any]:
    """Prepares the folder `videos` once per codec, each in a new folder.

    Returns:
        Per codec: clips, seconds of material, CPU-seconds of `python -m pipeline.prepare` and its workers, and
        megabytes of the shards.

    Raises:
        subprocess.CalledProcessError: preparation failed.
    """
    found = {}
    with tempfile.TemporaryDirectory() as work:
        for codec in CODECS:
            out, before = Path(work) / codec, _children_cpu()
            line = [sys.executable, "-m", "pipeline.prepare", str(videos), str(out), f"storage.codec={codec}"]
            subprocess.run(line, check=True, stdout=sys.stderr)
            cpu = _children_cpu() - before
            manifest = Manifest.open(out)
            found[codec] = {
                "clips": len(manifest),
                "seconds": float(manifest.seconds.sum()),
                "cpu_seconds": cpu,
                "megabytes": float(manifest.shard_bytes.sum()) / 1e6,
            }
    return found


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
