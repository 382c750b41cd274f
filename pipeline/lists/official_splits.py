"""Reads the official train and test lists of UCF101, HMDB51 and VGGSound."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

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
    unused: list[str] = field(default_factory=list)
    """Paths that are in no part of any split."""

    def class_of(self, path: str) -> str:
        """The class of a listed path; capitals do not matter."""
        return self.classes.get(path) or PurePosixPath(path).parent.name.casefold()


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
        if code not in HMDB51_PARTS or not name:
            raise ConfigError(f"{path}, line {number}: expected VIDEO.avi and 0, 1 or 2, found {line!r}")
        parts[f"{label}/{name.strip()}"] = HMDB51_PARTS[code]
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
