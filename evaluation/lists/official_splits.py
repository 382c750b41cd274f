"""Matches the official train and test lists of UCF101, HMDB51 and VGGSound with a prepared data set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.stores import location
from evaluation.task import LabelledData, Split, Task
from pipeline.lists.names import Finder
from pipeline.lists.official_splits import PARTS, OfficialSplits
from pipeline.lists.official_splits import read_official_splits as read_official_splits
from settings import ConfigError


def official_tasks(
    official: OfficialSplits, data: LabelledData, *, rejected: Mapping[str, str]
) -> tuple[list[Task], list[dict[str, Any]]]:
    """The splits as tasks over `data`, and how many videos of each list are in `data`.

    A video is matched by class folder and file name as by `Finder`, which ignores the media suffix, but anywhere below
    the prepared folder and ignoring case (in some copies of UCF101, lists and folders disagree on HandstandPushups).
    A listed path that fits several videos is counted as missing.

    Args:
        rejected: source path -> reason of its rejection in preparation (`read_rejected`).

    Returns:
        One task per split, and coverage rows with the keys split, part, listed, found, unreadable, missing (counts) and
        absent (the first 20 absent paths with the reason).

    Raises:
        ConfigError: no video of the train or test part of a split is in the data.
    """
    paths = {path for parts in official.splits.values() for path in parts}
    ids, absent = _find(paths, [data.source(index) for index in range(len(data))], rejected)
    classes = {label: code for code, label in enumerate(sorted({official.class_of(path) for path in paths}))}
    codes = np.full(len(data), -1, dtype=np.int32)
    for path in paths:
        if path in ids:
            codes[ids[path]] = classes[official.class_of(path)]
    tasks, coverage = [], []
    for number, parts in official.splits.items():
        masks = {part: np.zeros(len(data), dtype=bool) for part in PARTS}
        for part in PARTS:
            listed = [path for path, its_part in parts.items() if its_part == part]
            found = [ids[path] for path in listed if path in ids]
            masks[part][found] = True
            coverage.append(_coverage_row(number, part, listed, absent))
            if not found:
                raise ConfigError(
                    f"none of the {len(listed)} {part} videos of {official.name} split {number} is in the data (e.g. "
                    f"{listed[0] if listed else 'nothing is listed'}): check --data and splits"
                )
        split = Split(train=masks["train"], test=masks["test"], origin=f"official split {number} of {official.name}")
        tasks.append(Task(label=official.name, codes=codes, split=split))
    return tasks, coverage


def describe_coverage(coverage: Sequence[Mapping[str, Any]]) -> list[str]:
    """Summarises coverage rows as text, one line per split."""
    lines = []
    for number in dict.fromkeys(row["split"] for row in coverage):
        count = {
            name: sum(row[name] for row in coverage if row["split"] == number)
            for name in ("listed", "found", "unreadable", "missing")
        }
        lines.append(
            f"split {number}: {count['found']} of {count['listed']} listed videos found, "
            f"{count['unreadable']} unreadable, {count['missing']} missing"
        )
    return lines


def read_rejected(folder: str | Path) -> dict[str, str]:
    """Source path -> reason for each video that preparation rejected; empty if there is no rejected.jsonl."""
    try:
        text = (location(folder) / "rejected.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    entries = (json.loads(line) for line in text.split("\n") if line)
    return {entry["source"]: entry["reason"] for entry in entries}


def _find(
    paths: Iterable[str], sources: Sequence[str], rejected: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, tuple[str, bool]]]:
    """Returns the sample of each listed path and, for the others, the reason and whether the file is unreadable."""
    samples, refused, reasons = _SourceIndex(sources), _SourceIndex(list(rejected)), list(rejected.values())
    ids: dict[str, int] = {}
    absent: dict[str, tuple[str, bool]] = {}
    for path in paths:
        if len(found := samples.find(path)) == 1:
            ids[path] = found[0]
        elif found:
            absent[path] = (f"fits {len(found)} videos, such as {sources[found[0]]} and {sources[found[1]]}", False)
        elif unreadable := refused.find(path):
            absent[path] = (reasons[unreadable[0]], True)
        else:
            absent[path] = ("missing", False)
    return ids, absent


class _SourceIndex:
    """Finds sources by the last two parts of their paths (class folder and file name), in any folder."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._places: dict[str, list[int]] = {}
        for place, source in enumerate(sources):
            self._places.setdefault(_key(source), []).append(place)
        self._finder = Finder(self._places)

    def find(self, path: str) -> list[int]:
        return [place for key in self._finder.find(_key(path)) for place in self._places[key]]


def _coverage_row(number: int, part: str, listed: list[str], reasons: Mapping[str, tuple[str, bool]]) -> dict[str, Any]:
    absent = {path: reasons[path] for path in listed if path in reasons}
    unreadable = sum(is_unreadable for _, is_unreadable in absent.values())
    return {
        "split": number,
        "part": part,
        "listed": len(listed),
        "found": len(listed) - len(absent),
        "unreadable": unreadable,
        "missing": len(absent) - unreadable,
        "absent": {path: reason for path, (reason, _) in list(absent.items())[:20]},
    }


def _key(path: str) -> str:
    """Class folder and file name in lower case, which a listed path and a source path have in common."""
    parts = PurePosixPath(path).parts[-2:]
    return "/".join(parts).casefold()
