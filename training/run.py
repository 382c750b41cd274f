"""One training run: its folder, resuming, logging, saving and stopping."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from common.environment import environment
from common.files import write_atomically
from common.phases import begin
from model.encoder import CrossModalModel
from pipeline.batch import Batch
from pipeline.plan import order
from pipeline.plan.bad_samples import BadSamples, TooManyBadSamples
from pipeline.plan.mixture import Mixture
from settings import Config, to_dict, to_yaml
from settings.pitfalls import find_pitfalls
from settings.recipe import Resources, auto_value
from training.checkpoint import CheckpointError, CheckpointStore
from training.distributed import (
    World,
    any_rank,
    beat,
    from_main,
    gather_objects,
    lost_ranks_named,
    mean_over_ranks,
    spread_over_ranks,
)
from training.memory import is_out_of_memory
from training.remote.places import run_folder
from training.report.run_page import write_run_page
from training.resume import find_resume_checkpoint, load_resume_state
from training.saving.preemption import Preemption, Stopped
from training.step import Learner, Metrics
from training.tracking.metrics import MetricsWriter, ProgressDisplay, StepTimer
from training.tracking.profiling import StepProfiler

log = logging.getLogger(__name__)

BAD_SAMPLES = "bad_samples.jsonl"
"""File in the run folder that lists the samples that could not be read."""


class Run:
    """Everything around the steps of a training run, used as a context manager.

    Args:
        config: settings of the run.
        world: this process and its group.
        learner: the state that is trained, saved and restored.
        fingerprint: hash that identifies the data set.
        left_out: hash of the list of samples that are left out; empty without one.
        weighed: hash of the weights of the samples; empty without weights.
        mixture: the shares of several data sets, which the metrics report; None for one without weights.
        bad_samples: the loader's record of samples it could not read.
        total_steps: number of steps at which the run ends.
        profile: steps to profile, counted from this process's first.
        measure: evaluates the model during the run without changing it, and returns metrics. Its second argument
            returns whether this process was asked to stop; if any process was, `measure` returns {} on all ranks.
        measure_every: number of steps between two such measurements.
        labels: [n] class of each sample id (-1 = unknown), used to count the classes in the dictionaries.
        origin: where the first weights come from (`InitialWeights.origin`); checkpoints record it.
    """

    def __init__(
        self,
        *,
        config: Config,
        world: World,
        learner: Learner,
        fingerprint: str,
        left_out: str = "",
        weighed: str = "",
        mixture: Mixture | None = None,
        bad_samples: BadSamples,
        total_steps: int,
        profile: range = range(0),
        measure: Callable[[CrossModalModel, Callable[[], bool]], dict[str, float]] | None = None,
        measure_every: int = 0,
        labels: np.ndarray | None = None,
        origin: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.config, self.world, self.learner = config, world, learner
        self.fingerprint, self.left_out, self.weighed, self.mixture = fingerprint, left_out, weighed, mixture
        self.bad_samples, self.total_steps = bad_samples, total_steps
        self.folder = run_folder(config)
        kept = config.checkpoint
        self.store = CheckpointStore(self.folder / "checkpoints", keep=kept.keep, milestone_every=kept.milestone_every)
        self.step = self._saved_step = 0
        self._save_is_due = False
        self._unmeasured_epoch: int | None = None  # the epoch of a measurement that is due or was interrupted
        self._said_short = False
        self._origin = list(origin)
        self._measure, self._measure_every, self._labels = measure, measure_every, labels
        self._preemption = Preemption()
        self._profiler = StepProfiler(self.folder, profile, rank=world.rank)
        self._metrics: MetricsWriter | None = None

    def _resources(self) -> Resources:
        parts = () if self.mixture is None else self.mixture.parts
        return Resources(self.bad_samples.samples, self.world.device.type, self.world.size, parts)

    def resume(self, resume: str) -> None:
        """Restores the checkpoint that `find_resume_checkpoint` chooses for `resume`, if any.

        Raises:
            ConfigError: it was made with different settings or from different data.
            CheckpointError: it cannot be read, or does not fit the model.
        """
        path = find_resume_checkpoint(resume=resume, store=self.store, world=self.world)
        if path is not None:
            begin(f"reading {path}")
            state = load_resume_state(
                path,
                self.config,
                fingerprint=self.fingerprint,
                left_out=self.left_out,
                weighed=self.weighed,
                samples=self.bad_samples.samples,
                device=self.world.device,
            )
            try:
                self.learner.load_state_dict(state)
                self.bad_samples.restore(state.get("bad_samples", []))
            except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                raise CheckpointError(
                    f"the checkpoint {path} does not hold the state of a run with these settings "
                    f"({type(error).__name__}): give the path of another one"
                ) from error
            self.step = self._saved_step = state["step"]
            self._unmeasured_epoch = state.get("unmeasured_epoch")
            self._origin = state.get("origin", [])

    def __enter__(self) -> Run:
        if self.world.is_main:
            # Comes first, because a tracker may fail to start, and the folder must then stay free for another try.
            self._metrics = MetricsWriter(self.folder, start_step=self.step, config=self.config)
            write_atomically(self.folder / "config.yaml", to_yaml(self.config))
            started = environment() | {"processes": self.world.size, "total_steps": self.total_steps}
            started |= {"initial_weights": self._origin} if self._origin else {}
            # They were said before this folder was the run's; its page repeats them.
            started["warnings"] = [pitfall.message for pitfall in find_pitfalls(self.config, self._resources())]
            (self.folder / "environment.json").write_text(json.dumps(started, indent=2) + "\n")
            self._print(f"step {self.step} of {self.total_steps}, {self.world.size} process(es)")
        self._display = ProgressDisplay(total=self.total_steps, start=self.step, shown=self.world.is_main)
        self._timer = StepTimer(self.world.device)
        self._first_step = self.step
        self._preemption.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> bool:
        """Saves the state unless it is already saved, and suppresses `Stopped`.

        Raises:
            CheckpointError: the last checkpoint could not be written.
        """
        clean = kind is None or kind is Stopped
        try:
            self._profiler.close()
            if clean:
                # The handlers are still installed: a second SIGTERM must not interrupt the last checkpoint.
                self._finish_saving()
            else:
                self.store.wait()
            if kind is TooManyBadSamples:
                self.bad_samples.write(self.folder / BAD_SAMPLES)
        finally:
            self._preemption.__exit__()
            self._display.close()
            if self._metrics is not None:
                self._metrics.close()
        if self.world.is_main:
            self._print(f"{'finished' if clean and self.finished else 'stopped'} at step {self.step}")
            if kind is None or issubclass(kind, Exception):  # a second Ctrl-C ends the process at once
                write_run_page(self.folder)
        return kind is Stopped

    def _finish_saving(self) -> None:
        error = None
        begin("saving the last checkpoint")
        with lost_ranks_named():
            if self._saved_step != self.step:
                self._save(prune=self._is_steady())
            if self.world.is_main:
                try:
                    self.store.finish()
                except CheckpointError as failure:
                    error = str(failure)
            # Also a barrier: no rank may exit before rank 0 has saved, as the launcher might then end all of them.
            error = from_main(error)
        if error is not None:
            raise CheckpointError(error)

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps

    @property
    def stopping(self) -> bool:
        """Whether the run has reached its end or was asked to stop earlier."""
        return self.finished or self._preemption.requested

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the batches until the run stops and measures the wait for each."""
        if self.step == self._first_step:
            begin("first step, which compiles the encoders" if self.config.train.compile else "first step")
        while not self.stopping:
            self._profiler.step(self.step - self._first_step + 1)
            self._timer.batch_requested()
            beat(f"waiting for the data of step {self.step + 1}")
            batch = next(batches, None)
            if batch is None:
                return
            self._timer.batch_ready()
            beat(f"step {self.step + 1}")
            yield batch

    def until_stopped(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yields the batches that fill the pool; raises Stopped on all ranks together if the run was asked to stop."""
        for batch in batches:
            beat(f"filling the pool before step {self.step + 1}")
            self._preemption.check()
            if self._preemption.requested:
                raise Stopped
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
            numbers |= {} if self.mixture is None else self.mixture.metrics(self.step)
            self.write({"epoch": epoch, **numbers})
        self._display.advance(self.step, numbers)
        self._say_if_short(values)
        self._diagnose(epoch)
        if self._measure is not None and self.step % self._measure_every == 0:
            self._unmeasured_epoch = epoch
        self.measure_if_due()
        retry = self._preemption.check(wish=self.store.wants_retry)
        if retry or self.step % self.config.checkpoint.every_steps == 0:
            self._save_is_due = True
        # While the gradient is not finite, older checkpoints are more useful than one of the current state.
        steady = (self._save_is_due or self.stopping) and self._is_steady()
        if self.stopping or (self._save_is_due and steady):
            self._save(prune=steady)

    def _say_if_short(self, values: Metrics) -> None:
        """Says once on rank 0 that a selection has picked fewer keys than it was asked for."""
        short = next((name for name in values if name.endswith("/missing") and values[name]), None)
        if short is None or self._said_short or not self.world.is_main:
            return
        self._said_short = True
        modality = short.removesuffix("/missing")
        picked, missing = int(values[f"{modality}/selected"]), int(values[short])
        fits = auto_value(self.config, "dictionary.size", self._resources())
        advice = f"; dictionary.size={fits} leaves enough" if fits < self.config.dictionary.size else ""
        log.warning(
            "step %d: the selection of %s keys picked %d of %d, because the other candidates were in the batch, in "
            "the dictionary or not finite%s (said only once; see %s in metrics.jsonl)",
            *(self.step, modality, picked, picked + missing, advice, short),
        )

    def measure_if_due(self) -> None:
        """Measures the model if that is due or was interrupted; if it is interrupted now, a resumed run repeats it."""
        if self._measure is None or self._unmeasured_epoch is None:
            return
        beat(f"measuring after step {self.step}")
        measured = self._measure(self.learner.model, lambda: self._preemption.signalled)
        if measured:
            self.write({"epoch": self._unmeasured_epoch, **measured})
            self.exclude(measured["monitor/seconds"])
            self._unmeasured_epoch = None

    def _is_steady(self) -> bool:
        """Whether the gradient of the last step was finite."""
        return int(self.learner.guard.in_a_row) == 0

    def _save(self, *, prune: bool) -> None:
        self._save_is_due, self._saved_step = False, self.step
        self._share_bad_samples()
        if self.world.is_main:
            state = {"config": to_dict(self.config), "data": self.fingerprint, **self.learner.state_dict()}
            state |= {"samples": self.bad_samples.samples, "bad_samples": self.bad_samples.state()}
            state |= {"unmeasured_epoch": self._unmeasured_epoch, "origin": self._origin, "left_out": self.left_out}
            state["order"] = order.VERSION
            state |= {"weighed": self.weighed} if self.weighed else {}
            self.store.save(state, step=self.step, prune=prune)

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
            self._metrics.write(self.step, numbers)

    def exclude(self, seconds: float) -> None:
        """Excludes time that was just spent on something else, such as a measurement, from the step times."""
        self._timer.exclude(seconds)

    def _print(self, text: str) -> None:
        print(f"{self.folder}: {text}", file=sys.stderr, flush=True)
