"""The snippets of docs/datasets.md, run as they are printed on small stand-ins for the official files."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.prepare.labels import read_labels
from pipeline.prepare.sources import find_sources

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
KINETICS = "label,youtube_id,time_start,time_end,split\n"


def _run(heading: str, folder: Path, files: dict[str, str]) -> None:
    """Runs the Python snippet of a section in `folder`, which holds `files`."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (snippet,) = re.findall(r"^python - .*?^PYTHON$", section, re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    subprocess.run(["bash", "-euc", snippet], cwd=folder, env=environment, check=True, timeout=60)


def _rows(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_kinetics_sounds_links_the_clips_that_are_there(tmp_path):
    clips = ["playing accordion,a,1,11", "mowing lawn,b,2,12", "abseiling,c,3,13", "tickling,lost,4,14"]
    _run(
        "Kinetics-Sounds",
        tmp_path,
        {
            "kinetics400/train.csv": KINETICS + "".join(f"{clip},train\n" for clip in clips),
            "kinetics400/train/a_000001_000011.mp4": "",
            "kinetics400/train/b_000002_000012.mp4": "",
            "kinetics400/train/c_000003_000013.mp4": "",
        },
    )
    sources, _ = find_sources(tmp_path / "kinetics_sounds")
    assert [s.name for s in sources] == ["mowing lawn/b_000002_000012.mp4", "playing accordion/a_000001_000011.mp4"]


def test_kinetics_sounds_has_31_classes():
    listed = re.search(r'CLASSES = """(.*?)"""', TEXT, re.DOTALL).group(1).replace("\n", " ").split(", ")
    assert len(set(listed)) == len(listed) == 31


def test_ucf101_labels(tmp_path):
    first, second = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "Archery/v_Archery_g01_c01.avi"
    lists = {f"ucfTrainTestlist/{part}list0{n}.txt": "" for part in ("train", "test") for n in (1, 2, 3)}
    lists |= {
        "ucfTrainTestlist/trainlist01.txt": f"{first} 1\n",
        "ucfTrainTestlist/testlist01.txt": f"{second}\n",
        "ucfTrainTestlist/testlist02.txt": f"{first}\r\n",
    }
    _run("UCF101", tmp_path, lists)
    assert _rows(tmp_path / "labels.csv")[1:] == [
        [first, "ApplyEyeMakeup", "train", "test", ""],
        [second, "Archery", "test", "", ""],
    ]


def test_hmdb51_labels(tmp_path):
    names = ("a clip [1].avi", "b.avi")
    splits = {1: "12", 2: "01", 3: "20"}
    _run(
        "HMDB51",
        tmp_path,
        {
            f"testTrainMulti_7030_splits/brush_hair_test_split{number}.txt": "".join(
                f"{name} {part} \n" for name, part in zip(names, parts, strict=True)
            )
            for number, parts in splits.items()
        },
    )
    assert _rows(tmp_path / "labels.csv")[1:] == [
        ["brush_hair/a clip [1].avi", "brush_hair", "train", "", "test"],
        ["brush_hair/b.avi", "brush_hair", "test", "train", ""],
    ]


def test_audioset_labels_of_both_parts_are_read_with_all_labels_of_a_clip(tmp_path):
    head = "# Segments csv created Sun Mar  5 10:54:25 2017\n# YTID, start_seconds, end_seconds, positive_labels\n"
    _run(
        "AudioSet",
        tmp_path,
        {
            "balanced_train_segments.csv": head + '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"\n',
            "eval_segments.csv": head + '-0RWZT-miFs, 30.000, 40.000, "/m/07rgt08"\n',
            "audioset/segments/--4gqARaEJE_000000.mp4": "",
            "audioset/segments/-0RWZT-miFs_000030.mp4": "",
        },
    )
    labels = read_labels(tmp_path / "labels.csv", ["--4gqARaEJE_000000.mp4", "-0RWZT-miFs_000030.mp4"])
    assert labels.by_source == {
        "--4gqARaEJE_000000.mp4": {"label": "/m/068hy,/m/07q6cd_", "split": "train"},
        "-0RWZT-miFs_000030.mp4": {"label": "/m/07rgt08", "split": "test"},
    }


@pytest.mark.parametrize("name", ["ESC-50", "UCF101", "HMDB51", "VGGSound", "AudioSet"])
def test_every_data_set_has_its_command(name):
    section = TEXT.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert "python -m pipeline.prepare " in section
