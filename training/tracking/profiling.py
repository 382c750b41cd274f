"""--profile: profiles a few steps and writes a trace and a table."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

TABLE_ROWS = 40

log = logging.getLogger(__name__)


class StepProfiler:
    """Profiles some steps of this process; other steps cost nothing, and the results do not change.

    Writes the trace `profile/steps-FIRST-END-rankR.json.gz`, which holds the steps before END (open it at
    https://ui.perfetto.dev), and a `.txt` file with a table of operators by time.

    ```python
    with StepProfiler(run_dir, parse_steps("10:15")) as profiler:
        for number in itertools.count(1):
            profiler.step(number)
            batch = next(batches)
            ...
    ```

    Args:
        run_dir: the run's folder.
        steps: steps to profile, counted from this process's first, which is 1, so that a resumed run reaches them too.
        rank: rank of this process, which writes its own files.
    """

    def __init__(self, run_dir: Path, steps: range, *, rank: int = 0) -> None:
        self._stem = run_dir / "profile" / f"steps-{steps.start}-{steps.stop}-rank{rank}"
        self._steps, self._current = steps, 0
        self._profile: profile | None = None
        self._region: record_function | None = None

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def step(self, number: int) -> None:
        """Marks the beginning of a step; call it before requesting the batch, so that the trace includes the wait.

        Args:
            number: number of the step, from 1 in this process. Repeating it changes nothing: at the end of an epoch
                there is no batch, and the next epoch begins with the same step.
        """
        if number == self._current:
            return
        self._current = number
        self._leave_region()
        if number in self._steps:
            if self._profile is None:
                self._start()
            self._region = record_function(f"step {number}")
            self._region.__enter__()
        elif self._profile is not None:
            self._write(self._profile)

    def close(self) -> None:
        """Writes the profile unless that has been done; warns if no step to profile was reached."""
        self._leave_region()
        if self._profile is not None:
            self._write(self._profile)
        elif self._steps and self._current < self._steps.start:
            log.warning(
                "--profile %d:%d: no trace, the run ended after %d steps",
                self._steps.start,
                self._steps.stop,
                self._current,
            )

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        started = profile(activities=activities, record_shapes=True, acc_events=True)
        started.start()
        self._profile = started

    def _leave_region(self) -> None:
        if self._region is not None:
            self._region.__exit__(None, None, None)
            self._region = None

    def _write(self, finished: profile) -> None:
        self._profile = None
        finished.stop()
        sort_by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = finished.key_averages().table(sort_by=sort_by, row_limit=TABLE_ROWS)
        trace = self._stem.with_name(self._stem.name + ".json.gz")
        try:
            trace.parent.mkdir(parents=True, exist_ok=True)
            finished.export_chrome_trace(str(trace))
            trace.with_name(self._stem.name + ".txt").write_text(table)
        except OSError as error:
            log.warning("--profile: could not write %s: %s; the run continues", trace, error)
        else:
            log.warning("--profile: wrote %s (open it at https://ui.perfetto.dev) and a table next to it", trace)
