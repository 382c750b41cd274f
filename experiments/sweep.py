"""Reads a sweep from YAML and lists its trials.

A sweep defines `conditions` and `rules`, each as a list of overrides of `base`, and `groups`, each of which crosses
some of them with seeds. Hyper-parameters are chosen on the seeds of the groups named `tuning` or `tuning ...`: no other
group may use these seeds, and the report shows none of them.
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
from settings.data import AudioAugmentConfig
from settings.errors import ConfigError, require
from settings.load import load_config, to_dict

SWEEPS = Path(__file__).parent / "sweeps"
TUNING = "tuning"
LATER_SETTINGS: dict[str, Any] = {
    "corpus.shards": "",
    "corpus.part": "all",
    "corpus.frequent": [0, 1, 2],
    "stretch": 1.0,
    "run.data.vp9_decoder": "cpu",
    "run.data.idle_priority": True,
    "run.data.leave_out": "",
    "run.data.cache_dir": "",
    "run.data.cache_gb": 20.0,
    "run.data.mix": {},
    "run.data.weights": "",
    "run.train.timeout_seconds": 300.0,
    "run.checkpoint.scratch": "",
    "run.checkpoint.upload_seconds": 600.0,
    "run.clip.per_sample": 1,
    "run.audio_augment": to_dict(AudioAugmentConfig()),
    "run.sampler.temperature": None,
    "run.loss.temperature_high": None,
    "run.loss.temperature_period": 0,
    "run.loss.false_negatives": "keep",
    "run.loss.agreement": 0.2,
    "run.loss.outrank_power": 0.0,
    "run.loss.outrank_floor": 0.02,
    "run.dictionary.whole_pool": False,
    "run.train.super_batch": 1,
    "run.loss.debias": 0.0,
    "run.loss.hardness": 0.0,
    "run.optim.rates": {},
    "run.optim.layer_decay": 1.0,
    "run.optim.freeze": [],
    "run.model.init": "",
    "run.model.init_video": "",
    "run.model.init_audio": "",
    "run.log.trackio": False,
    "run.log.trackio_project": "cm-acc",
    "run.log.mlflow": False,
    "run.log.mlflow_experiment": "cm-acc",
}
"""Settings that were added after some results had been recorded, with the value at which the code behaves as before. A
setting with this value does not enter the digest of a trial, so that the older results remain valid."""


def is_tuning(group: str) -> bool:
    """Whether the group of this name is one that hyper-parameters were chosen on."""
    return group.split()[:1] == [TUNING]


@dataclass(frozen=True)
class Aim:
    """A claim that a sweep is to decide."""

    rule: str = ""
    """The rule that is to win; empty: no aim."""
    below: dict[str, float] = field(default_factory=dict)
    """Rival -> the p below which the rule must beat it. It is not adjusted: to reach it in several conditions by chance
    is far less probable than in one."""
    wins: int = 1
    """In how many conditions the rule must beat all of these rivals."""
    among: tuple[str, ...] = ()
    """The conditions that count for `wins`; the others are controls."""
    margin: float = 0.0
    """The mean may not be lower than that of a rival by more than this, in any condition, controls included."""


@dataclass(frozen=True)
class Question:
    """Does a rule beat a rival?"""

    rule: str
    against: str
    conditions: tuple[str, ...]
    """Where the two are compared."""


@dataclass(frozen=True)
class Primary:
    """The comparisons that are fixed before the trials are run, and adjusted for one another."""

    metric: str = "probe"
    """The final figure that is compared."""
    questions: tuple[Question, ...] = ()
    secondary: tuple[Question, ...] = ()
    """Further comparisons, which are adjusted for one another only and give estimates."""
    aim: Aim = field(default_factory=Aim)


@dataclass(frozen=True)
class Sweep:
    """An experiment; `base` is the tree of a TrialConfig."""

    question: str
    """The question that the experiment answers: the title of its page."""
    setup: str
    """How it is answered: data, training and measurement, in a few sentences."""
    verdict: str
    """The answer, in at most five sentences that the results support, one per line; the index shows the first."""
    base: dict[str, Any]
    """Settings that all trials share."""
    conditions: dict[str, Any]
    """Name -> list of key=value overrides."""
    rules: dict[str, Any]
    """Name -> list of key=value overrides; the first rule is the baseline that the others are compared with."""
    groups: dict[str, Any]
    """Name -> {conditions: [...], rules: [...], seeds: [...], set: [overrides]}."""
    quick: dict[str, Any] = field(default_factory=dict)
    """The only group of --quick, in the same form. Where --quick names a group, its seeds and overrides apply to it."""
    primary: Primary = field(default_factory=Primary)
    """The comparisons that the page shows first."""
    reading: dict[str, Any] = field(default_factory=dict)
    """Condition -> interpretation of its rows; Markdown, for the page with all figures."""
    notes: str = ""
    """Findings on the tuning seeds, and reasons for the experiment's design; Markdown, for the same page."""

    def __post_init__(self) -> None:
        count = len(self.verdict.strip().splitlines())
        require(0 < count <= 5, f"verdict must be 1 to 5 lines with one sentence each, not {count} lines")
        tuned = {seed for name, group in self.groups.items() if is_tuning(name) for seed in group.get("seeds", [])}
        for name, group in {**self.groups, "quick": self.quick}.items():
            for key, known in (("conditions", self.conditions), ("rules", self.rules)):
                unknown = [entry for entry in group.get(key, []) if entry not in known]
                require(not unknown, f"group {name}: {key} {unknown} are not defined; known: {', '.join(known)}")
            overlap = set() if is_tuning(name) or name == "quick" else tuned & set(group.get("seeds", []))
            require(not overlap, f"group {name} has seeds {sorted(overlap)} that parameters were tuned on")

        aim, questions = self.primary.aim, self.primary.questions + self.primary.secondary
        rules = {rule for question in questions for rule in (question.rule, question.against)} | {*aim.below}
        rules |= {aim.rule} if aim.rule else set()
        conditions = {condition for question in questions for condition in question.conditions} | {*aim.among}
        unknown = [*sorted(rules - set(self.rules)), *sorted(conditions - set(self.conditions))]
        require(not unknown, f"primary: {unknown} are neither rules nor conditions of the sweep")

    @property
    def baseline(self) -> str:
        """The rule that the others are compared with."""
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
        """Identifies the settings: a result counts for a trial only if their digests are equal."""
        settings = to_dict(self.settings)
        _remove_later_settings(settings)
        text = json.dumps(settings, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def load_sweep(name: str) -> Sweep:
    """The sweep of experiments/sweeps/NAME.yaml.

    Raises:
        ConfigError: there is no such file, or it is not a valid sweep.
    """
    path = SWEEPS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SWEEPS.glob("*.yaml")))
        raise ConfigError(f"there is no experiment {name!r}; known: {known}")
    return load_config(Sweep, path)


def plan(sweep: Sweep, groups: list[str] | None = None, *, quick: bool = False) -> Iterator[Planned]:
    """The trials of these groups (None: all), seed by seed, so that an unfinished sweep compares all rules.

    With `quick`, the trials of the small version of the sweep or, if groups are named, of these groups.

    Raises:
        ConfigError: a group is unknown, or its overrides do not make a valid configuration.
    """
    chosen = sweep.groups
    if quick:
        small = {key: sweep.quick[key] for key in ("seeds", "set")} if groups else {}
        chosen = {name: group | small for name, group in chosen.items()} if groups else {"quick": sweep.quick}
    for name in groups or chosen:
        if name not in chosen:
            raise ConfigError(f"this experiment has no group {name!r}; known: {', '.join(chosen)}")
        group = chosen[name]
        for seed in group["seeds"]:
            for condition in group["conditions"]:
                for rule in group["rules"]:
                    overrides = [*sweep.conditions[condition], *group.get("set", []), *sweep.rules[rule]]
                    yield Planned(name, condition, rule, seed, _settings(sweep.base, overrides, seed))


def _settings(base: dict[str, Any], overrides: list[str], seed: int) -> TrialConfig:
    flat = [f"{key}={json.dumps(value)}" for key, value in flatten(base).items()]
    return load_config(TrialConfig, None, [*flat, *overrides, f"run.seed={seed}"])


def _remove_later_settings(tree: dict[str, Any]) -> None:
    """Removes those of LATER_SETTINGS that have the value given there."""
    for dotted, value in LATER_SETTINGS.items():
        *sections, key = dotted.split(".")
        branch = tree
        for section in sections:
            branch = branch[section]
        if branch.get(key) == value:
            del branch[key]


def parse_share(text: str) -> tuple[int, int]:
    """(I, N) of an option `--share I/N`: every N-th trial, from the I-th.

    Raises:
        ConfigError: it has another form.
    """
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f"--share must be I/N with I < N, as in 0/2, not {text!r}")
    return int(index), int(count)
