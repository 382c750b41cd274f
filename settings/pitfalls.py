"""Settings with which a run would learn less than it seems to, found before its first step."""

from __future__ import annotations

from dataclasses import dataclass

from settings.errors import ConfigError
from settings.load import AUTO
from settings.recipe import Resources, fewest_candidates, fit, value_of, with_value
from settings.schedule import learning_rate, total_steps
from settings.schema import Config

HIGHEST_LAST_RATE = 0.1
"""The learning rate of the last step should be less than this fraction of optim.lr."""
SHORTEST_RUN = 5
"""Number of steps from which a cosine ends below HIGHEST_LAST_RATE."""


@dataclass(frozen=True)
class Pitfall:
    """Something to tell the user before the first step."""

    message: str
    """Names the setting, what is wrong with it, and the value that would do."""
    fatal: bool = False
    """Whether the run would learn nothing."""


def find_pitfalls(config: Config, resources: Resources) -> list[Pitfall]:
    """Compares settings without any `auto` with the data.

    Returns nothing if the data set is smaller than one batch: the loader refuses it.
    """
    if resources.clips(config) < config.train.batch_size:
        return []
    found = [_batch(config, resources), _selection(config, resources)]
    found += [_epochs(config, resources), _schedule(config, resources)]
    return [pitfall for pitfall in found if pitfall is not None]


def _batch(config: Config, resources: Resources) -> Pitfall | None:
    batch, clips = config.train.batch_size, resources.clips(config)
    if batch <= clips / 2:
        return None
    counted = _counted(config, resources)
    left_out = f" and leaves out {(clips - batch) // config.clip.per_sample} of them" if batch < clips else ""
    return Pitfall(
        f"train.batch_size={batch} is more than half of the {counted} samples, so that an epoch has a single step"
        f"{left_out}: {_advice(config, resources, 'train.batch_size')}"
    )


def _selection(config: Config, resources: Resources) -> Pitfall | None:
    found = _shortage(config, resources)
    if found is None:
        return None
    message, fatal = found
    keys: tuple[str, ...] = ("dictionary.size", "pool.size", "train.batch_size")
    for count in range(1, len(keys) + 1):
        try:
            changed = _with_auto(config, resources, *keys[:count])
        except ConfigError:
            break
        if _shortage(changed, resources) is None:
            return Pitfall(f"{message}: {_advice(config, resources, *keys[:count])}", fatal)
    return Pitfall(f"{message}: add samples, or check data.path and data.split", fatal)


def _shortage(config: Config, resources: Resources) -> tuple[str, bool] | None:
    """Returns why selections will not find what they are asked for, and whether they will find nothing at all."""
    batch, clips, held = config.train.batch_size, resources.clips(config), config.dictionary.size
    counted = _counted(config, resources)
    size, stream = config.pool.size, config.pool_in_use.source == "stream"
    picks = min(batch * config.sampler.every_n_steps, held)
    if size < batch:
        return f"pool.size={size} is smaller than train.batch_size={batch}, so that the pool stays empty", True
    if config.dictionary.whole_pool:
        return None
    nothing = "no negative can be selected, because every sample is always in"
    if clips == batch:
        return f"{nothing} the batch (train.batch_size={batch}, {counted} samples)", True
    if held - picks >= clips:
        return f"{nothing} the dictionary (dictionary.size={held}, {counted} samples)", True
    candidates, needed = fewest_candidates(config, resources), held + batch
    if stream:
        # A stream pool brings clips that the dictionary has long lost, unless the data set has too few.
        candidates, needed = (clips, held + batch) if clips < held + batch else (size, picks)
    if candidates >= needed:
        return None
    return (
        f"selections will often pick fewer than {picks} keys: dictionary.size={held} and train.batch_size={batch} need "
        f"{needed} candidates, and there are {candidates} (pool.size={size}, {counted} samples)"
    ), False


def _epochs(config: Config, resources: Resources) -> Pitfall | None:
    total, train = total_steps(config, resources.clips(config) // config.train.batch_size), config.train
    if train.steps <= total:
        return None
    return Pitfall(
        f"train.epochs={train.epochs} ends the run after {total} of train.steps={train.steps} steps: "
        f"{_advice(config, resources, 'train.epochs')}"
    )


def _schedule(config: Config, resources: Resources) -> Pitfall | None:
    total, warmup = total_steps(config, resources.clips(config) // config.train.batch_size), config.optim.warmup_steps
    last = learning_rate(total - 1, peak=1.0, warmup=warmup, total=total)
    if total > warmup and last < HIGHEST_LAST_RATE:
        return None
    if total <= warmup:
        message = (
            f"optim.warmup_steps={warmup} is not shorter than the run, which has {total} steps, so that the learning "
            f"rate rises until the end, to {last:.0%} of optim.lr"
        )
    else:
        message = (
            f"the learning rate ends at {last:.0%} of optim.lr instead of near 0, because the run has {total} steps "
            f"and optim.warmup_steps={warmup}"
        )
    if total < SHORTEST_RUN:
        advice = f"give it at least {SHORTEST_RUN} steps with train.steps or train.epochs, and optim.warmup_steps=0"
    else:
        advice = _advice(config, resources, "optim.warmup_steps")
    return Pitfall(f"{message}: {advice}")


def _counted(config: Config, resources: Resources) -> str:
    """The number of samples, after that of their clips if these are more."""
    several = config.clip.per_sample > 1
    return f"{resources.clips(config)} clips of {resources.samples}" if several else f"{resources.samples}"


def _with_auto(config: Config, resources: Resources, *keys: str) -> Config:
    for key in keys:
        config = with_value(config, key, AUTO)
    return fit(config, resources)[0]


def _advice(config: Config, resources: Resources, *keys: str) -> str:
    """Advises the values that `auto` would give for these settings, where they differ from the present ones."""
    try:
        better = _with_auto(config, resources, *keys)
    except ConfigError:
        return "add samples, or check data.path and data.split"
    changes = [f"{key}={value_of(better, key)}" for key in keys if value_of(better, key) != value_of(config, key)]
    return f"set {' '.join(changes)}"
