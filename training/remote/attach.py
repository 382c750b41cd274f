"""Holds a run folder in an object store for the time of a run: its lease, its local copy, and the thread that copies.

Note [What is guaranteed in an object store]: the local folder is locked as any run folder. The lease keeps a run on
another machine out, except while this machine cannot reach the store: the lease may then pass to the other run, and
this one stops as soon as it reaches the store again. Until then both may write, each file whole or not at all. If they
write the same step, its checksum may be from the other run: resuming then rejects it and uses the checkpoint before it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from common.phases import begin, say
from common.stores import RemotePath, StoreError
from common.stores.lease import Lease, LeaseTaken
from settings import Config, ConfigError
from training.distributed import World, beat, from_main, gather_objects
from training.remote.fetch import fetch_checkpoint, fetch_file, fetch_run
from training.remote.mirror import Mirror
from training.remote.places import LEASE, local_steps, run_folder, run_url, stored_steps
from training.saving.files import CheckpointError
from training.saving.lock import RunLock

_SLICE_SECONDS = 5.0
"""Interval in seconds at which rank 0 answers the processes that wait for it, so that none of them times out."""

_AFTER_ERROR_SECONDS = 60.0
"""Longest time in seconds for the last copies after an error, during which the other ranks do not know of it yet."""

log = logging.getLogger(__name__)


class RemoteRun:
    """The run folder at a URL. Rank 0 copies the files; the other ranks only wait for it.

    Args:
        mirror, lease: None on ranks other than 0.
        seconds: how long the end of the run waits for the last copies.
    """

    def __init__(self, url: RemotePath, *, mirror: Mirror | None, lease: Lease | None, seconds: float) -> None:
        self.url = url
        self._mirror, self._lease, self._seconds = mirror, lease, seconds
        self._waited = False

    def finish(self) -> None:
        """Waits until rank 0 has copied everything; all ranks must call it, after the last file was written.

        Raises:
            CheckpointError: copying took too long, or another process has taken over the folder.
        """
        begin(f"copying the last files to {self.url}")
        if self._mirror is not None:
            self._mirror.finish()
        end = time.monotonic() + self._seconds
        while from_main(self._wait_briefly(end)):
            beat(f"copying the last files to {self.url}")
        problem = from_main(self._problem())
        self._waited = True
        if problem is not None:
            raise CheckpointError(problem)

    def abandon(self) -> None:
        """Copies what is left on rank 0 alone, after an error; if that fails too, it only logs a warning."""
        if self._mirror is not None and not self._waited:
            begin(f"copying the last files to {self.url}")
            self._mirror.finish()
            self._mirror.wait(min(self._seconds, _AFTER_ERROR_SECONDS))
            if problem := self._problem():
                log.warning("%s", problem)

    def _wait_briefly(self, end: float) -> bool:
        """Waits for the last copies for up to _SLICE_SECONDS; returns whether to wait again, until `end` at most."""
        if self._mirror is None:
            return False
        left = end - time.monotonic()
        return not self._mirror.wait(max(0.0, min(left, _SLICE_SECONDS))) and left > 0

    def _problem(self) -> str | None:
        if self._mirror is None or self._lease is None:
            return None
        folder = self._mirror.folder
        if self._lease.lost.is_set():
            return f"another process has taken over {self.url}; what this one has made since is in {folder}"
        if self._mirror.wait(0) or not (missing := self._mirror.missing()):
            return None
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more files" if len(missing) > 3 else "")
        return (
            f"cannot copy {shown} to {self.url} within {self._seconds:g} s (checkpoint.upload_seconds); all files are "
            f"in {folder}: run the same command with --resume auto on this machine to copy what is missing"
        )


@contextmanager
def remote_run(config: Config, world: World, *, resume: str) -> Iterator[RemoteRun | None]:
    """Makes the folder of a run at a URL available as `run_folder(config)`; does nothing for a local folder.

    Args:
        resume: as for `find_resume_checkpoint`.

    Raises:
        ConfigError: the store or the local folder cannot be used, another process uses it, or it already holds a run.
        CheckpointError: no checkpoint in the store can be used.
    """
    url = run_url(config)
    if url is None:
        yield None
        return
    with ExitStack() as stack:
        run, refusal = None, None
        if world.is_main:
            # An error must reach every rank: if rank 0 failed alone, the others would wait for it.
            try:
                run = _attach(config, url, world, resume=resume, stack=stack)
            except (StoreError, LeaseTaken, ConfigError, CheckpointError, OSError) as error:
                refusal = (type(error) is CheckpointError, _error_message(error, config))
        refusal = from_main(refusal)
        if refusal is not None:
            raise (CheckpointError if refusal[0] else ConfigError)(refusal[1])
        run = run or RemoteRun(url, mirror=None, lease=None, seconds=config.checkpoint.upload_seconds)
        _share_checkpoint(config, url, world)
        try:
            yield run
        except BaseException:
            run.abandon()
            raise


def _attach(config: Config, url: RemotePath, world: World, *, resume: str, stack: ExitStack) -> RemoteRun:
    folder = run_folder(config)
    lock = RunLock(folder)
    stack.callback(lock.release)
    lease = Lease(url / LEASE, place=str(folder), what=str(url))
    stack.callback(lease.release)
    fetch_run(url, folder, resume=resume)
    kept = config.checkpoint
    mirror = Mirror(folder, url, keep=kept.keep, milestone_every=kept.milestone_every, lost=lease.lost)
    if world.size > world.local_size and local_steps(folder):
        mirror.copy_now()  # the other machines read the checkpoint from the store
    mirror.start()
    threading.Thread(target=_stop_when_lost, args=(lease,), name="lease-lost", daemon=True).start()
    say(f"the run is written to {folder}, and copied to {url}")
    return RemoteRun(url, mirror=mirror, lease=lease, seconds=kept.upload_seconds)


def _share_checkpoint(config: Config, url: RemotePath, world: World) -> None:
    """Copies the newest checkpoint and the run's settings to the machines without rank 0; all ranks must call it."""
    refusal = ""
    if world.local_rank == 0 and not world.is_main:
        try:
            names, folder = {file.key for file in url.files()}, run_folder(config)
            if "config.yaml" in names:
                fetch_file(url, folder, "config.yaml")
            if steps := stored_steps(names):
                fetch_checkpoint(url, folder, max(steps))
        except (CheckpointError, OSError) as error:
            refusal = f"rank {world.rank}: {_error_message(error, config)}"
    if refusals := [text for text in gather_objects(refusal) if text]:
        raise CheckpointError(refusals[0])


def _stop_when_lost(lease: Lease) -> None:
    """Once another process has taken over the folder, signals the run to save and stop, as a scheduler would."""
    lease.lost.wait()
    os.kill(os.getpid(), signal.SIGTERM)


def _error_message(error: Exception, config: Config) -> str:
    if isinstance(error, LeaseTaken):
        return f"{error}: wait until that run has ended, or choose a different run_dir"
    if isinstance(error, OSError) and not isinstance(error, StoreError):
        return f"cannot write the local copy of the run in {run_folder(config)}: {error.strerror} (checkpoint.scratch)"
    return str(error)
