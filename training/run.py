"""One run: its folder, where it goes on, what it logs, when it saves and when it stops."""

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
from training.tracking.metrics import MetricsWriter, StepTimer, Watch
from training.tracking.profiling import StepProfiler

BAD_SAMPLES = "bad_samples.jsonl"
"""The samples that could not be read, in the run's folder."""


class Run:
    """What surrounds the steps of a training run; used as a context.

    Args:
        config: the whole run's configuration.
        world: this process among all.
        learner: what is trained, saved and restored.
        fingerprint: identity of the data set.
        bad_samples: where the loader notes what it could not read.
        total_steps: where the run ends.
        profile: steps of this process to profile.
        measure: looks at the model without touching it; its numbers go into the metrics.
        measure_every: steps between two of these measurements.
        labels: [n] class of each sample id (-1 = unknown), to count the classes in the dictionaries.
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
        """Goes to where the run folder ends, if `resume` and the folder say so (see `find_resume_checkpoint`)."""
        start = find_resume_checkpoint(self.config, resume=resume, store=self.store, world=self.world)
        if start is not None:
            state = load_resume_state(start, self.config, fingerprint=self.fingerprint, device=self.world.device)
            self.learner.load_state_dict(state)
            self.bad_samples.restore(state.get("bad_samples", []))
            self.step = state["step"]

    def __enter__(self) -> Run:
        if self.world.is_main:
            (self.folder / "config.yaml").write_text(to_yaml(self.config))
            (self.folder / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")
            self._metrics = MetricsWriter(self.folder, start_step=self.step, config=self.config)
            self._say(f"step {self.step} of {self.total_steps}, {self.world.size} process(es)")
        self._watch = Watch(total=self.total_steps, start=self.step, shown=self.world.is_main)
        self._timer = StepTimer(self.world.device)
        self._preemption.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._profiler.close()
        # Still under our SIGTERM handler: a second signal must not cut the last checkpoint short.
        self.store.wait()
        if kind is TooManyBadSamples:
            self.bad_samples.write(self.folder / BAD_SAMPLES)
        if kind is None:
            any_rank(False)  # nobody leaves, and so lets the launcher end everybody, before rank 0 has saved
        self._preemption.__exit__()
        self._watch.close()
        if self._metrics is not None:
            self._metrics.close()
            self._say(f"{'finished' if self.finished else 'stopped'} at step {self.step}")

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps

    @property
    def stopping(self) -> bool:
        """Whether the run has reached its end, or was asked to stop before it."""
        return self.finished or self._preemption.requested

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches up to the run's end, the time that each is waited for being noted."""
        while not self.stopping:
            self._profiler.step()
            self._timer.asked()
            batch = next(batches, None)
            if batch is None:
                return
            self._timer.received()
            yield batch

    def record(self, values: Metrics, *, epoch: int) -> None:
        """A step is done: logs and saves where that is due, and lets all ranks agree on whether to stop."""
        self.step += 1
        numbers = None
        if self.step % self.config.train.log_every == 0 or self.finished:
            self._share_bad_samples()
            self.learner.guard.check(self.folder, rank=self.world.rank)
            speed = self._timer.read(self.config.train.batch_size)
            spread = spread_over_ranks({name: speed[name] for name in ("step_seconds", "data_wait")})
            numbers = mean_over_ranks(values) | speed | spread | {"bad_samples": len(self.bad_samples)}
            self.write({"epoch": epoch, **numbers})
        self._watch.advance(self.step, numbers)
        self._diagnose(epoch)
        if self._measure is not None and self.step % self._measure_every == 0:
            seen = self._measure(self.learner.model)
            self.write({"epoch": epoch, **seen})
            self.leave_out(seen["monitor/seconds"])
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
            began = time.perf_counter()
            self.write({"epoch": epoch, **self.learner.diagnostics(self._labels)})
            self.leave_out(time.perf_counter() - began)

    def _share_bad_samples(self) -> None:
        if self.bad_samples.share(any_rank=any_rank, gather=gather_objects) and self.world.is_main:
            self.bad_samples.write(self.folder / BAD_SAMPLES)

    def write(self, numbers: Mapping[str, float]) -> None:
        """A line of metrics under the step that was done last."""
        if self._metrics is not None:
            self._metrics.write(self.step - 1, numbers)

    def leave_out(self, seconds: float) -> None:
        """Time that is not the steps' own, as for a measurement between two epochs."""
        self._timer.leave_out(seconds)

    def _say(self, text: str) -> None:
        print(f"{self.folder}: {text}", file=sys.stderr, flush=True)


def find_resume_checkpoint(config: Config, *, resume: str, store: CheckpointStore, world: World) -> Path | None:
    """The checkpoint to go on from, chosen by rank 0 for all; None to start anew.

    Args:
        resume: "auto" (the newest whole one of the run folder, if any), "never", or a path.

    Raises:
        ConfigError: "never", but the run folder already holds a run.
        CheckpointError: a path that leads to no checkpoint.
    """
    answer: tuple[str, str | None] = ("path", None)
    if world.is_main:
        # An error must reach every rank: one that died here alone would leave the others waiting.
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
            f"{config.run_dir} already holds a run (up to {Path(text).name}): go on with --resume auto, "
            "or choose another run_dir=..."
        )
    return Path(text) if text else None


def load_resume_state(path: Path, config: Config, *, fingerprint: str, device: torch.device) -> dict[str, Any]:
    """The checkpoint's state, once it is sure that it continues this very run.

    Raises:
        ConfigError: made with another configuration or from other data.
        CheckpointError: unreadable here, as when nodes do not share the run folder.
    """
    state = read(path, device=device)
    require_same_config(state["config"], config, path)
    if state["data"] != fingerprint:
        raise ConfigError(
            f"{path} was trained on other data than {config.data.path} now holds (the manifests differ): "
            "give the same shards, or start anew with another run_dir"
        )
    return state
