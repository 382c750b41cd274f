"""The tables of the documents come from results, and the small benchmarks run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.corpus import SHARDS, shard_settings
from benchmarks.decode_sweep import Point, curves
from benchmarks.report import DOCUMENTS, PLACE, ROOT, TABLES, fill


def test_every_place_in_the_documents_has_a_table_and_is_made_again_as_it_is() -> None:
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        assert {match[1] for match in PLACE.findall(text)} <= set(TABLES)
        assert fill(text, ROOT / "benchmarks" / "results") == text, f"run python benchmarks/report.py: {name} is behind"


def test_a_result_that_is_not_there_leaves_the_table_alone(tmp_path: Path) -> None:
    text = "<!-- table step -->\n| old |\n<!-- end -->"
    assert fill(text, tmp_path) == text
    (tmp_path / "step.json").write_text(json.dumps({"parts": {"selection": 0.25, "whole step": 1.0}}))
    assert "| selection | 250.0 | 25.0% |" in fill(text, tmp_path)


def test_an_unknown_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="unknown table 'stepp'; there are: sampling, decode"):
        fill("<!-- table stepp -->\n<!-- end -->", tmp_path)


def test_each_curve_of_the_sweep_changes_one_setting_of_the_same_case() -> None:
    for (field, codec), points in curves().items():
        assert len({getattr(point, field) for point in points}) == len(points)
        default = Point(codec=codec)
        assert {replace(point, **{field: getattr(default, field)}) for point in points} == {default}
        assert default in points


def test_the_name_of_a_storage_says_how_it_is_prepared() -> None:
    assert shard_settings("h264_144_gop250") is None
    assert shard_settings("shards_jpeg_112") == ["storage.codec=jpeg", "storage.fps=10", "storage.short_side=112"]
    assert shard_settings("shards_vp9_144_gop8")[-1] == "storage.gop=8"
    assert {Point(codec=codec).storage for codec in ("vp9", "jpeg")} == set(SHARDS)
