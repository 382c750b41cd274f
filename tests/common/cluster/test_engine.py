"""Options of the engine are checked in words before anything slow; Ray is imported only when it is asked for."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.cluster import engine
from common.cluster.engine import ClusterError, RayEngine, add_engine_options, ray_engine
from common.environment import MissingPackage

ROOT = Path(__file__).resolve().parents[3]


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_engine_options(parser, task="file", cores="1")
    return parser.parse_args(arguments)


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "missing_packages", lambda *names: [])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_without_options_this_machine_works():
    assert ray_engine(parsed()) is None


def test_options_of_a_cluster_need_the_engine():
    with pytest.raises(ClusterError, match=r"^--address and --task-cpus only go with --engine ray$"):
        ray_engine(parsed("--address", "auto", "--task-cpus", "2"))


def test_a_missing_ray_is_said_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(engine, "missing_packages", lambda *names: list(names))
    with pytest.raises(
        MissingPackage, match=r"not installed; install it with: pip install -r requirements-cluster\.txt$"
    ):
        ray_engine(parsed("--engine", "ray"))
    assert "ray==" in (ROOT / "requirements-cluster.txt").read_text()


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:", ":6379", "head:99999"])
def test_an_address_of_another_kind_is_refused(address, with_ray):
    with pytest.raises(ClusterError, match=r"^--address must be HOST:PORT"):
        ray_engine(parsed("--engine", "ray", "--address", address))


def test_an_address_at_which_nothing_answers_is_refused(with_ray):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(
            ClusterError, match=rf"^no Ray cluster answers at 127\.0\.0\.1:{port} \(Connection refused\)"
        ):
            ray_engine(parsed("--engine", "ray", "--address", f"127.0.0.1:{port}"))


def test_a_submitted_job_finds_its_cluster_in_the_environment(with_ray, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        wanted = RayEngine(address=address, cpus=2, memory_mb=500, most=3)
        assert ray_engine(parsed("--engine", "ray", "--task-cpus", "2", "--task-memory", "500"), most=3) == wanted


@pytest.mark.parametrize("module", ["pipeline.prepare.run", "search.embed.run"])
def test_ray_is_not_imported_before_it_is_asked_for(module):
    code = f"import sys, {module}; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0
