"""Reads the official train and test lists of UCF101, HMDB51 and VGGSound."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from settings import ConfigError

_HMDB51_PARTS = {"0": None, "1": "train", "2": "test"}
"""The codes in HMDB51's lists -> the part; None for a video that the split does not use."""
PARTS = ("train", "test")
"""The parts of a split."""


@dataclass(frozen=True, kw_only=True)
class OfficialSplits:
    """The content of the lists. Paths are CLASS/FILE.avi; for VGGSound ID_SECONDS, the file name without its suffix."""

    name: str
    """ucf101, hmdb51 or vggsound."""
    splits: dict[int, dict[str, str]] = field(default_factory=dict)
    """Number of the split -> path -> train or test."""
    classes: dict[str, str] = field(default_factory=dict)
    """Path -> class, as VGGSound's list names it; empty for the others, where the class is the folder in the path."""
    unused: list[str] = field(default_factory=list)
    """Paths that are in no part of any split."""

    def class_of(self, path: str) -> str:
        """The class of a listed path; a folder is put in lower case, because copies of the lists differ in capitals."""
        return self.classes.get(path) or PurePosixPath(path).parent.name.casefold()


def read_official_splits(folder: str | Path) -> OfficialSplits:
    """Reads official lists, and tells from the names of the files which data set they belong to.

    Args:
        folder: UCF101's ucfTrainTestlist/ (trainlist01.txt, testlist01.txt), HMDB51's testTrainMulti_7030_splits/
            (CLASS_test_split1.txt), or VGGSound's file vggsound.csv.

    Raises:
        ConfigError: the folder holds no such lists, or a list cannot be read or has a line in another format.
    """
    folder = Path(folder)
    if folder.is_file():
        return _read_vggsound(folder)
    if lists := sorted(folder.glob("trainlist*.txt")):
        return OfficialSplits(name="ucf101", splits=dict(_read_ucf101(path) for path in lists))
    if lists := sorted(folder.glob("*_test_split*.txt")):
        splits: dict[int, dict[str, str]] = {}
        names: dict[str, None] = {}
        for path in lists:
            number, listed = _read_hmdb51(path)
            names |= dict.fromkeys(listed)
            splits.setdefault(number, {}).update({name: part for name, part in listed.items() if part is not None})
        used = {name for parts in splits.values() for name in parts}
        unused = [name for name in names if name not in used]
        return OfficialSplits(name="hmdb51", splits=dict(sorted(splits.items())), unused=unused)
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


def _read_hmdb51(path: Path) -> tuple[int, dict[str, str | None]]:
    """Lines are `video.avi 1`: 1 is training, 2 test, 0 unused (None). File names may contain spaces and brackets."""
    label = path.stem.rpartition("_test_split")[0]
    parts: dict[str, str | None] = {}
    for number, line in _lines(path):
        name, _, code = line.rpartition(" ")
        if code not in _HMDB51_PARTS or not name:
            raise ConfigError(f"{path}, line {number}: expected VIDEO.avi and 0, 1 or 2, found {line!r}")
        parts[f"{label}/{name.strip()}"] = _HMDB51_PARTS[code]
    return _number(path), parts


def _read_vggsound(path: Path) -> OfficialSplits:
    """Lines are `ID,SECONDS,"LABEL",PART`; the clip is in a file named ID_SECONDS, with SECONDS in six digits."""
    parts, classes = {}, {}
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        cells = next(csv.reader([line]))
        if len(cells) != 4 or not cells[1].strip().isdecimal() or cells[3].strip() not in PARTS:
            raise ConfigError(f"{path}, line {number}: expected ID,SECONDS,LABEL,train or test, found {line!r}")
        name = f"{cells[0].strip()}_{int(cells[1]):06d}"
        parts[name], classes[name] = cells[3].strip(), cells[2].strip()
    return OfficialSplits(name="vggsound", splits={1: parts}, classes=classes)


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a list that are not blank, with their numbers in the file."""
    try:
        text = path.read_text(encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"cannot read the official list {path}: {error.strerror}") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _number(path: Path) -> int:
    """The number of the split to which a list belongs, from the end of its name."""
    digits = re.search(r"(\d+)$", path.stem)
    if digits is None:
        raise ConfigError(f"the name of the official list {path} does not end in its number")
    return int(digits[1])
