"""A small part of what `python -m tests.force` runs, and tests of how it counts."""

from __future__ import annotations

import errno
import hashlib
import json
import random

import pytest

from pipeline.prepare import staging
from pipeline.prepare.records import PrepareError
from pipeline.prepare.run import prepare
from pipeline.shards.meta import meta_file, sealed
from settings import PrepareConfig, load_config
from tests.force import campaign, flips, report
from tests.force.cases import World, folder_differences
from tests.force.prepare_kills import kill_workers
from tests.force.programs import kill, run_command
from tests.fuzz import originals
from training.checkpoint import read

SETTINGS = ["storage.short_side=32", "storage.gop=4", "shard_samples=3"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Five tiny videos (`videos`), prepared as `vp9` and `jpeg`."""
    folder = tmp_path_factory.mktemp("force")
    originals.prepared(folder)
    return folder


@pytest.mark.parametrize("what", ["shard", "array", "meta.json"])
def test_a_flipped_bit_of_a_data_set_is_named_or_harmless(tiny, what):
    shards, rng = tiny / "jpeg", random.Random(what)
    expected = flips.read_everything(shards)
    for _ in range(20):
        path = rng.choice(flips.targets(what, shards, tiny))
        offset, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        with flips.flipped(path, offset, bit):
            outcome = flips.verdict(f"{path.name} {offset}.{bit}", lambda: flips.read_everything(shards), expected)
        assert outcome.verdict == "kept", outcome.detail
    assert flips.differences(expected, flips.read_everything(shards)) == []


def test_a_flipped_bit_of_a_checkpoint_is_named_or_harmless(tmp_path):
    path, rng = tmp_path / "step-000000003.pt", random.Random("checkpoint")
    path.write_bytes(originals.checkpoint())
    checksum = path.with_name(path.name + ".sha256")
    checksum.write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    expected = read(path)
    for target in [*[path] * 15, *[checksum] * 5]:
        offset, bit = rng.randrange(target.stat().st_size), rng.randrange(8)
        with flips.flipped(target, offset, bit):
            outcome = flips.verdict(f"{target.name} {offset}.{bit}", lambda: read(path), expected)
        assert outcome.verdict == "kept", outcome.detail


def test_another_label_is_a_difference():
    assert flips.differences({"labels": ["a"], "clock": 1.0}, {"labels": ["b"], "clock": 1.0}) == ["labels"]


def test_the_name_of_a_version_is_no_difference_but_a_broken_seal_is(tmp_path):
    for folder, version in (("a", "1"), ("b", "2")):
        (tmp_path / folder / "manifest").mkdir(parents=True)
        meta_file(tmp_path / folder).write_text(sealed({"samples": 5, "version": version}))
    assert folder_differences(tmp_path / "a", tmp_path / "b") == []
    text = meta_file(tmp_path / "b").read_text()
    for other in (sealed({"samples": 6, "version": "2"}), text.replace('"2"', '"3"')):
        meta_file(tmp_path / "b").write_text(other)
        assert folder_differences(tmp_path / "a", tmp_path / "b") == ["manifest/meta.json"]


def test_a_killed_worker_loses_nothing(tiny, tmp_path):
    settings = [*SETTINGS, "storage.codec=jpeg"]
    arguments = ["-m", "pipeline.prepare", str(tiny / "videos"), str(tmp_path / "out"), "--workers", "1", *settings]
    program = run_command([*arguments, "--labels", str(tiny / "labels.csv")], tmp_path / "log")
    try:
        hits = kill_workers(program, tmp_path / "out", random.Random(39), kills=1, at_once=True)
        assert program.wait(60) == 0, program.output()
    finally:
        kill(program)
    assert hits.total() == 1
    assert folder_differences(tiny / "jpeg", tmp_path / "out") == []


def test_a_disk_that_is_full_while_a_shard_is_packed_is_named_and_the_next_run_finishes(tiny, tmp_path, monkeypatch):
    def run():
        config = load_config(PrepareConfig, overrides=[*SETTINGS, "storage.codec=jpeg"])
        prepare(tiny / "videos", tmp_path / "out", config=config, labels_path=tiny / "labels.csv", workers=1)

    def full(path, fragments):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(staging, "write_shard", full)
        with pytest.raises(PrepareError, match=f"{tmp_path / 'out'}.*No space left on device"):
            run()
    run()
    assert folder_differences(tiny / "jpeg", tmp_path / "out") == []


def test_results_are_resumed_after_an_incomplete_line_and_counted_per_kind(tmp_path):
    lines = [
        campaign.Record("group", 0, number, verdict, 5, 2.0, "") for number, verdict in enumerate(["kept", "lost"])
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line.__dict__) + "\n" for line in lines) + '{"kind": "gro')
    assert campaign.read_records(path) == lines
    (row,) = report.summary(campaign.read_records(path))["rows"]
    assert {key: row[key] for key in ("tried", "cases", "kept", "lost", "silent", "seconds")} == {
        **{"tried": 10, "cases": 2, "kept": 1, "lost": 1, "silent": 0, "seconds": 4}
    }


def test_the_table_of_the_page_is_that_of_the_committed_summary():
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.filled(page, json.loads(report.SUMMARY.read_text(encoding="utf-8"))) == page


def test_every_kind_has_its_functions():
    for name, kind in campaign.KINDS.items():
        module = __import__(f"tests.force.{kind.module}", fromlist=[kind.function])
        assert callable(getattr(module, kind.function)), name
        assert hasattr(module, kind.needs) or hasattr(World, kind.needs), name
