from __future__ import annotations

from pathlib import Path

import pytest

from experiments import records
from experiments.sweep import SWEEPS, TUNING, Primary, Question, Sweep, is_tuning, load_sweep, plan
from settings.errors import ConfigError

NAMES = sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def sweep(**changes) -> Sweep:
    given = {
        "question": "q",
        "setup": "s",
        "verdict": "v",
        "base": {"run": {"train": {"steps": 3}}},
        "conditions": {"small": ["run.dictionary.size=8"], "large": ["run.dictionary.size=16"]},
        "rules": {"fifo": ["run.sampler.name=fifo"], "hard": ["run.sampler.name=hard"]},
        "groups": {"main": {"conditions": ["small", "large"], "rules": ["fifo", "hard"], "seeds": [0, 1]}},
    }
    return Sweep(**{**given, **changes})


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_sweep_gives_valid_trials_and_quick_is_smaller(name: str):
    shipped = load_sweep(name)
    trials, quick = list(plan(shipped)), list(plan(shipped, quick=True))
    assert 0 < len(quick) < len(trials)
    assert {t.seed for t in trials if is_tuning(t.group)}.isdisjoint(t.seed for t in trials if not is_tuning(t.group))


def test_a_group_crosses_conditions_rules_and_seeds_seed_by_seed():
    trials = list(plan(sweep()))
    assert len(trials) == 8
    assert [t.seed for t in trials] == [0] * 4 + [1] * 4
    first, last = trials[0].settings.run, trials[-1].settings.run
    assert (first.dictionary.size, first.sampler.name, first.seed) == (8, "fifo", 0)
    assert (last.dictionary.size, last.sampler.name, last.seed) == (16, "hard", 1)


@pytest.mark.parametrize("name", [TUNING, f"{TUNING} of one rule"])
def test_seeds_that_parameters_were_tuned_on_cannot_be_in_another_group(name):
    tuned = {"conditions": ["small"], "rules": ["fifo"], "seeds": [1]}
    with pytest.raises(ConfigError, match=r"group main has seeds \[1\]"):
        sweep(groups={**sweep().groups, name: tuned})


def test_groups_of_tuning_may_share_their_seeds():
    tuned = {"conditions": ["small"], "rules": ["fifo"], "seeds": [100]}
    assert len(list(plan(sweep(groups={TUNING: tuned, f"{TUNING} of one rule": tuned})))) == 2


def test_an_unknown_rule_group_or_experiment_is_named_with_what_is_known():
    with pytest.raises(ConfigError, match="hrad"):
        sweep(groups={"main": {"conditions": ["small"], "rules": ["hrad"], "seeds": [0]}})
    with pytest.raises(ConfigError, match="known: main"):
        list(plan(sweep(), ["mian"]))
    with pytest.raises(ConfigError, match="mutual_information"):
        load_sweep("mutual")


def test_a_changed_setting_makes_old_results_not_count(tmp_path: Path):
    trials = list(plan(sweep()))
    path = tmp_path / "results.jsonl"
    records.append(path, trials[0], {"final": {"probe": 0.5}}, {})
    assert [t for t, _ in records.matching(records.load(path), trials)] == [trials[0]]
    changed = plan(sweep(base={"run": {"train": {"steps": 4}}}))
    assert records.matching(records.load(path), changed) == []


def test_a_line_cut_off_by_a_kill_is_neither_read_nor_in_the_way(tmp_path: Path):
    trials = list(plan(sweep()))
    path = tmp_path / "results.jsonl"
    path.write_text('{"digest": "abc", "fin')
    records.append(path, trials[1], {"final": {"probe": 0.5}}, {})
    assert [t for t, _ in records.matching(records.load(path), trials)] == [trials[1]]


def test_a_small_version_of_a_group_has_its_rules_and_the_seeds_and_settings_of_quick():
    small = {"conditions": ["small"], "rules": ["fifo"], "seeds": [7], "set": ["run.train.steps=1"]}
    trials = list(plan(sweep(quick=small), ["main"], quick=True))
    assert [(t.group, t.condition, t.rule, t.seed) for t in trials] == [
        ("main", c, r, 7) for c in ("small", "large") for r in ("fifo", "hard")
    ]
    assert {t.settings.run.train.steps for t in trials} == {1}


def test_primary_comparisons_of_unknown_rules_or_conditions_are_refused():
    with pytest.raises(ConfigError, match=r"primary: \['hrad', 'medium'\]"):
        sweep(primary=Primary(questions=(Question("hrad", "fifo", ("medium",)),)))
