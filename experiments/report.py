"""Writes docs/results.md, its plots and a summary of each experiment from the results that are there.

python -m experiments.report
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.environment import ROOT
from experiments import records as stored
from experiments.esc50_section import esc50_section
from experiments.plots import plot_experiment
from experiments.statistics import Estimate
from experiments.summary import Row, sentences, summarise
from experiments.sweep import SWEEPS, Planned, Sweep, is_tuning, load_sweep, plan
from settings.load import ConfigError

DOCS = ROOT / "docs"
EXPERIMENTS = ("mutual_information", "grid_words", "av_mnist", "quickstart", "ablations")
COLUMNS = {
    "probe": "probe",
    "retrieval": "R@1",
    "distinct": "distinct",
    "false_negatives": "false neg.",
    "mass": "mass",
    "cpu_seconds": "CPU s",
}
HEAD = """\
# Results: does an active dictionary help?

Written by `python -m experiments.report` from the lines in `experiments/results/`; edit the sweeps
(`experiments/*.yaml`), not this page. Values are means over seeds ± 95 % intervals (Student's t). Differences are
paired by seed; a claim needs p < 0.01 (two-sided paired t test) and at least 5 seeds. **p, all** is the same p for
someone who looks at all comparisons of an experiment at once (Holm). Hyper-parameters were chosen on seeds from 100 on,
which are in no table; the notes say what was tried, and not every such run was kept.

- **probe**: accuracy of a linear classifier on frozen features of unseen samples, mean of both modalities.
- **R@1**: share of pairs whose other half is the nearest within 512 unseen pairs, mean of both ways.
- **distinct**: distinct classes in the dictionary a key. **false neg.**: share of (query, negative) of one class.
- **mass**: mean softmax probability that the negatives of a query have together: how hard they are. The queries are
  random: for the batch that a dictionary was chosen for, what `hard` and D² choose is harder than this shows.
- **CPU s**: of the training thread, selection included, measurements left out. The encoders are so small here that
  selection is a large part of a step, which it is not at the sizes of a real run; other work ran beside the trials.
- **at fifo's final**: where the mean curve first reaches the baseline's final probe, in shares of the baseline's
  steps and, of trials on one kind of machine and one commit, of its CPU seconds. The baseline's own row says where it
  is there first itself.

Rules: `fifo` keeps the newest keys (MoCo); `uniform` draws from the pool; `kmeanspp gradient` is the paper's rule;
`kmeanspp negative_gradient` is D² on the gradient that a candidate would cause *as a negative*; `hard` takes the
candidates most similar to the batch's queries; `kcenter feature` takes, pick by pick, the key that is farthest from all
picks so far.
"""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, or 2 for a sweep that cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=stored.RESULTS, help="folder of the results")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder that gets results.md and results/*.png")
    options = parser.parse_args(arguments)
    try:
        parts = [_experiment(name, options) for name in EXPERIMENTS if (SWEEPS / f"{name}.yaml").is_file()]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    parts.insert(-1, esc50_section(options.results, options.docs / "results" / "esc50_transfer.png"))
    options.docs.mkdir(parents=True, exist_ok=True)
    (options.docs / "results.md").write_text("\n".join([HEAD, *parts]), encoding="utf-8")
    return 0


def _experiment(name: str, options: argparse.Namespace) -> str:
    """The part of the page about one experiment; its plot and summary go to their files."""
    sweep = load_sweep(name)
    planned = list(plan(sweep, [group for group in sweep.groups if not is_tuning(group)]))
    records = stored.load(options.results / f"{name}.jsonl")
    done = stored.matching(records, planned)
    lines = [f"## {sweep.title}\n", sweep.question.strip() + "\n"]
    if done:
        conditions = summarise(done, baseline=sweep.baseline)
        plot_experiment(conditions, options.docs / "results" / f"{name}.png")
        lines.append(f"![{sweep.title}](results/{name}.png)\n")
        for condition, rows in conditions.items():
            lines += [f"### {condition}\n", _table(rows, sweep.baseline)]
            lines += [f"- {s}" for s in sentences(condition, rows, baseline=sweep.baseline)] + [""]
            if condition in sweep.reading:
                lines.append(str(sweep.reading[condition]).strip() + "\n")
        _write_summary(conditions, options.results / f"{name}.json", done)
        lines.append(_measured_on(done))
    if sweep.notes:
        lines.append(sweep.notes.strip() + "\n")
    lines.append(_missing(sweep, planned, done))
    lines.append(f"Rerun: `python -m experiments.run {name} --data DATA` (`--quick`: a small version).\n")
    return "\n".join(lines)


def _table(rows: Sequence[Row], baseline: str) -> str:
    compared = [f"probe − {baseline}", "p", "p, all", f"at {baseline}'s final (steps, CPU)"]
    head = ["rule", "seeds", *COLUMNS.values(), *compared]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"`{row.rule}`", str(row.figures["probe"].n)]
        cells += [_cell(name, row.figures.get(name)) for name in COLUMNS]
        comparison = row.against.get("probe")
        cells += ["", "", ""] if comparison is None else [str(comparison.difference), *_p_values(row, comparison.p)]
        reached = list(row.reaches.values())
        cells.append("never" if None in reached else ", ".join(f"{share:.0%}" for share in reached))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _p_values(row: Row, p: float) -> list[str]:
    return ["" if math.isnan(value) else f"{value:.1g}" for value in (p, row.adjusted_p)]


def _cell(name: str, value: Estimate | None) -> str:
    if value is None:
        return ""
    return f"{value.mean:.1f}" if name == "cpu_seconds" else str(value).replace(" (1 seed)", "")


def _missing(sweep: Sweep, planned: Sequence[Planned], done: Sequence[tuple[Planned, Any]]) -> str:
    """Says which planned trials have no result."""
    there = Counter((t.condition, t.rule) for t, _ in done)
    wanted = Counter((t.condition, t.rule) for t in planned)
    lacking: dict[str, list[str]] = {}
    for (condition, rule), n in wanted.items():
        if there[condition, rule] < n:
            lacking.setdefault(condition, []).append(f"{rule} {n - there[condition, rule]} of {n}")
    if not lacking:
        return f"All {len(planned)} planned trials were run (those for tuning not counted).\n"
    begun = {condition for condition, _ in there}
    whole = [condition for condition in lacking if condition not in begun]
    parts = [f"{condition}: {', '.join(rules)}" for condition, rules in lacking.items() if condition in begun]
    parts += [f"nothing at all of {'; '.join(whole)}"] if whole else []
    return f"**Not run yet** ({len(planned) - len(done)} of {len(planned)} trials): {'. '.join(parts)}.\n"


def _measured_on(done: Sequence[tuple[Planned, dict[str, Any]]]) -> str:
    found = Counter(
        (e["gpu"] or e["cpu"], e["versions"]["torch"], (e["commit"] or "unknown")[:9])
        for e in (record["environment"] for _, record in done)
    )
    parts = [
        f"{count} trials on {device}, torch {torch}, commit {commit}"
        for (device, torch, commit), count in found.most_common()
    ]
    hours = sum(record["curve"][-1]["wall_seconds"] for _, record in done) / 3600
    return f"Measured: {'; '.join(parts)}; {hours:.1f} hours of one process in training steps.\n"


def _write_summary(
    conditions: dict[str, list[Row]], path: Path, done: Sequence[tuple[Planned, dict[str, Any]]]
) -> None:
    plain = {
        condition: {
            row.rule: {
                "figures": {name: dataclasses.asdict(value) for name, value in row.figures.items()},
                "against": {name: value and dataclasses.asdict(value) for name, value in row.against.items()},
                "adjusted_p": None if math.isnan(row.adjusted_p) else row.adjusted_p,
                "reaches": row.reaches,
            }
            for row in rows
        }
        for condition, rows in conditions.items()
    }
    document = {"conditions": plain, "environment": done[-1][1]["environment"]}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
