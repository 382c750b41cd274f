"""Metrics of a run: metrics.jsonl, TensorBoard, trackers, step times and the progress display."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from common import phases
from common.console import Console
from common.files import write_atomically
from settings import Config
from training.tracking.trackers import start_sinks

log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends metrics to `run_dir/metrics.jsonl` and `run_dir/tensorboard`.

    If the disk becomes full later, the run continues without the lines that do not fit and without TensorBoard; a
    warning says so.

    Args:
        run_dir: the run's folder, which exists.
        start_step: number of steps done; lines of later steps are removed, because the run will write them again (a
            run that was killed after its last checkpoint leaves such lines).
        config: with log.wandb, log.trackio or log.mlflow, the metrics are also sent to these trackers.

    Raises:
        ConfigError: a tracker's package is not installed, or the tracker of a new run does not start.
        OSError: metrics.jsonl cannot be written.
    """

    def __init__(self, run_dir: Path, *, start_step: int, config: Config | None = None) -> None:
        self.path = run_dir / "metrics.jsonl"
        lines = read_metrics(self.path)
        # Comes first because it may fail, and the run folder is still untouched here.
        self._sinks = (
            []
            if config is None
            else start_sinks(
                run_dir,
                config,
                already_sent=max((int(line["step"]) for line in lines), default=-1),
                resumed=start_step > 0,
            )
        )
        kept = [line for line in lines if line["step"] <= start_step]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self._tensorboard: SummaryWriter | None = SummaryWriter(run_dir / "tensorboard", purge_step=start_step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line about step `step` (from 1).

        Unless the disk is full, the line is in the file when this returns, though not flushed to disk.
        """
        self._append(json.dumps({"step": step, **metrics}) + "\n")
        self._plot(step, metrics)
        for sink in self._sinks:
            sink.write(step, metrics)

    def _plot(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._tensorboard is None:
            return
        try:
            for name, value in metrics.items():
                self._tensorboard.add_scalar(name, value, step)
        except OSError as error:
            # TensorBoard's writer thread has died and cannot be restarted.
            log.warning("cannot write TensorBoard's file (%s); the run continues without TensorBoard", error)
            self._tensorboard = None

    def _append(self, line: str) -> None:
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line.encode())
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            # A partial line would hide the lines after it.
            os.ftruncate(self._file, size)
            log.warning("could not write a line of %s: %s; training continues", self.path, error)

    def close(self) -> None:
        os.close(self._file)
        if self._tensorboard is not None:
            with suppress(OSError):
                self._tensorboard.close()
        for sink in self._sinks:
            sink.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Returns the lines of a metrics.jsonl up to the first broken one, as a kill may leave a partial last line.

    Without such a file, the list is empty.
    """
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except (ValueError, RecursionError):
            break
    return lines


def shares_of_mix(numbers: Mapping[str, float]) -> dict[str, float]:
    """Returns the share of each data set of a mix in the samples so far, by its name."""
    names = (name.split("/") for name in numbers)
    return {parts[1]: numbers["/".join(parts)] for parts in names if parts[0] == "mix" and parts[-1] == "share"}


class StepTimer:
    """Measures seconds per step since the last reading, and the share of them spent waiting for data.

    On a CPU the wait is the host's. On a GPU it is the GPU's, measured between two events in its queue: the host may
    wait for a batch while the GPU still computes, and may receive a batch that the GPU has yet to decode.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._restart()

    def _restart(self) -> None:
        self._started = time.perf_counter()
        self._waits: list[tuple[Any, Any]] = []

    def batch_requested(self) -> None:
        """Marks the moment before a batch is requested."""
        self._requested = self._mark()

    def batch_ready(self) -> None:
        """Marks the moment when the batch is ready and a step begins."""
        self._waits.append((self._requested, self._mark()))

    def exclude(self, seconds: float) -> None:
        """Excludes seconds just spent on something that is not part of a step, such as a measurement."""
        self._started += seconds

    def read(self, clips_per_step: int) -> dict[str, float]:
        """Returns samples_per_second, step_seconds and data_wait (a share of the step), and restarts the timer."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        steps = max(len(self._waits), 1)
        reading = {
            "samples_per_second": clips_per_step * steps / seconds,
            "step_seconds": seconds / steps,
            "data_wait": sum(self._seconds_between(*wait) for wait in self._waits) / seconds,
        }
        self._restart()
        return reading

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds_between(self, requested: Any, ready: Any) -> float:
        if self._device.type != "cuda":
            return ready - requested
        ready.synchronize()
        return requested.elapsed_time(ready) / 1e3


class ProgressDisplay:
    """Shows rank 0's progress: a bar on a terminal, else one plain line per reading; other ranks show nothing.

    Args:
        total: number of steps of the run.
        start: number of steps done before.
        shown: whether this is rank 0.
    """

    def __init__(self, *, total: int, start: int, shown: bool) -> None:
        self._total, self._shown = total, shown
        self._live = shown and sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self._live,
        )
        self._task = self._progress.add_task("train", total=total, completed=start, note="")
        self._start, self._started = start, time.monotonic()
        phases.note_output(live=self._live)
        self._progress.start()

    def advance(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        """Shows that `step` steps are done.

        Args:
            numbers: the latest metrics, if there are new ones; loss, retrieval_v2a, samples_per_second, data_wait and
                the shares of a mix are shown.
        """
        note = ""
        if numbers is not None:
            note = (
                f"loss {numbers['loss']:.3f}  v2a {numbers['retrieval_v2a']:.2f}  "
                f"{numbers['samples_per_second']:.0f} clips/s  wait {numbers['data_wait']:.0%}"
            )
            for name, share in shares_of_mix(numbers).items():
                note += f"  {name} {share:.0%}"
        if self._live:
            self._progress.update(self._task, completed=step)
            if note:
                self._progress.update(self._task, note=note)
        elif self._shown and note:
            left = (time.monotonic() - self._started) / max(step - self._start, 1) * (self._total - step)
            phases.note_output()
            print(f"step {step}/{self._total}  {note}  {left:.0f} s left", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._progress.stop()
        phases.note_output(live=False)
