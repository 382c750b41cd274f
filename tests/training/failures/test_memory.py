"""Out of memory: the run ends with its peak memory and the settings to change, wherever memory ran out."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import pytest
import torch

import train
from tests.training.small_run import OVERRIDES, small_config
from training.memory import explain_out_of_memory, is_out_of_memory
from training.step import Learner


def gpu_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of ...")


def torch_on_a_cpu():
    torch.empty(2**50, dtype=torch.uint8)


def python():
    raise MemoryError


def dali_on_a_gpu():
    raise RuntimeError(
        "Critical error in pipeline:\nError in GPU operator `nvidia.dali.fn.resize`, encountered:\n\n"
        "Can't allocate 202375168 bytes on device 0.\nCurrent pipeline object is no longer valid."
    )


def something_else():
    raise RuntimeError("shapes do not fit")


def main_with(monkeypatch, shards, run_dir, failure):
    def step(*args):
        failure()

    small = ["train.batch_size=4", "data.threads=1", "train.threads=1", "dictionary.size=8", "pool.size=20"]
    more = [*OVERRIDES, *small, f"data.path={shards}", f"run_dir={run_dir}"]
    monkeypatch.setattr(Learner, "step", step)
    monkeypatch.setattr(sys, "argv", ["train.py", *more])
    return train.main()


@pytest.mark.parametrize("failure", [gpu_is_full, torch_on_a_cpu, python, dali_on_a_gpu])
def test_a_run_ends_with_its_peak_and_the_settings_to_change(demo_shards, tmp_path, monkeypatch, capsys, failure):
    assert main_with(monkeypatch, demo_shards, tmp_path / "run", failure) == 2
    message = capsys.readouterr().err.partition("train.py: ")[2]
    assert float(re.match(r"out of memory \(peak ([\d.]+) GiB resident of", message)[1]) > 0.1
    for line in ("train.recompute=true", "data.prefetch=1 (now 2)", "clip.frames=2 (now 4)", "pool.size=10 (now 20)"):
        assert f"\n  {line}" in message


def test_other_errors_keep_their_traceback(demo_shards, tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main_with(monkeypatch, demo_shards, tmp_path / "run", something_else)


def test_the_first_line_of_the_reason_is_kept():
    with pytest.raises(torch.OutOfMemoryError) as caught:
        gpu_is_full()
    assert is_out_of_memory(caught.value)
    message = explain_out_of_memory(small_config(), caught.value)
    assert "): CUDA out of memory. Tried to allocate 2.00 GiB.\n" in message
    assert "total capacity" not in message


def test_only_settings_that_can_still_be_lowered_are_named():
    free = explain_out_of_memory(small_config("train.precision=fp32"), MemoryError())
    assert "train.accumulate=2 (now 1)" in free
    assert "train.precision=bf16 (now fp32)" in free
    lowered = small_config("train.recompute=true", "data.prefetch=1", "train.accumulate=4", "train.batch_size=8")
    message = explain_out_of_memory(lowered, MemoryError())
    for setting in ("train.recompute", "data.prefetch", "train.accumulate", "train.precision"):
        assert setting not in message
    assert "train.batch_size=4 (now 8" in message


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_that_a_step_frees_is_reused_by_the_next_one():
    script = """
import resource, torch
from training.process import keep_freed_memory
def step():
    tensors = [torch.ones(2_000_000) for _ in range(8)]
keep_freed_memory()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # of some 150,000 pages
