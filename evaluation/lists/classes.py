"""Restricts a label column to listed classes, such as those of Kinetics-Sounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evaluation.task import LabelledData, Task
from pipeline.lists.classes import CLASSES as CLASSES
from pipeline.lists.classes import KINETICS_SOUNDS as KINETICS_SOUNDS
from pipeline.lists.classes import plain_name
from pipeline.lists.classes import read_classes as read_classes
from settings import ConfigError
from settings.load import format_names


def restrict(task: Task, data: LabelledData, classes: tuple[str, ...]) -> tuple[Task, list[str]]:
    """The task with only the samples of these classes, and notes: a sentence if the data lack some of them, else none.

    Case does not matter, and an underscore counts as a space, because folder names differ from the lists in these.

    Raises:
        ConfigError: fewer than two classes have training samples, or none has a test sample.
    """
    wanted = {plain_name(name): name for name in classes}
    names = data.label_names(task.label)
    kept = np.isin(task.codes, [code for code, name in enumerate(names) if plain_name(name) in wanted])
    restricted = replace(task, codes=np.where(kept, task.codes, -1))
    fitted = len(np.unique(restricted.codes[restricted.train]))
    if fitted < 2 or not restricted.test.any():
        raise ConfigError(
            f"of the {len(wanted)} classes that the setting `classes` lists, {fitted} have training samples under "
            f"--label {task.label}, and {restricted.test.sum()} test samples have one of them; the column holds "
            f"{format_names(names[:20])}"
        )
    found = {plain_name(names[code]) for code in np.unique(restricted.codes[restricted.train | restricted.test])}
    if missing := [name for plain, name in wanted.items() if plain not in found]:
        return restricted, [f"{len(missing)} of the {len(wanted)} classes have no sample: {format_names(missing)}."]
    return restricted, []
