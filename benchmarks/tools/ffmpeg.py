"""Makes FFmpeg's shared libraries findable for torchcodec and SPDL."""

from __future__ import annotations

import ctypes.util
import os
import sys
import tempfile
from pathlib import Path

import av

LIBRARIES = ("avcodec", "avdevice", "avfilter", "avformat", "avutil", "swresample", "swscale")


def restart_with_ffmpeg_libraries() -> None:
    """Restarts this program with PyAV's FFmpeg libraries on LD_LIBRARY_PATH if the system has none.

    torchcodec and SPDL load the libraries by their usual names; PyAV bundles them under different names, so
    links with the usual names are made in a temporary folder, which is never removed.
    """
    bundled = Path(av.__file__).resolve().parents[1] / "av.libs"
    # CMACC_FFMPEG is set by the restart, so that it happens only once.
    if os.environ.get("CMACC_FFMPEG") or ctypes.util.find_library("avcodec") or not bundled.is_dir():
        return
    links = Path(tempfile.mkdtemp(prefix="ffmpeg-"))
    for stem in LIBRARIES:
        path = next(bundled.glob(f"lib{stem}-*.so.*"))
        major = path.name.split(".so.")[1].split(".")[0]
        (links / f"lib{stem}.so.{major}").symlink_to(path)
    paths = [str(links), str(bundled), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environ = os.environ | {"LD_LIBRARY_PATH": ":".join(paths), "CMACC_FFMPEG": str(links)}
    os.execve(sys.executable, sys.orig_argv, environ)
