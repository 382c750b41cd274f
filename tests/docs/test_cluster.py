"""The scripts in slurm/ with stand-ins for SLURM's commands, and the form of the files in kubernetes/."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
status=0
for rank in 0 1 2 3; do
  SLURM_PROCID=$rank SLURM_LOCALID=$((rank % 2)) "$@" || status=$?
done
exit $status
"""
SCONTROL = """#!/usr/bin/env bash
if [[ "$1" == show ]]; then printf 'node7\\nnode8\\n'; else echo "$@" >> requeued; fi
"""
TRAIN = """#!/usr/bin/env bash
printf '%s ' "$RANK/$WORLD_SIZE" "$LOCAL_RANK/$LOCAL_WORLD_SIZE" "$MASTER_ADDR" >> tasks
printf '%s\\n' "$*" >> tasks
exit STATUS
"""


def _sbatch(folder: Path, *, status: int) -> int:
    programs = {"srun": SRUN, "scontrol": SCONTROL, "train": TRAIN.replace("STATUS", str(status))}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": str(folder / "train"),
        "SLURM_JOB_ID": "41",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_CPUS_PER_TASK": "12",
    }
    command = ["bash", str(ROOT / "slurm" / "train.sbatch"), "--config", "a b.yaml", "seed=3"]
    return subprocess.run(command, cwd=folder, env=environment, timeout=60).returncode


def test_each_task_knows_its_place_and_gets_the_arguments(tmp_path):
    assert _sbatch(tmp_path, status=0) == 0
    arguments = "node7 train.py --resume auto data.threads=12 --config a b.yaml seed=3"
    assert (tmp_path / "tasks").read_text().splitlines() == [f"{rank}/4 {rank % 2}/2 {arguments}" for rank in range(4)]
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize(("status", "queued_again"), [(75, True), (2, False)])
def test_only_a_run_that_saved_and_stopped_is_queued_again(tmp_path, status, queued_again):
    assert _sbatch(tmp_path, status=status) == status
    assert (tmp_path / "requeued").exists() == queued_again
    assert not queued_again or (tmp_path / "requeued").read_text() == "requeue 41\n"


def test_the_kubernetes_job_is_consistent():
    service, job = yaml.safe_load_all((ROOT / "kubernetes" / "train.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command = container["command"]
    assert spec["completions"] == spec["parallelism"] == 2
    assert f"--nnodes={spec['completions']}" in command
    assert f"--nproc_per_node={container['resources']['limits']['nvidia.com/gpu']}" in command
    # Pod 0 of an indexed job is reached by this name through the headless service.
    name = job["metadata"]["name"]
    assert f"--rdzv-endpoint={name}-0.{pod['subdomain']}:29400" in command
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"] == {"clusterIP": "None", "selector": {"job-name": name}}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert container["env"] == [
        {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"},
        {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility,video"},
    ]


@pytest.mark.parametrize(("status", "queued_again"), [(0, False), (75, True), (2, False)])
def test_each_job_of_an_array_prepares_its_part(tmp_path, status, queued_again):
    programs = {
        "srun": '#!/usr/bin/env bash\nwhile [[ "$1" == --* ]]; do shift; done\n"$@"\n',
        "scontrol": SCONTROL,
        "python": f'#!/usr/bin/env bash\nprintf "%s\\n" "$*" >> calls\nexit {status}\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {
        **{"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python"), "SLURM_JOB_ID": "43"},
        **{"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "8", "SLURM_ARRAY_TASK_COUNT": "4"},
        "SLURM_CPUS_PER_TASK": "16",
    }
    command = ["bash", str(ROOT / "slurm" / "prepare.sbatch"), "a b", "out", "storage.fps=5"]
    assert subprocess.run(command, cwd=tmp_path, env=environment, timeout=60).returncode == status
    assert (tmp_path / "calls").read_text() == "-m pipeline.prepare --shard 1/4 a b out storage.fps=5\n"
    assert (tmp_path / "requeued").exists() == queued_again


def test_the_kubernetes_job_prepares_as_many_parts_as_it_has_pods():
    job = yaml.safe_load((ROOT / "kubernetes" / "prepare.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    assert container["command"][-1].endswith(f'--shard "$JOB_COMPLETION_INDEX/{spec["completions"]}"')
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
