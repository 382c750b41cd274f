"""The model of docs/scale.md agrees with what was measured, and the measurements with what the page promises."""

from __future__ import annotations

import pytest

from benchmarks.tools.result import read
from benchmarks.tools.scale import model
from common.environment import ROOT
from pipeline.shards.manifest import COLUMNS
from settings import StorageConfig

RESULTS = ROOT / "benchmarks" / "results"
NODE = read(RESULTS / "node_scaling.json")


def test_ten_million_samples_open_within_a_second_and_a_gibibyte_per_machine() -> None:
    record = model.node(NODE, 10_000_000, 8)
    assert record["opening_megabytes"] * 1e6 < 2**30
    assert record["opening_cpu_seconds"] < 1


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_model_of_memory_agrees_with_ten_million_samples(processes: int) -> None:
    measured = model.node(NODE, 10_000_000, processes)["opening_megabytes"]
    assert model.opening_megabytes(NODE, 10_000_000, processes) == pytest.approx(measured, rel=0.3)


def test_the_model_grows_with_the_samples() -> None:
    for figure in (model.private_megabytes, model.opening_megabytes, model.opening_seconds):
        few, many = figure(NODE, 10_000_000), figure(NODE, 1_000_000_000)
        assert 0 < few < many < 101 * few


def test_the_model_of_bytes_per_clip_agrees_with_the_loader() -> None:
    decode = read(RESULTS / "decode.json")
    for record in decode["records"]:
        if record["loader"] == "ours":
            codec, rate = record["storage"].split("_")[1], decode["storage"][record["storage"]]["kilobytes_per_second"]
            modelled = model.clip_kilobytes(rate, codec, frames=16, seconds=1.6)
            assert modelled == pytest.approx(record["kilobytes_read_per_clip"], rel=0.1)


def test_the_constants_of_the_model_are_those_of_the_code() -> None:
    assert model.SCANNED["frames"] == COLUMNS["frames"]().nbytes
    assert model.SCANNED["audio_samples"] == COLUMNS["audio_samples"]().nbytes
    assert StorageConfig().gop == model.GOP
    assert StorageConfig().fps == model.FPS
    for name, side in model.STORED.items():
        said = (ROOT / f"configs/{name}.yaml").read_text()
        assert f"storage.short_side={side}" in said
