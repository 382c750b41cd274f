"""One training run: its folder, resuming, logging, saving and stopping."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.environment import environment
from model.encoder import CrossModalModel
from pipeline.batch import Batch
from pipeline.plan.bad_samples import BadSamples, TooManyBadSamples
from settings import Config, ConfigError, to_dict, to_yaml
from training.checkpoint import CheckpointError, CheckpointStore, find, read, require_same_config
from training.distributed import World, any_rank, from_main, gather_objects, mean_over_ranks, spread_over_ranks
from training.preemption import Preemption
from training.step import Learner, Metrics
from training.tracking.metrics import MetricsWriter, ProgressDisplay, StepTimer
from training.tracking.profiling import StepProfiler

BAD_SAMPLES = "bad_samples.jsonl"
"""File in the run folder that lists the samples that could not be read."""


class Run:
    """Everything around the steps of a training run, used as a context manager.

    Args:
        config: settings of the run.
        world: this process and its group.
        learner: the state that is trained, saved and restored.
        fingerprint: hash that identifies the data set.
        bad_samples: the loader's record of samples it could not read.
        total_steps: number of steps at which the run ends.
        profile: steps to profile, counted from this process's first.
        measure: measures the model without changing it; its numbers become metrics.
        measure_every: steps between two such measurements.
        labels: [n] class of each sample id (-1 = unknown), used to count the classes in the dictionaries.
    """

    def __init__(
        self,
        *,
        config: Config,
        world: World,
        learner: Learner,
        fingerprint: str,
        bad_samples: BadSamples,
        total_steps: int,
        profile: range = range(0),
        measure: Callable[[CrossModalModel], dict[str, float]] | None = None,
        measure_every: int = 0,
        labels: np.ndarray | None = None,
    ) -> None:
        self.config, self.world, self.learner = config, world, learner
        self.fingerprint, self.bad_samples, self.total_steps = fingerprint, bad_samples, total_steps
        self.folder = Path(config.run_dir)
        kept = config.checkpoint
        self.store = CheckpointStore(self.folder / "checkpoints", keep=kept.keep, milestone_every=kept.milestone_every)
        self.step = 0
        self._measure, self._measure_every, self._labels = measure, measure_every, labels
        self._preemption = Preemption()
        self._profiler = StepProfiler(self.folder, profile, rank=world.rank)
        self._metrics: MetricsWriter | None = None

    def resume(self, resume: str) -> None:
        """Restores the checkpoint that `find_resume_checkpoint` chooses for `resume`, if any."""
        path = find_resume_checkpoint(self.config, resume=resume, store=self.store, world=self.world)
        if path is not None:
            state = load_resume_state(path, self.config, fingerprint=self.fingerprint, device=self.world.device)
            self.learner.load_state_dict(state)
            self.bad_samples.restore(state.get("bad_samples", []))
            self.step = state["step"]

    def __enter__(self) -> Run:
        if self.world.is_main:
            (self.folder / "config.yaml").write_text(to_yaml(self.config))
            (self.folder / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")
            self._metrics = MetricsWriter(self.folder, start_step=self.step, config=self.config)
            self._print(f"step {self.step} of {self.total_steps}, {self.world.size} process(es)")
        self._display = ProgressDisplay(total=self.total_steps, start=self.step, shown=self.world.is_main)
        self._timer = StepTimer(self.world.device)
        self._preemption.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._profiler.close()
        # The SIGTERM handler is still installed: a second signal must not interrupt the last checkpoint.
        self.store.wait()
        if kind is TooManyBadSamples:
            self.bad_samples.write(self.folder / BAD_SAMPLES)
        if kind is None:
            # A barrier: no rank may exit before rank 0 has saved, because the launcher might then end all of them.
            any_rank(False)
        self._preemption.__exit__()
        self._display.close()
        if self._metrics is not None:
            self._metrics.close()
            self._print(f"{'finished' if self.finished else 'stopped'} at step {self.step}")

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps

    @property
    def stopping(self) -> bool:
        """Whether the run has reached its end or was asked to stop earlier."""
        return self.finished or self._preemption.requested

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the batches until the run stops and measures the wait for each."""
        while not self.stopping:
            self._profiler.step()
            self._timer.batch_requested()
            batch = next(batches, None)
            if batch is None:
                return
            self._timer.batch_ready()
            yield batch

    def record(self, values: Metrics, *, epoch: int) -> None:
        """Counts a step as done, logs and saves when due, and makes all ranks agree on whether to stop."""
        self.step += 1
        numbers = None
        if self.step % self.config.train.log_every == 0 or self.finished:
            self._share_bad_samples()
            self.learner.guard.check(self.folder, rank=self.world.rank)
            speed = self._timer.read(self.config.train.batch_size)
            spread = spread_over_ranks({name: speed[name] for name in ("step_seconds", "data_wait")})
            numbers = mean_over_ranks(values) | speed | spread | {"bad_samples": len(self.bad_samples)}
            self.write({"epoch": epoch, **numbers})
        self._display.advance(self.step, numbers)
        self._diagnose(epoch)
        if self._measure is not None and self.step % self._measure_every == 0:
            measured = self._measure(self.learner.model)
            self.write({"epoch": epoch, **measured})
            self.exclude(measured["monitor/seconds"])
        stopping = self._preemption.check() or self.finished
        if not (stopping or self.step % self.config.checkpoint.every_steps == 0):
            return
        self._share_bad_samples()
        if self.world.is_main:
            state = {"config": to_dict(self.config), "data": self.fingerprint, **self.learner.state_dict()}
            state["bad_samples"] = self.bad_samples.state()
            self.store.save(state, step=self.step)

    def _diagnose(self, epoch: int) -> None:
        every = self.config.monitor.dictionary_every
        if every and self.step % every == 0 and self.world.is_main:  # all ranks hold the same dictionaries
            started = time.perf_counter()
            self.write({"epoch": epoch, **self.learner.diagnostics(self._labels)})
            self.exclude(time.perf_counter() - started)

    def _share_bad_samples(self) -> None:
        if self.bad_samples.share(any_rank=any_rank, gather=gather_objects) and self.world.is_main:
            self.bad_samples.write(self.folder / BAD_SAMPLES)

    def write(self, numbers: Mapping[str, float]) -> None:
        """Writes a line of metrics for the last step (rank 0 only)."""
        if self._metrics is not None:
            self._metrics.write(self.step - 1, numbers)

    def exclude(self, seconds: float) -> None:
        """Excludes time that was just spent on something else, such as a measurement, from the step times."""
        self._timer.exclude(seconds)

    def _print(self, text: str) -> None:
        print(f"{self.folder}: {text}", file=sys.stderr, flush=True)


def find_resume_checkpoint(config: Config, *, resume: str, store: CheckpointStore, world: World) -> Path | None:
    """Returns the checkpoint to resume from, chosen by rank 0 for all ranks, or None to start a new run.

    Args:
        resume: "auto" (the newest complete checkpoint of the run folder, if any), "never", or a path.

    Raises:
        ConfigError: resume is "never", but the run folder already holds a run.
        CheckpointError: the path does not lead to a checkpoint.
    """
    answer: tuple[str, str | None] = ("path", None)
    if world.is_main:
        # An error must reach every rank: if rank 0 failed alone, the others would wait for it.
        try:
            chosen = store.newest() if resume in ("auto", "never") else find(resume)
            answer = ("path", str(chosen) if chosen else None)
        except CheckpointError as error:
            answer = ("error", str(error))
    kind, text = from_main(answer)
    if kind == "error":
        raise CheckpointError(text)
    if resume == "never" and text is not None:
        raise ConfigError(
            f"{config.run_dir} already holds a run (up to {Path(text).name}): resume with --resume auto, "
            "or choose a different run_dir"
        )
    return Path(text) if text else None


def load_resume_state(path: Path, config: Config, *, fingerprint: str, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint and verifies that it belongs to this run.

    Raises:
        ConfigError: the checkpoint was made with different settings or from different data.
        CheckpointError: this process cannot read the file, for example because nodes do not share the run folder.
    """
    state = read(path, device=device)
    require_same_config(state["config"], config, path)
    if state["data"] != fingerprint:
        raise ConfigError(
            f"{path} was trained on different data than {config.data.path} now holds (the manifests differ): "
            "set data.path to the same shards, or start a new run with a different run_dir"
        )
    return state
