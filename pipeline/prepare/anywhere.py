"""Prepares into a folder of this machine or of an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.phases import say
from common.stores import Location
from common.stores.scratch import scratch_folder
from pipeline.prepare.records import PrepareError
from pipeline.prepare.run import prepare
from pipeline.prepare.stores.out_folder import RemoteOut
from pipeline.prepare.summary import Summary


def prepare_anywhere(
    src: Location, out: Location, *, work: Path | None, part: tuple[int, int], **options: Any
) -> Summary:
    """Calls `prepare`, with a local folder in the place of `out` if that is in an object store.

    Args:
        work: that local folder; None for one among the user's caches. It must be on one disk of this machine.
        options: further arguments of `prepare`.

    Raises:
        PrepareError: as by `prepare`; or the store cannot be used.
    """
    if isinstance(out, Path):
        if work is not None:
            raise PrepareError(f"--work is for an OUT that is a URL, but OUT is the folder {out}: leave it out")
        return prepare(src, out, part=part, **options)
    folder = (work or scratch_folder(out, "prepare")).resolve()
    try:
        with RemoteOut(out, folder, part=part) as remote:
            say(f"unfinished shards are in {remote.folder}")
            remote.pull()
            return prepare(src, remote.folder, part=part, remote=remote, **options)
    except OSError as error:
        raise PrepareError(f"cannot prepare into {out}: {error}") from None
