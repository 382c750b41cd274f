"""Reads a prepared data set and lists everything in it that is damaged: `python -m pipeline.doctor SHARDS --verify`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from common.progress import show_progress
from pipeline.shards.index.files import index_damage, index_file
from pipeline.shards.manifest import Manifest, ManifestError
from pipeline.shards.verification import Damage, verify_shards
from settings.load import format_key


def verify(folder: Path) -> int:
    """Prints what is damaged in the prepared data set `folder` and how to repair it.

    Returns:
        Exit status: 0 if nothing is damaged, else 1.
    """
    try:
        manifest = Manifest.open(folder, verify=True)
    except ManifestError as error:
        _say(f"damaged: {error}")
        return 1
    found = [damage for part in show_progress(verify_shards(manifest), total=len(manifest.shards)) for damage in part]
    found += [Damage(path, what) for path, what in index_damage(folder)]
    for damage in found:
        sample = "" if damage.sample is None else f"sample {damage.sample} ({_printable(manifest, damage.sample)}): "
        _say(f"damaged: {damage.file}: {sample}{damage.what}")
    unchecked = int((manifest.checksum_offset < 0).sum())
    if unchecked:
        _say(
            f"{unchecked} of {len(manifest)} samples were prepared in format 1, which has no checksums: for them only "
            "sizes and headers were checked. To have checksums, prepare the data into a new folder"
        )
    size = f"{len(manifest)} samples in {len(manifest.shards)} shards, {int(manifest.shard_bytes.sum()) / 1e9:.2f} GB"
    if not found:
        _say(f"{size}: nothing is damaged")
        return 0
    samples = len({damage.sample for damage in found} - {None})
    files = sorted({damage.file for damage in found})
    _say(f"{size}: {len(files)} damaged files, {samples} damaged samples")
    _say(repair(folder, files))
    return 1


def repair(folder: Path, files: Iterable[Path]) -> str:
    """Says how to repair damaged shards and index files of the prepared data set `folder`."""
    indexes = sorted({index_file(folder, file.stem) for file in files})
    return (
        "To repair: copy these files again, if there is an intact copy. Otherwise delete the index of each and run "
        "pipeline.prepare again with the same settings, which prepares their samples again:\n"
        f"  rm -f {' '.join(shlex.quote(str(path)) for path in indexes)}\n"
        f"  python -m pipeline.prepare SRC {shlex.quote(str(folder))} ..."
    )


def _printable(manifest: Manifest, i: int) -> str:
    return format_key("", manifest.source(i))


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
