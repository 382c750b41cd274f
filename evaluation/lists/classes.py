"""Restricts a label column to listed classes, such as those of Kinetics-Sounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from evaluation.task import LabelledData, Task
from settings import ConfigError
from settings.load import format_names

KINETICS_SOUNDS = "kinetics_sounds"
CLASSES: dict[str, tuple[str, ...]] = {
    KINETICS_SOUNDS: (
        *("blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball", "laughing"),
        *("mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar", "playing clarinet"),
        *("playing drums", "playing guitar", "playing harmonica", "playing keyboard", "playing organ"),
        *("playing piano", "playing saxophone", "playing trombone", "playing trumpet", "playing violin"),
        *("playing xylophone", "ripping paper", "shoveling snow", "shuffling cards", "singing", "stomping grapes"),
        *("tap dancing", "tapping guitar", "tapping pen", "tickling"),
    )
}
"""Value of the setting `classes` -> names of classes. Kinetics-Sounds (Arandjelović and Zisserman 2017) has 34 classes
of a first version of Kinetics, of which these 31 are in the published lists."""


def read_classes(name: str) -> tuple[str, ...]:
    """The classes of a known set, or those in a text file with one on each line.

    Raises:
        ConfigError: there is neither such a set nor such a file, or the file is empty.
    """
    if name in CLASSES:
        return CLASSES[name]
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(CLASSES)
        raise ConfigError(f"classes={name!r} is neither {known} nor a readable text file of classes: {error}") from None
    if not (listed := tuple(line.strip() for line in lines if line.strip())):
        raise ConfigError(f"classes={name!r} is an empty file; write one class on each line")
    return listed


def restrict(task: Task, data: LabelledData, classes: tuple[str, ...]) -> tuple[Task, list[str]]:
    """The task with only the samples of these classes, and notes: a sentence if the data lack some of them, else none.

    Case does not matter, and an underscore counts as a space, because folder names differ from the lists in these.

    Raises:
        ConfigError: fewer than two classes have training samples, or none has a test sample.
    """
    wanted = {_plain(name): name for name in classes}
    names = data.label_names(task.label)
    kept = np.isin(task.codes, [code for code, name in enumerate(names) if _plain(name) in wanted])
    restricted = replace(task, codes=np.where(kept, task.codes, -1))
    fitted = len(np.unique(restricted.codes[restricted.train]))
    if fitted < 2 or not restricted.test.any():
        raise ConfigError(
            f"of the {len(wanted)} classes that the setting `classes` lists, {fitted} have training samples under "
            f"--label {task.label}, and {restricted.test.sum()} test samples have one of them; the column holds "
            f"{format_names(names[:20])}"
        )
    found = {_plain(names[code]) for code in np.unique(restricted.codes[restricted.train | restricted.test])}
    if missing := [name for plain, name in wanted.items() if plain not in found]:
        return restricted, [f"{len(missing)} of the {len(wanted)} classes have no sample: {format_names(missing)}."]
    return restricted, []


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
