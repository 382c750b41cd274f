"""On a CPU the loader's threads run only where training leaves a core idle."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.loader import make_loader


def threads() -> dict[int, str]:
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        try:
            found[int(folder.name)] = (folder / "comm").read_text().strip()
        except OSError:  # it has ended
            continue
    return found


def test_decoding_and_resampling_give_way_and_the_caller_does_not(corpus) -> None:
    before = threads()
    config = corpus.config("dali-jpeg", data={"threads": 2})
    batches = make_loader(config).epoch(0)
    next(batches)
    added = {number: name for number, name in threads().items() if number not in before}
    decoding = [number for number, name in added.items() if name.startswith("[DALI][TP")]
    assert len(decoding) >= 4, added  # two of the video's graph and two of the sound's
    assert {os.sched_getscheduler(number) for number in added} == {os.SCHED_IDLE}, added
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
