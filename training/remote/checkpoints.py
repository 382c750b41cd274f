"""Makes local copies of checkpoints that are given by URL, and copies the results written beside them back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from common.phases import begin
from common.stores import Location, RemotePath, StoreError
from common.stores.scratch import scratch_folder
from training.distributed import World, gather_objects
from training.remote.fetch import fetch_file, fetch_newest
from training.remote.places import CHECKPOINTS, as_location, local_steps, stored_steps
from training.saving.files import CheckpointError, checksum_path, file_name, step_of

_READ = ("config.yaml", "metrics.jsonl", "environment.json", "evaluation-*.json")
"""Files of a run that are copied with a checkpoint, because reports and model cards use them."""
_WRITTEN = ("evaluation-*.json", "report.html")
"""Files that an evaluation writes to the run folder."""


def local_checkpoint(path: Location) -> Path:
    """Returns `path` if it is local; if it is a URL, copies the checkpoint to this machine and returns the copy's path.

    A URL names a .pt file or a run folder, whose newest undamaged checkpoint is copied. The copy lies in a local run
    folder with the run's config.yaml, so that results can be written there.

    Raises:
        CheckpointError: there is no checkpoint, none can be used, or the store or the disk fails.
    """
    if isinstance(path, Path):
        return path
    run, step = _run_and_step(path)
    folder = scratch_folder(run, "checkpoints")
    begin(f"copying the checkpoint from {path}")
    try:
        names = {file.key for file in run.files()}
        stored = stored_steps(names)
        steps = stored if step is None else stored & {step}
        if not steps:
            raise CheckpointError(
                f"no checkpoint at {path}: give the URL of a run folder (with checkpoints/step-*.pt and their "
                "checksums) or of one of its checkpoints"
            )
        for other in local_steps(folder) - stored:  # the run has deleted it since
            old = folder / CHECKPOINTS / file_name(other)
            old.unlink(missing_ok=True)
            checksum_path(old).unlink(missing_ok=True)
        found = fetch_newest(run, folder, steps)
        for name in sorted(names):
            if any(fnmatchcase(name, pattern) for pattern in _READ):
                fetch_file(run, folder, name)
    except StoreError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise CheckpointError(f"cannot write a copy of {path} to {folder}: {error.strerror}") from None
    return found


def _run_and_step(path: RemotePath) -> tuple[RemotePath, int | None]:
    """Splits a URL into that of the run folder and the checkpoint's step; None if it names the folder."""
    step = step_of(Path(path.name))
    inside = step is not None and path.parent.name == CHECKPOINTS
    return (path.parent.parent, step) if inside else (path, None)


@contextmanager
def copying_results(path: Location) -> Iterator[Path]:
    """Yields `local_checkpoint(path)`; if `path` is a URL, copies the results of the block to the run folder there.

    Results are the evaluation-*.json and report.html that the block writes to the local run folder.

    Raises:
        CheckpointError: as by `local_checkpoint`.
        StoreError: the results cannot be written; they stay in the local folder.
    """
    here = local_checkpoint(path)
    folder = here.parent.parent
    before = _results(folder) if isinstance(path, RemotePath) else {}
    yield here
    if isinstance(path, RemotePath):
        run = _run_and_step(path)[0]
        for file, modified in _results(folder).items():
            if before.get(file) != modified:
                (run / file.name).write_bytes(file.read_bytes())


def _results(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for pattern in _WRITTEN for file in sorted(folder.glob(pattern))}


def local_resume(resume: str, world: World) -> str:
    """Returns `resume`, or the path of a local copy if it is a URL. All ranks must call it.

    Every machine makes a copy of its own, and all ranks use the path of rank 0's: scratch folders must be at the same
    path on all machines.

    Raises:
        CheckpointError: there is no checkpoint, or none can be used.
        ConfigError: the URL holds credentials.
    """
    where = as_location(resume)
    if not isinstance(where, RemotePath):
        return resume
    path = refusal = ""
    if world.local_rank == 0:
        # An error must reach every rank: if one failed alone, the others would wait for it.
        try:
            path = str(local_checkpoint(where))
        except CheckpointError as error:
            refusal = str(error)
    answers = gather_objects((path, refusal))
    if refusals := [text for _, text in answers if text]:
        raise CheckpointError(refusals[0])
    return answers[0][0]
