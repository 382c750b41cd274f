"""Tests of `run_all --gpu-minutes`: a rehearsal on the CPU, and how parts end that fail or take too long."""

import json
import time
from pathlib import Path

import pytest

from benchmarks import run_all
from benchmarks.tools import gpu_session
from benchmarks.tools.gpu_session import Part, gpu_parts, run_session
from common.environment import ROOT


def statuses(out: Path) -> dict[str, str]:
    return {part["name"]: part["status"] for part in json.loads((out / "session.json").read_text())["parts"]}


def test_a_rehearsal_on_the_cpu_runs_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The sweep is a longer form of decode_gpu.
    monkeypatch.setattr(run_all, "gpu_parts", lambda *args, **options: gpu_parts(*args, **options)[:-1])
    out = tmp_path / "results"
    assert run_all.main(["--gpu-minutes", "5", "--stand-in", "--out", str(out)]) == 0
    assert set(statuses(out).values()) == {"passed"}
    assert json.loads((out / "step_gpu.json").read_text())["environment"]["gpus"] == 0
    assert json.loads((out / "decode_gpu.json").read_text())["records"]
    assert json.loads((out / "sampling_gpu.json").read_text())["records"]


def test_a_session_that_is_over_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Stands for a part that starts processes, hangs and ignores SIGTERM.
    hang = tmp_path / "hang.py"
    hang.write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.fork()\n"
        f"open({str(tmp_path)!r} + f'/{{os.getpid()}}.pid', 'w').close()\n"
        "print('so far', flush=True)\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setattr(gpu_session, "_END_SECONDS", 0.2)
    there = tmp_path / "there"
    there.touch()
    parts = [
        Part(name="made", arguments=["json.tool", "--help"], most_seconds=60, makes=there),
        Part(name="good", arguments=["json.tool", "--help"], most_seconds=60),
        Part(name="bad", arguments=["no_such_module"], most_seconds=60),
        Part(name="hangs", arguments=["hang"], most_seconds=2),
        Part(name="late", arguments=["json.tool", "--help"], most_seconds=0),
    ]
    environ = {"PYTHONPATH": str(tmp_path)}
    run_session(parts, seconds=100, out=tmp_path / "out", environ=environ)
    assert statuses(tmp_path / "out") == {
        "made": "not needed",
        "good": "passed",
        "bad": "failed (exit status 1)",
        "hangs": "ended after 2 s",
        "late": "skipped (no time was left)",
    }
    assert "usage" in (tmp_path / "out" / "logs" / "good.txt").read_text()
    assert (tmp_path / "out" / "logs" / "hangs.txt").read_text().startswith("so far")
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert pids
    deadline = time.monotonic() + 5
    while any((Path("/proc") / str(pid)).exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended but was not waited for does not."""
    try:
        return ") Z" not in (Path("/proc") / str(pid) / "stat").read_text()
    except FileNotFoundError:
        return False


def test_without_a_gpu_the_message_names_the_rehearsal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if run_all.torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert run_all.main(["--gpu-minutes", "5", "--out", str(tmp_path / "out")]) == 2
    assert "--stand-in rehearses" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_tests_that_need_a_gpu_are_there() -> None:
    assert all((ROOT / path).is_file() for path in gpu_session.GPU_TESTS)


def test_every_test_file_that_skips_without_a_gpu_is_run() -> None:
    skipping = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "skipif(not " + "torch.cuda" in path.read_text()
    }
    assert skipping <= set(gpu_session.GPU_TESTS)
