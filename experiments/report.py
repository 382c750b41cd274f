"""Writes docs/results.md, docs/results/, and all figures and plots of the experiments, from the recorded results.

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
from common.phases import introduce
from common.terminal import command
from experiments import RESULTS

DOCS = ROOT / "docs"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.report", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the recorded results")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for results.md and results/")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    introduce("experiments.report", "writing the pages about the experiments", parse)

from common.finite import NotFiniteError
from common.markdown import markdown_table
from experiments import records
from experiments.analysis.primary import primary_section
from experiments.analysis.statistics import Estimate
from experiments.analysis.summary import Row, sentences, summarise
from experiments.esc50_page import esc50_page
from experiments.pages import LEGEND, Page, describe_machines, write_pages
from experiments.plots import plot_experiment
from experiments.sweep import SWEEPS, Planned, Sweep, is_tuning, load_sweep, plan
from settings.errors import ConfigError

EXPERIMENTS = ("mutual_information", "grid_words", "av_mnist", "quickstart", "ablations")
PLANNED = ("rivals", "ratios")
"""The experiments of experiments/PLAN.md, which have a page as soon as a trial on test seeds is recorded."""
COLUMNS = {
    "probe": "probe",
    "retrieval": "R@1",
    "distinct": "distinct",
    "false_negatives": "false neg.",
    "mass": "mass",
    "cpu_seconds": "CPU s",
}


@command("experiments.report", ConfigError, NotFiniteError)
def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for a sweep that cannot be read."""
    options = parse(arguments)
    names = [*EXPERIMENTS, *(name for name in PLANNED if _is_begun(name, options.results))]
    pages = [_page(name, options) for name in names if (SWEEPS / f"{name}.yaml").is_file()]
    pages.append(esc50_page(options.results, options.docs / "results"))
    write_pages(pages, docs=options.docs, results=options.results)
    return 0


def _is_begun(name: str, results: Path) -> bool:
    tested = [trial for trial in plan(load_sweep(name)) if not is_tuning(trial.group)]
    return bool(records.matching(records.load(results / f"{name}.jsonl"), tested))


def _page(name: str, options: argparse.Namespace) -> Page:
    """The page about one experiment; also writes its plot and its figures as JSON."""
    sweep = load_sweep(name)
    planned = list(plan(sweep, [group for group in sweep.groups if not is_tuning(group)]))
    recorded = records.matching(records.load(options.results / f"{name}.jsonl"), planned)
    done = [(trial, record) for trial, record in recorded if "failed" not in record]
    failed = [(trial, record["failed"]) for trial, record in recorded if "failed" in record]
    unfailed = [trial for trial in planned if trial not in [trial for trial, _ in failed]]
    conditions = summarise(done, baseline=sweep.baseline)
    if done:
        plot_experiment(conditions, options.docs / "results" / f"{name}.png")
        _write_summary(conditions, options.results / f"{name}.json", done)
    method = [sweep.setup.strip() + "\n", *([_measured_on(done)] if done else []), _missing(sweep, unfailed, done)]
    method += [f"**Failed and left out**: {t.condition} | {t.rule} | seed {t.seed}: {error}.\n" for t, error in failed]
    return Page(
        name=name,
        question=sweep.question,
        verdict=sweep.verdict.strip().splitlines(),
        summary=_primary(sweep, done)
        + "\n".join(f"## {c}\n\n{_summary_table(rows, sweep.baseline)}" for c, rows in conditions.items()),
        method="\n".join(method),
        rerun=[
            f"python -m experiments.run {name} --data DATA",
            f"python -m experiments.run {name} --data DATA --quick    # a small version",
        ],
        plot=f"{name}.png" if done else "",
        details="\n".join([LEGEND, *_details(sweep, conditions)]),
    )


def _primary(sweep: Sweep, done: Sequence[tuple[Planned, dict[str, Any]]]) -> str:
    """The section about the comparisons that were fixed beforehand; empty if there are none."""
    if not sweep.primary.questions:
        return ""
    return primary_section(done, sweep.primary) + "\n"


def _details(sweep: Sweep, conditions: dict[str, list[Row]]) -> list[str]:
    """For each condition: the table with all figures, one sentence per rule, and the interpretation; then the notes."""
    lines = []
    for condition, rows in conditions.items():
        lines += [f"## {condition}\n", _table(rows, sweep.baseline)]
        lines += [f"- {s}" for s in sentences(condition, rows, baseline=sweep.baseline)] + [""]
        if condition in sweep.reading:
            lines.append(str(sweep.reading[condition]).strip() + "\n")
    return [*lines, *([sweep.notes.strip() + "\n"] if sweep.notes else [])]


def _summary_table(rows: Sequence[Row], baseline: str) -> str:
    lines = []
    for row in rows:
        comparison = row.against.get("probe")
        cells = ["", "", ""] if comparison is None else [str(comparison.difference), *_p_values(row, comparison.p)]
        lines.append([f"`{row.rule}`", str(row.figures["probe"].n), str(row.figures["probe"]), *cells])
    return markdown_table(["rule", "seeds", "probe", f"probe − {baseline}", "p", "p, all"], lines)


def _table(rows: Sequence[Row], baseline: str) -> str:
    compared = [f"probe − {baseline}", "p", "p, all", f"at {baseline}'s final (steps, CPU)"]
    lines = []
    for row in rows:
        cells = [f"`{row.rule}`", str(row.figures["probe"].n)]
        cells += [_cell(name, row.figures.get(name)) for name in COLUMNS]
        comparison = row.against.get("probe")
        cells += ["", "", ""] if comparison is None else [str(comparison.difference), *_p_values(row, comparison.p)]
        reached = list(row.reaches.values())
        cells.append("never" if None in reached else ", ".join(f"{share:.0%}" for share in reached))
        lines.append(cells)
    return markdown_table(["rule", "seeds", *COLUMNS.values(), *compared], lines)


def _p_values(row: Row, p: float) -> list[str]:
    return ["" if math.isnan(value) else f"{value:.1g}" for value in (p, row.adjusted_p)]


def _cell(name: str, value: Estimate | None) -> str:
    if value is None:
        return ""
    return f"{value.mean:.1f}" if name == "cpu_seconds" else str(value).replace(" (1 seed)", "")


def _missing(sweep: Sweep, planned: Sequence[Planned], done: Sequence[tuple[Planned, Any]]) -> str:
    """Names the planned trials that have no result."""
    there = Counter((t.condition, t.rule) for t, _ in done)
    wanted = Counter((t.condition, t.rule) for t in planned)
    lacking: dict[str, list[str]] = {}
    for (condition, rule), n in wanted.items():
        if there[condition, rule] < n:
            lacking.setdefault(condition, []).append(f"{rule} {n - there[condition, rule]} of {n}")
    if not lacking:
        return f"All {len(planned)} planned trials were run (not counting those for tuning).\n"
    begun = {condition for condition, _ in there}
    absent = [condition for condition in lacking if condition not in begun]
    parts = [f"{condition}: {', '.join(rules)}" for condition, rules in lacking.items() if condition in begun]
    parts += [f"nothing at all of {'; '.join(absent)}"] if absent else []
    return f"**Not run yet** ({len(planned) - len(done)} of {len(planned)} trials): {'. '.join(parts)}.\n"


def _measured_on(done: Sequence[tuple[Planned, dict[str, Any]]]) -> str:
    hours = sum(record["curve"][-1]["wall_seconds"] for _, record in done) / 3600
    machines = describe_machines(record["environment"] for _, record in done)
    return f"Measured: {machines}; {hours:.1f} hours of one process in training steps.\n"


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
