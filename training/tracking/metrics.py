"""Where a run's numbers go: metrics.jsonl, TensorBoard, and a line for the person who watches."""

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
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from common.files import write_atomically
from settings import Config
from training.tracking.wandb_sink import WandbSink

log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends to `run_dir/metrics.jsonl` and `run_dir/tensorboard`.

    A full disk costs the lines that do not fit, and TensorBoard's file, but not the run; a warning says so.

    Args:
        run_dir: the run's folder.
        start_step: lines of this step and later, left by a run that was killed after its last
            checkpoint, are removed: they will be written again.
        config: with log.wandb, the numbers also go to Weights & Biases.

    Raises:
        ConfigError: log.wandb is on and wandb is not installed.
    """

    def __init__(self, run_dir: Path, *, start_step: int, config: Config | None = None) -> None:
        # First, because it may fail: nothing of the run has been touched yet.
        self._wandb = WandbSink(run_dir, config) if config is not None and config.log.wandb else None
        self.path = run_dir / "metrics.jsonl"
        kept = [line for line in read_metrics(self.path) if line["step"] < start_step]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self._tensorboard: SummaryWriter | None = SummaryWriter(run_dir / "tensorboard", purge_step=start_step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line, on disk when this returns."""
        self._append(json.dumps({"step": step, **metrics}) + "\n")
        self._plot(step, metrics)
        if self._wandb is not None:
            self._wandb.write(step, metrics)

    def _plot(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._tensorboard is None:
            return
        try:
            for name, value in metrics.items():
                self._tensorboard.add_scalar(name, value, step)
        except OSError as error:
            # Its writing thread has died, and there is no starting it again.
            log.warning("TensorBoard's file cannot be written (%s): no more of it in this run", error)
            self._tensorboard = None

    def _append(self, line: str) -> None:
        whole = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, line.encode())
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            # Half a line would hide those after it.
            os.ftruncate(self._file, whole)
            log.warning("could not write a line of %s: %s; training goes on", self.path, error)

    def close(self) -> None:
        os.close(self._file)
        if self._tensorboard is not None:
            with suppress(OSError):
                self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; a last line cut short by a kill is left out."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class StepTimer:
    """Seconds of the steps since the last reading, and how many of them went into waiting for data.

    On a GPU it is the GPU that waits: the host may wait for a batch while the GPU still computes, and may be given one
    that the GPU is yet to decode. There the wait is the time between two marks in the GPU's queue.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = time.perf_counter()
        self._waits: list[tuple[Any, Any]] = []

    def asked(self) -> None:
        """A batch is asked for."""
        self._asked = self._mark()

    def received(self) -> None:
        """The batch is there: a step begins."""
        self._waits.append((self._asked, self._mark()))

    def leave_out(self, seconds: float) -> None:
        """Seconds just spent on something that is not part of a step, as a measurement between two epochs."""
        self._began += seconds

    def read(self, clips_per_step: int) -> dict[str, float]:
        """samples_per_second, step_seconds and data_wait (a share of the step), and starts anew."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        steps = max(len(self._waits), 1)
        reading = {
            "samples_per_second": clips_per_step * steps / seconds,
            "step_seconds": seconds / steps,
            "data_wait": sum(self._between(*wait) for wait in self._waits) / seconds,
        }
        self.__init__(self._device)  # type: ignore[misc]
        return reading

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, asked: Any, received: Any) -> float:
        if self._device.type != "cuda":
            return received - asked
        received.synchronize()
        return asked.elapsed_time(received) / 1e3


class Watch:
    """The progress bar of rank 0 on a terminal, or one plain line a reading elsewhere; silent on other ranks."""

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
        self._start, self._began = start, time.monotonic()
        self._progress.start()

    def advance(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        """`step` steps are done; `numbers`, when there are new ones, are shown beside."""
        note = ""
        if numbers is not None:
            note = (
                f"loss {numbers['loss']:.3f}  v2a {numbers['retrieval_v2a']:.2f}  "
                f"{numbers['samples_per_second']:.0f} clips/s  wait {numbers['data_wait']:.0%}"
            )
        if self._live:
            self._progress.update(self._task, completed=step)
            if note:
                self._progress.update(self._task, note=note)
        elif self._shown and note:
            left = (time.monotonic() - self._began) / max(step - self._start, 1) * (self._total - step)
            print(f"step {step}/{self._total}  {note}  {left:.0f} s left", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._progress.stop()
