"""What left a source folder or its list is named; moved files keep their samples; --sync makes both equal."""

from __future__ import annotations

import os
import shutil

import pytest

from pipeline.media.rejection import RejectedSource
from pipeline.prepare import run
from pipeline.prepare.records import PrepareError
from pipeline.prepare.run import prepare_sample
from pipeline.prepare.sources import find_sources, unchanged
from pipeline.prepare.staging import Staging
from pipeline.prepare.summary import print_summary
from tests.pipeline.shards.formats import with_index_lines

NEW = ("sha256", "lines", "crc32c")
"""Keys of index rows that older versions did not write."""


@pytest.fixture
def src(tone, tmp_path, prepare):
    """Five tones in two folders, prepared into shards of two."""
    for number, name in enumerate(("cat/1", "cat/2", "dog/3", "dog/4", "dog/5")):
        tone(tmp_path / "src" / f"{name}.wav", 300 + 100 * number)
    prepare()
    return tmp_path / "src"


ALL = {
    **{"cat/1.wav": (300, "cat"), "cat/2.wav": (400, "cat")},
    **{"dog/3.wav": (500, "dog"), "dog/4.wav": (600, "dog"), "dog/5.wav": (700, "dog")},
}


def without(*names: str) -> dict[str, tuple[int, str]]:
    return {name: value for name, value in ALL.items() if name not in names}


@pytest.mark.parametrize("sync", [False, True])
def test_a_moved_file_keeps_its_sample_under_the_new_name_and_label(src, prepare, found, decoded, sync):
    (src / "dog/3.wav").rename(src / "cat/9.wav")
    summary = prepare(sync=sync)
    assert summary.moved == ["dog/3.wav -> cat/9.wav"]
    assert (summary.gone, decoded) == ([], [])
    assert found() == without("dog/3.wav") | {"cat/9.wav": (500, "cat")}
    assert prepare(sync=sync).moved == []


def test_files_that_exchange_their_names_exchange_their_samples(src, prepare, found, decoded):
    (src / "cat/1.wav").rename(src / "x.wav")
    (src / "dog/5.wav").rename(src / "cat/1.wav")
    (src / "x.wav").rename(src / "dog/5.wav")
    os.utime(src / "cat/1.wav", (1, 1))
    prepare()
    assert decoded == []
    assert found() == ALL | {"cat/1.wav": (700, "cat"), "dog/5.wav": (300, "dog")}


def test_rows_of_older_versions_are_followed_by_size_and_time(src, prepare, found, decoded, tmp_path):
    for number, name in enumerate(ALL):
        os.utime(src / name, (number // 2, number // 2))
    prepare()
    with_index_lines(tmp_path / "out", drop=NEW)
    (src / "dog/5.wav").rename(src / "cat/9.wav")  # the only file of its size and time
    (src / "cat/1.wav").rename(src / "cat/8.wav")  # another file has the same
    summary = prepare()
    assert (summary.moved, decoded) == (["dog/5.wav -> cat/9.wav"], ["cat/8.wav"])
    assert summary.gone == ["cat/1.wav"]
    assert found() == without("dog/5.wav") | {"cat/8.wav": (300, "cat"), "cat/9.wav": (700, "cat")}


def test_a_copy_is_a_sample_of_its_own(src, prepare, found, decoded):
    shutil.copy2(src / "dog/3.wav", src / "cat/9.wav")
    summary = prepare()
    assert (summary.moved, decoded) == ([], ["cat/9.wav"])
    assert found() == ALL | {"cat/9.wav": (500, "cat")}


def test_a_deleted_file_is_named_and_leaves_only_with_sync(src, prepare, found, tmp_path, capsys):
    (src / "dog/3.wav").unlink()
    summary = prepare()
    print_summary(summary, tmp_path)
    assert "no longer in the source folder, kept; --sync removes: 1 (dog/3.wav)" in capsys.readouterr().out
    assert found() == ALL
    summary = prepare(sync=True)
    assert (summary.gone, summary.removed) == (["dog/3.wav"], 1)
    assert found() == without("dog/3.wav")
    assert prepare().gone == []


def test_a_shard_without_samples_is_removed_and_its_name_not_used_again(src, prepare, found, tone, tmp_path):
    (src / "cat/1.wav").unlink()
    (src / "cat/2.wav").unlink()
    prepare(sync=True)
    tone(src / "cat/7.wav", 900)
    prepare()
    assert found() == without("cat/1.wav", "cat/2.wav") | {"cat/7.wav": (900, "cat")}
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == [f"shard-00000{i}.tar" for i in (1, 2, 3)]


def test_a_replaced_file_keeps_its_old_label_until_it_is_prepared_again(src, prepare, found, tone, decoded):
    listing = "path,label\n" + "".join(f"{name},{label}\n" for name, (_, label) in ALL.items())
    shutil.rmtree(src.parent / "out")
    prepare(labels=listing)
    tone(src / "dog/4.wav", 2000)
    changed = listing.replace("dog/4.wav,dog", "dog/4.wav,wolf")
    summary = prepare(labels=changed)
    assert (summary.replaced, found(), decoded) == (["dog/4.wav"], ALL, [])
    summary = prepare(labels=changed, sync=True)
    assert (decoded, summary.removed) == (["dog/4.wav"], 1)
    assert found() == ALL | {"dog/4.wav": (2000, "wolf")}
    assert prepare(labels=changed).replaced == []


def test_a_source_without_its_row_is_named_and_loses_its_label_with_sync(src, prepare, found):
    listing = "path,label\n" + "".join(f"{name},{label}\n" for name, (_, label) in ALL.items())
    shutil.rmtree(src.parent / "out")
    prepare(labels=listing.replace("dog/4.wav,dog", "dog/4.wav,wolf"))
    prepare(labels=listing)
    shorter = listing.replace("dog/4.wav,dog\n", "")
    assert (prepare(labels=shorter).unlisted, found()) == (["dog/4.wav"], ALL)
    assert prepare(labels=shorter, sync=True).unlisted == ["dog/4.wav"]
    assert found() == ALL | {"dog/4.wav": (600, "")}
    assert prepare(labels=shorter).unlisted == []


def test_most_files_leave_only_if_the_user_says_so(src, prepare, found):
    shutil.rmtree(src / "dog")
    with pytest.raises(PrepareError, match=r"3 of 5 files .* are gone .* --sync-all"):
        prepare(sync=True)
    assert found() == ALL
    prepare(sync_all=True)
    assert found() == without("dog/3.wav", "dog/4.wav", "dog/5.wav")
    shutil.rmtree(src / "cat")
    with pytest.raises(PrepareError, match="holds no file"):
        prepare(sync=True)
    assert prepare(sync_all=True).totals.samples == 0


def test_files_of_a_folder_that_cannot_be_listed_stay(src, prepare, found, monkeypatch):
    scandir = os.scandir

    def failing(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    summary = prepare(sync=True)
    assert (summary.gone, summary.rejected) == ([], {"cannot be read": 1})
    assert found() == ALL


def test_parts_see_the_files_of_other_parts(src, prepare, found, decoded):
    shutil.rmtree(src.parent / "out")
    for index in range(2):
        prepare(part=(index, 2))
    assert found() == ALL
    (src / "dog/3.wav").rename(src / "cat/9.wav")
    (src / "dog/5.wav").unlink()
    for index in range(2):
        assert prepare(part=(index, 2), sync=True).removed == (1 if index == 0 else 0)
        assert decoded == []
    assert found() == without("dog/3.wav", "dog/5.wav") | {"cat/9.wav": (500, "cat")}


def test_a_kill_at_any_step_of_sync_and_a_second_run_give_the_same(src, prepare, found, tone, monkeypatch, tmp_path):
    (src / "dog/3.wav").rename(src / "cat/9.wav")
    (src / "cat/1.wav").unlink()
    (src / "cat/2.wav").unlink()
    tone(src / "dog/4.wav", 2000)
    shutil.copytree(tmp_path / "out", tmp_path / "before")
    right = {"cat/9.wav": (500, "cat"), "dog/4.wav": (2000, "dog"), "dog/5.wav": (700, "dog")}
    places = [(run.Follower, "begin"), (Staging, "pack"), (run.Follower, "finish"), (run, "publish")]
    places += [(run, "remove_empty_shards")]
    for owner, name in places:
        for after in (False, True):
            step = getattr(owner, name)

            def killed(*args, step=step, after=after, **kwargs):
                if after:
                    step(*args, **kwargs)
                raise KeyboardInterrupt

            shutil.rmtree(tmp_path / "out")
            shutil.copytree(tmp_path / "before", tmp_path / "out")
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, killed)
                with pytest.raises(KeyboardInterrupt):
                    prepare(sync=True)
            assert set(found().values()) <= set(ALL.values()) | set(right.values())
            prepare(sync=True)
            assert found() == right, (name, after)
            assert not (tmp_path / "out/.staging").exists()


def test_a_file_that_changes_after_it_was_listed_is_not_used(src, tone, tmp_path):
    (source,) = (source for source in find_sources(src)[0] if source.name == "dog/3.wav")
    tone(source.path, 2000)
    task = run.SampleTask(source=source, fragment=tmp_path / "sample.tar", labels={})
    with pytest.raises(RejectedSource, match="changed while being read"):
        prepare_sample(task, config=None)
    source.path.unlink()
    with pytest.raises(RejectedSource, match="changed while being read"):
        prepare_sample(task, config=None)


def test_a_file_replaced_while_being_read_is_tried_again_by_the_next_run(src, prepare, found, monkeypatch, tone):
    path = tone(src / "cat/8.wav", 1000)
    status = path.stat()

    def replaced(media_path, config):
        path.unlink()
        tone(path, 1500)
        os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))  # as `mv` of a file of the same time
        raise RejectedSource("truncated or damaged")

    with monkeypatch.context() as patch:
        patch.setattr(run, "normalise", replaced)
        assert prepare().rejected == {"changed while being read": 1}
    assert prepare().prepared == 1
    assert found() == ALL | {"cat/8.wav": (1500, "cat")}


def test_an_unreadable_file_is_not_hashed(src, monkeypatch):
    (source,) = (source for source in find_sources(src)[0] if source.name == "dog/3.wav")

    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pipeline.prepare.sources.file_sha256", fail)
    with pytest.raises(RejectedSource, match="cannot be read: Input/output error"), unchanged(source):
        pass
