"""Fits a run to its data: chooses the values of the settings that are `auto`.

The proportions are those of the paper (240,000 clips: batches of 128 clips, a pool of 300 batches, a dictionary of 30
batches, 50 epochs) as far as there are enough samples. With fewer, pool and dictionary shrink so that every selection
finds as many candidates as it needs, and the number of epochs grows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from settings.errors import ConfigError
from settings.load import AUTO
from settings.schedule import total_steps
from settings.schema import Config

LARGEST_BATCH = {"cuda": 128, "cpu": 32}
POOL_BATCHES, DICTIONARY_BATCHES = 300, 30
EPOCHS, FEWEST_STEPS = 50, 1000
LONGEST_WARMUP = 500


@dataclass(frozen=True)
class Resources:
    """What a run has to work with."""

    samples: int
    """Number of samples to train on."""
    device: str = "cpu"
    """Type of the device, cpu or cuda."""
    processes: int = 1
    """Number of processes that share a batch."""
    parts: tuple[tuple[int, float], ...] = ()
    """Of each data set of a mix the number of samples of a pass, and its share; empty if all samples are equally
    likely."""

    def clips(self, config: Config) -> int:
        """Number of clips per epoch, which batches, pool and dictionary are counted in."""
        return self.samples * config.clip.per_sample


class Choice(NamedTuple):
    """A value that was chosen for a setting, and why."""

    key: str
    value: int
    reason: str


def fit(config: Config, resources: Resources, *, saved: Mapping[str, Any] | None = None) -> tuple[Config, list[Choice]]:
    """Replaces `auto` by numbers, and sizes that cannot be: a stream pool that is larger than the data can fill, and
    another dictionary.size than pool.size with dictionary.whole_pool.

    The result depends on the arguments only, so that all processes of a run choose the same.

    Args:
        saved: for a run that is resumed, the settings it started with, by dotted key: they take precedence.

    Returns:
        The configuration without any `auto`, and what was chosen.

    Raises:
        ConfigError: train.batch_size is auto, and the samples are fewer than two of the smallest batches.
    """
    choices = []
    for key, choose in RULES.items():
        given = value_of(config, key)
        if given == AUTO or _is_impossible(config, key, resources):
            value, reason = choose(config, resources)
            before = (saved or {}).get(key)
            if type(before) is int and (given == AUTO or before <= given):
                value, reason = before, "as when this run started"
            if value != given:
                choices.append(Choice(key, value, reason))
            config = with_value(config, key, value)
    return config, choices


def value_of(config: Config, key: str) -> Any:
    """Returns the value of a setting of a section, such as train.steps."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def with_value(config: Config, key: str, value: Any) -> Config:
    """Returns the configuration with another value of a setting of a section."""
    section, name = key.split(".")
    changes: dict[str, Any] = {section: replace(getattr(config, section), **{name: value})}
    return replace(config, **changes)


def auto_value(config: Config, key: str, resources: Resources) -> int:
    """Returns the number that a setting would get if it alone were `auto`."""
    return value_of(fit(with_value(config, key, AUTO), resources)[0], key)


def auto_keys(config: Config) -> list[str]:
    """Returns the settings that are `auto` and wait for `fit`."""
    return [key for key in RULES if value_of(config, key) == AUTO]


def fewest_candidates(config: Config, resources: Resources) -> int:
    """Returns how many clips the pool holds when it holds fewest, after it has been filled for the first time.

    A stream pool holds the clips of its last N writes. If they are fewer than two epochs, some clips of the present
    epoch are also among those of the one before; the expected number of different clips is smallest when each epoch has
    written half of the pool. Of a mix this holds for each data set and its share of the writes.
    """
    batch, size, clips = config.train.batch_size, config.pool.size, config.clip.per_sample
    if config.pool_in_use.source == "epoch":
        filled = min(size // batch * batch, resources.samples * clips // batch * batch)
        return int(sum(min(filled * share, samples * clips) for samples, share in resources.parts)) or filled
    if not resources.parts:
        return _fewest_distinct(resources.samples * clips // batch * batch, size)
    return sum(_fewest_distinct(samples * clips, int(size * share)) for samples, share in resources.parts)


def _fewest_distinct(written: int, size: int) -> int:
    """Returns the fewest different clips among the last `size` that were written, `written` in each epoch."""
    return written if size >= 2 * written else int(size - size**2 / (4 * written))


def _batch_size(config: Config, resources: Resources) -> tuple[int, str]:
    samples, processes, per_sample = resources.samples, resources.processes, config.clip.per_sample
    limit = LARGEST_BATCH[resources.device]
    share = max(samples // 4, min(8, samples // 3))  # BatchNorm needs more than a few clips
    # A batch must not hold a sample twice.
    share = min([share, *(int(drawn / part) - 1 for drawn, part in resources.parts)])
    per_process = max(1, min(limit // per_sample, share) // processes)
    size = max(2, processes * 2 ** (per_process.bit_length() - 1))  # in samples
    if samples < 2 * size:
        raise ConfigError(
            f"train.batch_size=auto: {samples} samples are too few for {processes} process(es), which need at least "
            f"{2 * size}, two batches of {size}: add samples, or check data.path and data.split"
        )
    return (
        size * per_sample,
        f"about a quarter of the samples, at most {limit} on a {'GPU' if resources.device == 'cuda' else 'CPU'}",
    )


def _is_impossible(config: Config, key: str, resources: Resources) -> bool:
    """Returns whether a setting that is a number cannot have it, because of the data or of the settings before it."""
    if key == "pool.size":
        return config.pool.size > _largest_pool(config, resources)
    if key == "dictionary.size":
        return config.dictionary.whole_pool and config.dictionary.size != config.pool.size
    return False


def _largest_pool(config: Config, resources: Resources) -> int:
    """Number of rows with which a stream pool holds the newest key of every clip."""
    return 2 * resources.clips(config) if config.pool_in_use.source == "stream" else config.pool.size


def _pool_size(config: Config, resources: Resources) -> tuple[int, str]:
    stream = config.pool_in_use.source == "stream"
    everything = resources.clips(config) * (2 if stream else 1)
    given = config.pool.size
    wanted = POOL_BATCHES * config.train.batch_size if given == AUTO else given
    if wanted > everything:
        return everything, "two rows per sample hold the newest key of each" if stream else "all samples"
    return wanted, f"{POOL_BATCHES} batches"


def _dictionary_size(config: Config, resources: Resources) -> tuple[int, str]:
    batch = config.train.batch_size
    if config.dictionary.whole_pool:
        return config.pool.size, "all of the pool"
    half = fewest_candidates(config, resources) // 2 // batch * batch
    if half >= DICTIONARY_BATCHES * batch:
        return DICTIONARY_BATCHES * batch, f"{DICTIONARY_BATCHES} batches"
    return max(half, batch), "whole batches, half of the candidates"


def _steps(config: Config, resources: Resources) -> tuple[int, str]:
    epoch = resources.clips(config) // config.train.batch_size
    if config.train.epochs != AUTO:
        return config.train.epochs * epoch, "all of train.epochs"
    return max(EPOCHS * epoch, FEWEST_STEPS), f"{EPOCHS} epochs, at least {FEWEST_STEPS:,}"


def _epochs(config: Config, resources: Resources) -> tuple[int, str]:
    epoch = max(1, resources.clips(config) // config.train.batch_size)
    if config.train.steps:
        return max(1, -(-config.train.steps // epoch)), "as many as train.steps needs"
    return max(EPOCHS, -(-FEWEST_STEPS // epoch)), f"{EPOCHS}, at least {FEWEST_STEPS:,} steps"


def _warmup_steps(config: Config, resources: Resources) -> tuple[int, str]:
    total = total_steps(config, resources.clips(config) // config.train.batch_size)
    return min(LONGEST_WARMUP, total // 10), f"a tenth of the run, at most {LONGEST_WARMUP}"


RULES: dict[str, Callable[[Config, Resources], tuple[int, str]]] = {
    "train.batch_size": _batch_size,
    "pool.size": _pool_size,
    "dictionary.size": _dictionary_size,
    "train.steps": _steps,
    "train.epochs": _epochs,
    "optim.warmup_steps": _warmup_steps,
}
"""How each setting that may be `auto` is chosen, in an order in which each depends only on those before it."""
