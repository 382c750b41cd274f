"""Starting and resuming a run: its settings, the lock of its folder, and the checkpoint to resume from."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from common.trees import flatten
from pipeline.plan.order import keeps_order
from settings import Config, ConfigError
from settings.pitfalls import find_pitfalls
from settings.recipe import Choice, Resources, fit
from settings.yaml_files import read_yaml
from training.checkpoint import CheckpointError, CheckpointStore, find, read, require_same_config
from training.distributed import World, from_main
from training.remote.places import run_folder
from training.saving.choose import require_newest, supersede_later
from training.saving.files import checkpoint_files, step_of
from training.saving.folder import require_new
from training.saving.lock import RunLock

log = logging.getLogger(__name__)


def fit_to_data(
    config: Config, world: World, *, samples: int, resume: str, parts: tuple[tuple[int, float], ...] = ()
) -> Config:
    """Returns the configuration without any `auto`; says what was chosen and what will hinder the run.

    A run that is resumed gets the values that it started with.

    Args:
        samples: number of samples to train on.
        parts: see `Resources.parts`.
        resume: as for `find_resume_checkpoint`.

    Raises:
        ConfigError: the run would learn nothing, or there are too few samples.
    """
    saved, samples = from_main((_saved_settings(resume, run_folder(config)), samples))
    resources = Resources(samples=samples, device=world.device.type, processes=world.size, parts=parts)
    fitted, choices = fit(config, resources, saved=saved)
    pitfalls = sorted(find_pitfalls(fitted, resources), key=lambda pitfall: not pitfall.fatal)
    # A run that has progressed is never refused, because its settings can no longer be changed.
    if pitfalls and pitfalls[0].fatal and not saved:
        raise ConfigError("\n".join(pitfall.message for pitfall in pitfalls))
    if world.is_main:
        _print_choices(choices, config, resources, resumed=bool(saved))
        for pitfall in pitfalls:
            log.warning("%s", pitfall.message)
    return fitted


def _saved_settings(resume: str, run_dir: Path) -> dict[str, Any]:
    """Returns by dotted key the settings of the run that is resumed, as its folder holds them; {} for a new run."""
    path = run_dir if resume == "auto" else Path(resume)
    folder = path.parent.parent if path.is_file() else path
    if resume == "never" or not checkpoint_files(folder / "checkpoints"):
        return {}
    try:
        tree = read_yaml(folder / "config.yaml")
    except ConfigError as error:
        log.warning("%s; settings that are auto are chosen again", error)
        return {}
    return flatten(tree)


def _print_choices(choices: list[Choice], config: Config, resources: Resources, *, resumed: bool) -> None:
    if not choices:
        return
    width = max(len(choice.key) for choice in choices)
    lines = [f"  {key:<{width}} {value:>7,}  {reason}" for key, value, reason in choices]
    where = f"{resources.samples:,} samples and {resources.processes} process(es) on {resources.device}"
    print(f"{config.run_dir}: settings chosen for {where}:", *lines, sep="\n", file=sys.stderr, flush=True)
    if resumed:
        with suppress(ConfigError):
            anew = {choice.key: choice.value for choice in fit(config, resources)[1]}
            changed = [f"{key}={anew[key]}" for key, value, _ in choices if anew.get(key, value) != value]
            if changed:
                log.warning("data, device or processes have changed: a new run would have %s", " ".join(changed))


@contextmanager
def claim(folder: Path, world: World, *, resume: str, locked: bool = False) -> Iterator[None]:
    """Holds the lock of a run folder, on rank 0 for all ranks.

    Args:
        locked: whether this process has locked it before, as `remote_run` does.
        resume: with "never" the folder must not hold anything of a run.

    Raises:
        ConfigError: another process holds the lock, the folder cannot be written to, or it already holds a run.
    """
    lock, refusal = None, None
    if world.is_main:
        # An error must reach every rank: if rank 0 failed alone, the others would wait for it.
        try:
            lock = None if locked else RunLock(folder)
            if resume == "never":
                require_new(folder)
        except ConfigError as error:
            refusal = str(error)
    try:
        refusal = from_main(refusal)
        if refusal is not None:
            raise ConfigError(refusal)
        yield
    finally:
        if lock is not None:
            lock.release()


def find_resume_checkpoint(*, resume: str, store: CheckpointStore, world: World) -> Path | None:
    """Returns the checkpoint to resume from, chosen by rank 0 for all ranks, or None to start a new run.

    Args:
        resume: "auto" (the newest complete checkpoint of the run folder, if any), "never", or a path.

    Raises:
        CheckpointError: the path does not lead to a checkpoint, or the run folder holds none that can be used.
    """
    answer: tuple[str, str | None] = ("path", None)
    if world.is_main:
        # An error must reach every rank: if rank 0 failed alone, the others would wait for it.
        try:
            chosen = _choose(resume, store.folder)
            answer = ("path", str(chosen) if chosen else None)
        except CheckpointError as error:
            answer = ("error", str(error))
    kind, text = from_main(answer)
    if kind == "error":
        raise CheckpointError(text)
    return Path(text) if text else None


def _choose(resume: str, folder: Path) -> Path | None:
    if resume == "never":
        return None
    if resume == "auto":
        return require_newest(folder, clean_up=True)
    chosen = find(resume)
    step = step_of(chosen)
    if step is not None:
        supersede_later(folder, step=step)
    return chosen


def load_resume_state(
    path: Path,
    config: Config,
    *,
    fingerprint: str,
    samples: int,
    device: torch.device,
    left_out: str = "",
    weighed: str = "",
) -> dict[str, Any]:
    """Reads a checkpoint and verifies that it belongs to this run, which trains on so many `samples`.

    Args:
        fingerprint: hash of the data set.
        left_out: hash of the list data.leave_out; empty without one. Checkpoints of older versions hold none.
        weighed: hash of data.weights; empty without weights. Checkpoints of older versions hold none.

    Raises:
        ConfigError: the checkpoint was made with different settings, from different data or in another order.
        CheckpointError: this process cannot read the file, for example because nodes do not share the run folder.
    """
    state = read(path, device=device)
    if not {"config", "data", "step"} <= state.keys() or type(state["step"]) is not int or state["step"] < 0:
        raise CheckpointError(f"the checkpoint {path} is not that of a run: give the path of another one")
    require_same_config(state["config"], config, path)
    counts = _compare(state.get("samples"), samples)
    if state["data"] != fingerprint:
        which = "data.mix to the same shards in the same order" if config.data.mix else "data.path to the same shards"
        raise ConfigError(
            f"{path} was trained on different data than {config.data.where} now holds (the manifests differ"
            f"{counts}): set {which}, or start a new run with a different run_dir"
        )
    sets = config.data.sets
    for key, before, now, what in (
        ("leave_out", "left_out", left_out, "list"),
        ("weights", "weighed", weighed, "setting"),
    ):
        if state.get(before, "") != now:
            name = f"data.mix.*.{key}" if config.data.mix else f"data.{key}"
            value = ", ".join(filter(None, (getattr(one, key) for one in sets.values()))) or "empty"
            trained = "on other samples" if key == "leave_out" else "with other weights of the samples"
            raise ConfigError(
                f"{path} was trained {trained}: the {what} {name} has changed, which now is {value}{counts}: restore "
                f"the {'list' if key == 'leave_out' else 'weights'}, or start a new run with a different run_dir"
            )
    if not keeps_order(state.get("order", 1), samples=samples, order=config.data.order):
        raise ConfigError(
            f"{path} was written by another version of this program, which visits the {samples:,} samples in another "
            "order: resume it with that version, or start a new run with a different run_dir; model.init="
            f"{config.run_dir} gives it these weights"
        )
    return state


def _compare(before: Any, now: int) -> str:
    return f"; {before} samples then, {now} now" if type(before) is int and before != now else ""
