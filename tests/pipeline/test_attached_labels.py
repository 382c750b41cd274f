"""The command `pipeline.labels`, and rows that become clear only when other files are rejected."""

from __future__ import annotations

import wave

import pytest

from pipeline.labels import main
from pipeline.prepare.run import prepare
from pipeline.shards.manifest import Manifest
from settings import PrepareConfig

CONFIG = PrepareConfig(streams="audio")


def labels_of(out):
    """Source -> column -> text or None."""
    manifest = Manifest.open(out)
    found = {manifest.source(index): {} for index in range(len(manifest))}
    for column in manifest.label_columns:
        for values, code in zip(found.values(), manifest.labels(column), strict=True):
            values[column] = manifest.label_names(column)[code] if code >= 0 else None
    return found


def write_sound(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(range(250)) * 64)


@pytest.fixture
def out(tmp_path):
    """Three prepared sounds, labelled by their folders, and a damaged one."""
    for name in ("cat/1.wav", "cat/2.wav", "dog/3.wav"):
        write_sound(tmp_path / "src" / name)
    (tmp_path / "src/dog/4.wav").write_bytes(b"RIFF")
    prepare(tmp_path / "src", tmp_path / "out", config=CONFIG, workers=1)
    return tmp_path / "out"


def attach(out, text, *options):
    path = out.parent / "labels.csv"
    path.write_text(text)
    return main([str(out), str(path), *options])


def test_labels_are_added_and_changed_and_a_later_run_keeps_them(out, capsys):
    shards = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    assert attach(out, "path,label,split\n1,lion,train\ndog/3,,test\ndog/4,x,y\ncat/9,x,y\n") == 0
    right = {
        "cat/1.wav": {"label": "lion", "split": "train"},
        "cat/2.wav": {"label": "cat", "split": None},
        "dog/3.wav": {"label": None, "split": "test"},
    }
    assert labels_of(out) == right
    printed = capsys.readouterr().out
    assert "rows without a file: 1\n  line 5: 'cat/9'" in printed
    assert "files without a row: 1\n  'cat/2.wav'" in printed
    assert attach(out, "path,split\ncat/1,test\ncat/2,val\n") == 0
    right["cat/1.wav"]["split"], right["cat/2.wav"]["split"] = "test", "val"
    assert labels_of(out) == right

    write_sound(out.parent / "src/dog/5.wav")
    summary = prepare(out.parent / "src", out, config=CONFIG, workers=1)
    assert labels_of(out) == right | {"dog/5.wav": {"label": "dog", "split": None}}
    assert summary.totals.attached == 3
    assert shards.items() <= {path.name: path.read_bytes() for path in out.glob("*.tar")}.items()


def test_a_list_of_other_samples_changes_nothing(out, capsys):
    before = labels_of(out)
    assert attach(out, "path,label\nother/1,x\nother/2,y\n") == 2
    assert "none of its 2 rows names a file" in capsys.readouterr().err
    assert labels_of(out) == before
    assert attach(out, "path,label\ncat/1,x\n") == 2
    assert attach(out, "path,label\ncat/1,x\n", "--labels-may-miss") == 0
    assert labels_of(out)["cat/1.wav"] == {"label": "x"}
    assert labels_of(out)["cat/2.wav"] == {"label": "cat"}


def test_damaged_folders_are_refused_in_one_line(out, tmp_path, capsys):
    assert attach(tmp_path, "path,label\nx,y\n") == 2
    attach(out, "path,split\n1,a\n2,b\n")
    (out / "labels.jsonl").write_text('{"columns": ["split"]}\n{"source": 3}\n')
    assert attach(out, "path,split\n1,a\n2,b\n") == 2
    next(out.glob("index/*.rows")).unlink()
    assert attach(out, "path,split\n1,a\n2,b\n") == 2
    lines = capsys.readouterr().err.splitlines()
    for line, part in zip(lines, ("holds no manifest", "labels.jsonl is damaged", "is missing, and"), strict=True):
        assert part in line


def test_of_two_files_with_one_name_the_row_means_the_one_that_becomes_a_sample(tmp_path):
    write_sound(tmp_path / "src/1.wav")
    (tmp_path / "src/1.webm").write_text("<html>a preview that is no use</html>")
    (tmp_path / "labels.csv").write_text("path,label\n1,A\n")
    summary = prepare(tmp_path / "src", tmp_path / "out", config=CONFIG, labels_path=tmp_path / "labels.csv", workers=1)
    assert labels_of(tmp_path / "out") == {"1.wav": {"label": "A"}}
    assert summary.rows_without_file == 0
