"""On the nodes of a Ray cluster commands give the same bytes as on one machine, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.cluster.engine import ClusterError, RayEngine
from common.cluster.shared import SharedFolder, shared_output
from common.cluster.tasks import TaskDied, run_on_ray
from pipeline.prepare.run import SampleTask, prepare, prepare_sample
from pipeline.prepare.segments.options import Annotations
from pipeline.prepare.sources import find_sources
from pipeline.prepare.workers.on_ray import run_tasks_on_ray
from search.embed.run import embed
from settings import PrepareConfig
from settings.load import from_dict
from settings.search import EmbedConfig
from tests.pipeline.prepare.conftest import flat, tone, write_media
from tests.search.conftest import save_run

ray = pytest.importorskip("ray")
ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"storage": {"fps": 10, "short_side": 32}, "shard_samples": 8}
OVERRIDES = ["storage.fps=10", "storage.short_side=32", "shard_samples=8"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that runs no tasks, and two nodes of one core each."""
    with pytest.MonkeyPatch.context() as patch:
        # A dead node is noticed sooner than by default.
        for name, value in {"period_ms": 300, "failure_threshold": 2, "initial_delay_ms": 0}.items():
            patch.setenv(f"RAY_health_check_{name}", str(value))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            started.add_node(num_cpus=1)
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 videos of one second, and a broken one."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(30):
        frames = [(index / 10, flat(50 + number + index)) for index in range(10)]
        write_media(folder / f"{number:02}.mp4", frames=frames, sound=[(0.0, tone(1.0))])
    (folder / "broken.mp4").write_bytes((folder / "00.mp4").read_bytes()[:900])
    return folder


def start(src: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "pipeline.prepare", str(src), str(out), *OVERRIDES, *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def test_a_node_and_the_driver_die_and_nothing_differs_from_one_machine(videos, tmp_path, cluster):
    prepare(videos, tmp_path / "local", config=from_dict(PrepareConfig, SETTINGS), workers=1)
    out = tmp_path / "out"

    def made() -> int:
        return 8 * len(list(out.glob("shard-*.tar"))) + len(list((out / ".staging/part").glob("*.tar")))

    options = ("--engine", "ray", "--address", cluster.address)
    process = start(videos, out, *options)
    wait_for(lambda: made() >= 3, process)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    wait_for(lambda: made() >= 10, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    again = start(videos, out, *options)
    printed = again.communicate(timeout=120)[0]
    assert again.returncode == 0, printed
    assert contents(out) == contents(tmp_path / "local")


@pytest.mark.parametrize("windows", [0.0, 0.4])
def test_segments_and_windows_are_those_of_one_machine(videos, tmp_path, cluster, windows):
    (tmp_path / "list.csv").write_text(
        "path,start,end,label\n01,0,0.4,a\n01,0.5,0.9,b\n02,0.2,1,c\n02,5,6,d\nbroken,0,1,e\n"
    )
    config = from_dict(PrepareConfig, {**SETTINGS, "min_seconds": 0.3, "windows": windows})
    lists = {"config": config, "workers": 1, "annotations": Annotations(paths=(tmp_path / "list.csv",))}
    prepare(videos, tmp_path / "local", **lists)
    summary = prepare(videos, tmp_path / "out", engine=RayEngine(address=cluster.address), **lists)
    assert summary.prepared == (4 if windows else 3)
    found, expected = (contents(tmp_path / name) for name in ("out", "local"))
    log = "index/part.rejected"  # in the order in which the tasks end
    assert sorted(found.pop(log).splitlines()) == sorted(expected.pop(log).splitlines())
    assert found == expected


def test_parts_of_embeddings_are_those_of_one_machine(videos, tmp_path, cluster):
    run, config = save_run(tmp_path / "run"), EmbedConfig(device="cpu", part_files=16, batch_size=4, clips=1)
    embed(run, videos, tmp_path / "local", config=config)
    meta = embed(run, videos, tmp_path / "out", config=config, engine=RayEngine(address=cluster.address))
    assert meta is not None
    assert (meta["rows"], meta["unreadable"], meta["parts"]) == (30, 1, 2)
    assert contents(tmp_path / "out") == contents(tmp_path / "local")


def test_files_that_nodes_cannot_write_are_carried(videos, tmp_path, cluster):
    config = from_dict(PrepareConfig, SETTINGS)
    sources = [source for source in find_sources(videos)[0] if source.name in ("03.mp4", "broken.mp4")]
    tasks = [SampleTask(source=one, fragment=tmp_path / f"{one.key}.tar", labels={}) for one in sources]
    engine, limits = RayEngine(address=cluster.address), {"timeout_seconds": 60.0, "memory_mb": 4096}
    work = partial(prepare_sample, config=config)
    results = run_tasks_on_ray(work, tasks, engine=engine, shared=(), carry=True, **limits)
    errors = {task.source.name: error for task, error in results}
    assert errors["03.mp4"] is None
    assert str(errors["broken.mp4"]).startswith("truncated or damaged")
    carried = tasks[0].fragment.read_bytes()
    prepare_sample(tasks[0], config=config)
    assert carried == tasks[0].fragment.read_bytes()
    assert not tasks[1].fragment.exists()


def test_deaths_errors_and_missing_folders_have_words(tmp_path, cluster):
    engine = RayEngine(address=cluster.address)
    (dead,) = run_on_ray(os._exit, [3], engine=engine)
    assert isinstance(dead[1].error, TaskDied)
    (failed,) = run_on_ray(int, ["x"], engine=engine)
    assert isinstance(failed[1].error, ValueError)
    assert "127.0.0.1" in failed[1].node or "." in failed[1].node
    limits = {"engine": engine, "timeout_seconds": 0.5, "memory_mb": 512}
    with shared_output(tmp_path) as seen:
        results = dict(run_tasks_on_ray(time.sleep, [0.01, 60.0], shared=(seen,), **limits))
        assert results[0.01] is None
        assert str(results[60.0]) == "timed out: took longer than timeout_seconds=0.5"
        ((_, error),) = run_tasks_on_ray(bytearray, [3 << 30], shared=(seen,), **limits)
        assert str(error) == "out of memory: needs more than memory_mb=512"
        other = seen._replace(content="of another disk")
        with pytest.raises(ClusterError, match=r"^node .+ sees another folder at /.+ than this machine"):
            list(run_tasks_on_ray(time.sleep, [0.01], shared=(other,), **limits))
    missing = SharedFolder(tmp_path / "unmounted", (tmp_path / "unmounted/a",))
    with pytest.raises(ClusterError, match=r"^node .+ does not see the folder /.+unmounted; mount it"):
        list(run_tasks_on_ray(time.sleep, [0.01], shared=(missing,), **limits))


def test_sigterm_ends_a_ray_that_was_started_for_the_command(videos, tmp_path):
    process = start(videos, tmp_path / "out", "--engine", "ray")
    wait_for(lambda: any((tmp_path / "out/.staging/part").glob("*.tar")), process)
    session = {int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _is_of(path, process.pid)}
    assert len(session) > 4
    process.terminate()
    assert "stopped by SIGTERM" in process.communicate(timeout=30)[0]
    assert process.returncode == 75
    deadline = time.monotonic() + 10
    while any(_is_alive(pid) for pid in session):
        assert time.monotonic() < deadline, [pid for pid in session if _is_alive(pid)]
        time.sleep(0.05)


def _is_of(path: Path, ancestor: int) -> bool:
    """Whether the process is a descendant of `ancestor`."""
    process = int(path.parent.name)
    while process > 1:
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        if process == ancestor:
            return True
    return False


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
