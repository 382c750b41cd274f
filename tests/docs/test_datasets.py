"""The commands of docs/datasets.md, run as they are printed on small stand-ins for the official files."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from pipeline.prepare.__main__ import main
from pipeline.shards.manifest import Manifest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
KINETICS = "label,youtube_id,time_start,time_end,split\n"
HEAD = "# Segments csv created Sun Mar  5 10:54:25 2017\n# YTID, start_seconds, end_seconds, positive_labels\n"


@pytest.fixture
def run(monkeypatch, tmp_path, raw_videos):
    """Runs the prepare command of a section in a folder with these files; returns sample -> column -> label."""

    def call(heading: str, files: dict[str, str], *, command: int = 0) -> dict[str, dict[str, str]]:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            if content:
                (tmp_path / name).write_text(content)
            else:
                shutil.copy(raw_videos, tmp_path / name)
        section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].replace("\\\n", " ")
        words = shlex.split(re.findall(r"^python -m pipeline\.prepare .*$", section, re.MULTILINE)[command])[3:]
        monkeypatch.chdir(tmp_path)
        assert main([*words, "--workers", "1", "storage.short_side=16", "storage.fps=1", "--labels-may-miss"]) == 0
        manifest = Manifest.open(tmp_path / words[1])
        values = {}
        for column in manifest.label_columns:
            names = [*manifest.label_names(column), ""]
            values[column] = [names[code] for code in manifest.labels(column)]
        return {
            manifest.source(index): {column: values[column][index] for column in values}
            for index in range(len(manifest))
        }

    return call


@pytest.fixture(scope="session")
def raw_videos(tmp_path_factory) -> Path:
    """A video of 3 s with sound."""
    import av
    import numpy as np

    path = tmp_path_factory.mktemp("raw") / "video.mp4"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=5), container.add_stream("aac", rate=16000, layout="mono")
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        video.codec_context.thread_count = 1
        for number in range(15):
            picture = np.full((32, 32, 3), 10 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for place in range(0, 3 * 16000, 1024):
            sound = av.AudioFrame.from_ndarray(np.full((1, 1024), 0.1, np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16000, place
            container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return path


def test_kinetics_finds_trimmed_and_complete_videos(run):
    rows = "playing accordion,a,1,2,train\nmowing lawn,b,0,2,train\ntickling,lost,4,14,train\n"
    files = {"kinetics700/train.csv": KINETICS + rows, "kinetics700/train/b.mp4": ""}
    assert run("Kinetics-400, -600, -700", {**files, "kinetics700/train/x/a_000001_000002.mp4": ""}) == {
        "b.mp4#t=0,2": {"label": "mowing lawn", "split": "train"},
        "x/a_000001_000002.mp4": {"label": "playing accordion", "split": "train"},
    }


def test_kinetics_sounds_takes_its_classes_only(run):
    files = {
        "kinetics400/train.csv": f"{KINETICS}playing accordion,a,1,2,train\nabseiling,c,0,2,train\n",
        "kinetics400/val.csv": f"{KINETICS}mowing lawn,b,1,2,val\n",
    }
    clips = {f"kinetics400/{name}": "" for name in ("train/a_000001_000002.mp4", "c_0_2.mp4", "val/b.mp4")}
    assert run("Kinetics-Sounds", files | clips) == {
        "train/a_000001_000002.mp4": {"label": "playing accordion", "split": "train"},
        "val/b.mp4#t=1,2": {"label": "mowing lawn", "split": "val"},
    }


def test_audioset_has_splits_and_names(run):
    files = {
        "balanced_train_segments.csv": HEAD + '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"\n',
        "eval_segments.csv": HEAD + '-0RWZT-miFs, 30.000, 40.000, "/m/07rgt08"\n',
        "ontology.json": '[{"id": "/m/068hy", "name": "Animals, pets"}, {"id": "/m/07rgt08", "name": "Chuckle"}]',
    }
    clips = {"audioset/segments/--4gqARaEJE_000000.mp4": "", "audioset/segments/Y-0RWZT-miFs_30_40.mp4": ""}
    assert run("AudioSet", files | clips, command=1) == {
        "--4gqARaEJE_000000.mp4": {
            "label": "/m/068hy,/m/07q6cd_",
            "label_name": "Animals, pets;/m/07q6cd_",
            "split": "train",
        },
        "Y-0RWZT-miFs_30_40.mp4": {"label": "/m/07rgt08", "label_name": "Chuckle", "split": "test"},
    }


def test_vggsound(run):
    files = {
        "vggsound.csv": '---g-f_I2yQ,1,"people marching, crowd",test\n',
        "vggsound/videos/---g-f_I2yQ_000001.mp4": "",
    }
    assert run("VGGSound", files) == {"---g-f_I2yQ_000001.mp4": {"label": "people marching, crowd", "split": "test"}}


def test_ucf101_has_all_splits(run):
    first, second = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "Archery/v_Archery_g01_c01.avi"
    lists = {f"ucfTrainTestlist/{part}list0{n}.txt": "\n" for part in ("train", "test") for n in (1, 2, 3)}
    lists |= {
        "ucfTrainTestlist/trainlist01.txt": f"{first} 1\n",
        "ucfTrainTestlist/testlist01.txt": f"{second}\n",
        "ucfTrainTestlist/testlist02.txt": f"{first}\r\n",
    }
    clips = {f"UCF-101/{name.replace('.avi', '.mp4')}": "" for name in (first, second)}
    assert run("UCF101", lists | clips) == {
        first.replace(".avi", ".mp4"): {"label": "ApplyEyeMakeup", "split": "train", "split2": "test", "split3": ""},
        second.replace(".avi", ".mp4"): {"label": "Archery", "split": "test", "split2": "", "split3": ""},
    }


def test_hmdb51_has_all_splits(run):
    names = ("a clip [1].avi", "b.avi")
    splits = {1: "12", 2: "01", 3: "20"}
    lists = {
        f"testTrainMulti_7030_splits/brush_hair_test_split{number}.txt": "".join(
            f"{name} {part} \n" for name, part in zip(names, parts, strict=True)
        )
        for number, parts in splits.items()
    }
    clips = {f"hmdb51/brush_hair/{name.replace('.avi', '.mp4')}": "" for name in names}
    assert run("HMDB51", lists | clips) == {
        "brush_hair/a clip [1].mp4": {"label": "brush_hair", "split": "train", "split2": "", "split3": "test"},
        "brush_hair/b.mp4": {"label": "brush_hair", "split": "test", "split2": "train", "split3": ""},
    }


@pytest.mark.parametrize("name", ["ESC-50", "UCF101", "HMDB51", "VGGSound", "AudioSet"])
def test_every_data_set_has_its_command(name):
    section = TEXT.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert "python -m pipeline.prepare " in section
