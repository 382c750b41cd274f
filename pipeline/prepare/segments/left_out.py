"""Leaves out what a list of --leave-out names: files, with all that they would give, or single segments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from common.phases import say
from common.stores import Location
from pipeline.lists.spans import split_fragment
from pipeline.plan.leave_out import read_leave_out, require_known
from pipeline.prepare.sources import PrepareError, Source


def without_left_out(
    sources: list[Source], path: Path | None, *, src: Location, prefix: str, windows: bool
) -> tuple[list[Source], set[str]]:
    """Returns the sources without what the list `path` names, and the names in it.

    Args:
        path: a list of samples as they are named, with the prefix; None if there is none.
        windows: whether sources are cut into windows, which cannot be left out one by one.

    Raises:
        PrepareError: the list names windows.
        ConfigError: it cannot be read, or names what `src` does not have.
    """
    if path is None:
        return sources, set()
    listed = read_leave_out(path)
    names = set(listed)
    files = {prefix + source.name for source in sources}
    items = {prefix + item.name for source in sources for item in source.items}
    single = [name for name in listed if name not in files | items and split_fragment(name)[0] in files]
    if windows and single:
        raise PrepareError(
            f"{path} leaves out windows, such as {single[0]}, but a file is cut into windows as a whole; name the file "
            "to leave it out of preparation, or leave the windows out of training with data.leave_out"
        )
    require_known(listed, files | items, path=path, data=str(src))
    kept = []
    for source in sources:
        if prefix + source.name not in names:
            spans = tuple(item.span for item in source.items if prefix + item.name not in names)
            kept.append(source if len(spans) == len(source.spans) else replace(source, spans=spans))
    say(f"{path} leaves out {len(names & files):,} of {len(sources):,} files" + _segments(names & items - files))
    return kept, names


def _segments(left_out: set[str]) -> str:
    return f" and {len(left_out):,} segments" if left_out else ""
