"""Reads the official train and test lists of UCF101, HMDB51 and VGGSound and matches them with a prepared data set."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from common.stores import location
from evaluation.task import LabelledData, Split, Task
from pipeline.lists.names import Finder
from settings import ConfigError

HMDB51_PARTS = {"0": None, "1": "train", "2": "test"}
PARTS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class OfficialSplits:
    """The content of the lists. Paths are CLASS/FILE.avi, in VGGSound only the name of the file."""

    name: str
    """ucf101, hmdb51 or vggsound."""
    splits: dict[int, dict[str, str]] = field(default_factory=dict)
    """Number of the split -> path -> train or test."""
    classes: dict[str, str] = field(default_factory=dict)
    """Path -> class, for lists that name it; otherwise it is the folder in the path."""

    def class_of(self, path: str) -> str:
        """The class of a listed path; capitals do not matter."""
        return self.classes.get(path) or _key(path).rpartition("/")[0]


def read_official_splits(folder: str | Path) -> OfficialSplits:
    """Reads ucfTrainTestlist/ (trainlist01.txt, testlist01.txt) or testTrainMulti_7030_splits/ (CLASS_test_split1.txt).

    Args:
        folder: the folder of the lists, or the file vggsound.csv.

    Raises:
        ConfigError: the folder holds no such lists, or a line has another format.
    """
    folder = Path(folder)
    if folder.is_file():
        return _read_vggsound(folder)
    if lists := sorted(folder.glob("trainlist*.txt")):
        return OfficialSplits(name="ucf101", splits=dict(_read_ucf101(path) for path in lists))
    if lists := sorted(folder.glob("*_test_split*.txt")):
        splits: dict[int, dict[str, str]] = {}
        for path in lists:
            number, parts = _read_hmdb51(path)
            splits.setdefault(number, {}).update(parts)
        return OfficialSplits(name="hmdb51", splits=dict(sorted(splits.items())))
    raise ConfigError(
        f"splits={str(folder)!r} holds neither trainlist01.txt (UCF101's ucfTrainTestlist) nor CLASS_test_split1.txt "
        "(HMDB51's testTrainMulti_7030_splits), and is not the file vggsound.csv"
    )


def _read_ucf101(train: Path) -> tuple[int, dict[str, str]]:
    """Lines are `Class/video.avi 1` (with the class's number) for training and `Class/video.avi` for testing."""
    test = train.with_name(train.name.replace("trainlist", "testlist"))
    parts = {}
    for part, path in (("train", train), ("test", test)):
        for number, line in _lines(path):
            name = re.sub(r"\s+\d+$", "", line)
            if "/" not in name:
                raise ConfigError(f"{path}, line {number}: expected CLASS/VIDEO.avi, found {line!r}")
            parts[name] = part
    return _number(train), parts


def _read_hmdb51(path: Path) -> tuple[int, dict[str, str]]:
    """Lines are `video.avi 1`: 1 is training, 2 test, 0 unused. File names may contain spaces and brackets."""
    label = path.stem.rpartition("_test_split")[0]
    parts = {}
    for number, line in _lines(path):
        name, _, code = line.rpartition(" ")
        if code not in HMDB51_PARTS or not name:
            raise ConfigError(f"{path}, line {number}: expected VIDEO.avi and 0, 1 or 2, found {line!r}")
        if part := HMDB51_PARTS[code]:
            parts[f"{label}/{name.strip()}"] = part
    return _number(path), parts


def _read_vggsound(path: Path) -> OfficialSplits:
    """Lines are `ID,SECONDS,"LABEL",PART`; a clip is the file ID_SECONDS, with six digits."""
    parts, classes = {}, {}
    lines = _lines(path)
    for (number, line), cells in zip(lines, csv.reader(line for _, line in lines), strict=True):
        if line.startswith("#"):
            continue
        if len(cells) != 4 or not cells[1].strip().isdigit() or cells[3].strip() not in PARTS:
            raise ConfigError(f"{path}, line {number}: expected ID,SECONDS,LABEL,train or test, found {line!r}")
        name = f"{cells[0].strip()}_{int(cells[1]):06d}"
        parts[name], classes[name] = cells[3].strip(), cells[2].strip()
    return OfficialSplits(name="vggsound", splits={1: parts}, classes=classes)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"cannot read the official list {path}: {error.strerror}") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _number(path: Path) -> int:
    digits = re.search(r"(\d+)$", path.stem)
    if digits is None:
        raise ConfigError(f"the name of the official list {path} does not end in its number")
    return int(digits[1])


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
