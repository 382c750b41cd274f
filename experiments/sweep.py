"""From a YAML sweep to the list of its trials.

A sweep names `conditions` and `rules`, each a list of overrides of `base`, and `groups`: which of them are crossed with
which seeds. Hyper-parameters are chosen on the seeds of groups called `tuning` or `tuning ...`: these seeds must be in
no other group, and the report shows none of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.trees import flatten
from experiments.trial import TrialConfig
from settings.load import ConfigError, load_config, require, to_dict

SWEEPS = Path(__file__).parent / "sweeps"
TUNING = "tuning"


def is_tuning(group: str) -> bool:
    """Whether parameters were chosen on a group of this name."""
    return group.split()[:1] == [TUNING]


@dataclass(frozen=True)
class Sweep:
    """An experiment; `base` is the tree of a TrialConfig."""

    title: str
    """Heading of its part of the report."""
    question: str
    """What it asks, in a sentence or two."""
    base: dict[str, Any]
    """Settings that all trials share."""
    conditions: dict[str, Any]
    """Name -> list of key=value overrides."""
    rules: dict[str, Any]
    """Name -> list of key=value overrides; the first is what the others are compared with."""
    groups: dict[str, Any]
    """Name -> {conditions: [...], rules: [...], seeds: [...], set: [overrides]}."""
    quick: dict[str, Any] = field(default_factory=dict)
    """The group that --quick runs instead, in the same form."""
    reading: dict[str, Any] = field(default_factory=dict)
    """Condition -> what its rows mean, for the report: the part that no script can write."""
    notes: str = ""
    """What was learned on the tuning seeds, and why the experiment is as it is; Markdown, for the report."""

    def __post_init__(self) -> None:
        tuned = {seed for name, group in self.groups.items() if is_tuning(name) for seed in group.get("seeds", [])}
        for name, group in {**self.groups, "quick": self.quick}.items():
            for key, known in (("conditions", self.conditions), ("rules", self.rules)):
                unknown = [entry for entry in group.get(key, []) if entry not in known]
                require(not unknown, f"group {name}: {key} {unknown} are not defined; known: {', '.join(known)}")
            overlap = set() if is_tuning(name) or name == "quick" else tuned & set(group.get("seeds", []))
            require(not overlap, f"group {name} has seeds {sorted(overlap)} that parameters were tuned on")

    @property
    def baseline(self) -> str:
        return next(iter(self.rules))


@dataclass(frozen=True)
class Planned:
    """One trial of a sweep."""

    group: str
    condition: str
    rule: str
    seed: int
    settings: TrialConfig

    @property
    def digest(self) -> str:
        """Names the settings, so that a result is known to be of them and of no others."""
        settings = to_dict(self.settings)
        del settings["run"]["data"]["idle_priority"]  # it changes no result
        text = json.dumps(settings, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def load_sweep(name: str) -> Sweep:
    """The sweep of experiments/NAME.yaml.

    Raises:
        ConfigError: there is none, or it names what it does not define.
    """
    path = SWEEPS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SWEEPS.glob("*.yaml")))
        raise ConfigError(f"there is no experiment {name!r}; known: {known}")
    return load_config(Sweep, path)


def plan(sweep: Sweep, groups: list[str] | None = None, *, quick: bool = False) -> Iterator[Planned]:
    """The trials of these groups (None: all), seed by seed, so that what is there at any time is comparable.

    Raises:
        ConfigError: an unknown group, or overrides that make no valid configuration.
    """
    chosen = {"quick": sweep.quick} if quick else sweep.groups
    for name in groups or chosen:
        if name not in chosen:
            raise ConfigError(f"there is no group {name!r} in this experiment; known: {', '.join(chosen)}")
        group = chosen[name]
        for seed in group["seeds"]:
            for condition in group["conditions"]:
                for rule in group["rules"]:
                    overrides = [*sweep.conditions[condition], *group.get("set", []), *sweep.rules[rule]]
                    yield Planned(name, condition, rule, seed, _settings(sweep.base, overrides, seed))


def _settings(base: dict[str, Any], overrides: list[str], seed: int) -> TrialConfig:
    flat = [f"{key}={json.dumps(value)}" for key, value in flatten(base).items()]
    return load_config(TrialConfig, None, [*flat, *overrides, f"run.seed={seed}"])
