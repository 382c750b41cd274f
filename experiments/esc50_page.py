"""The page about ESC-50, from the results of experiments.esc50_transfer and experiments.esc50_speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from common.markdown import markdown_table
from experiments import esc50_speech, records
from experiments.analysis.statistics import compare, estimate
from experiments.esc50_transfer import FILE, LOG_MEL, RANDOM, RULES, SETTINGS
from experiments.pages import Page, describe_machines
from experiments.sweep import Planned

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PLOT = "esc50_transfer.png"
QUESTION = "Does pre-training help on real sounds (ESC-50)?"
VERDICT = (
    "Pre-training on the sounds of the other folds puts the audio encoder ahead of random weights in all five folds, "
    "by .079 to .087 (p < .01).",
    "It is also ahead of the log-mel mean and deviation, with p < .01 for `kmeanspp gradient` and `hard` and p = .02 "
    "for `fifo`.",
    "No rule is shown to differ from `fifo`.",
    "p is over folds that share most of their training clips, with one run each: it says nothing about seeds.",
    "Encoders that were pre-trained on speech (GRID, AV-MNIST) are not shown to be ahead of their own random weights "
    "(a claim needs p < .01).",
)
SETUP = """\
All 2,000 clips, five official folds. An encoder is pre-trained without labels on four folds, whose sounds are paired
with generated videos of their spectrum, like the display of a spectrum analyser. A linear SVM on its frozen features
(averaged over 10 windows of 0.98 s per clip, C chosen within the four folds) is tested on the fifth fold, which neither
the encoder nor the SVM was trained on. The sounds are real; the videos are made from them because no large corpus of
real videos was available. Pre-training takes 400 steps, a minute and a half on one core. The settings were tried only
once, on an encoder that was pre-trained on all folds.
"""
SPEECH = """\
The second table tests the audio encoders of the experiments with GRID (800 sentences of one speaker) and AV-MNIST
(spoken digits, of which three make up 90 %; 1,000 steps; encoders trained again for this test, in fp32). They were
pre-trained on no sound of ESC-50. The same SVM uses the mean of 10 windows (0.64 s for GRID, 0.75 s for AV-MNIST);
accuracies are means over the five folds, with one encoder per seed. The encoders of GRID tend to be behind their own
random weights.
"""
COMPARED = (RANDOM, "fifo")
"""The rules that the others are compared with."""


def esc50_page(folder: Path, plots: Path) -> Page:
    """The page about ESC-50; its plot is written to the folder `plots` if anything was measured."""
    wanted = {rule: [*SETTINGS, *RULES[rule]] for rule in RULES}
    found = [r for r in records.load(folder / FILE) if r["settings"] == wanted.get(r["rule"])]
    table = {rule: {r["fold"]: r["accuracy"] for r in found if r["rule"] == rule} for rule in RULES}
    table = {rule: folds for rule, folds in table.items() if folds}
    method, details = [SETUP], ["## Pre-trained on the sounds of the other folds\n"]
    if table:
        _plot(table, plots / PLOT)
        method.append(f"Measured: {describe_machines(r['environment'] for r in found)}.\n")
        details += [_table(table, each=True), _sentences(table)]
    lacking = 5 * len(RULES) - sum(len(folds) for folds in table.values())
    method.append(f"**Not run yet**: {lacking} of {5 * len(RULES)} trials.\n" if lacking else "All trials were run.\n")
    return Page(
        name="esc50",
        question=QUESTION,
        verdict=VERDICT,
        summary="\n".join(["## Pre-trained on the sounds of the other folds\n", _table(table), speech_table(folder)]),
        method="\n".join([*method, SPEECH, speech_status(folder)]),
        rerun=[
            "python -m experiments.esc50_transfer --data DATA            # --quick: one fold",
            "python -m experiments.esc50_speech --data DATA --runs RUNS    # --quick: one seed",
        ],
        plot=PLOT if table else "",
        details="\n".join([*details, speech_table(folder)]),
    )


def _speech_records(folder: Path) -> tuple[list[dict[str, Any]], list[tuple[str, str, Planned]]]:
    """The recorded results of experiments.esc50_speech, and all its planned trials."""
    planned = list(esc50_speech.trials())
    wanted = {(corpus, rule, trial.seed, trial.digest) for corpus, rule, trial in planned}
    found = records.load(folder / esc50_speech.FILE)
    return [r for r in found if (r["corpus"], r["rule"], r["seed"], r["digest"]) in wanted], planned


def speech_table(folder: Path) -> str:
    """Markdown: accuracies of the encoders that learned from speech, compared by seed."""
    found, planned = _speech_records(folder)
    rows = []
    for corpus, rule in dict.fromkeys((corpus, rule) for corpus, rule, _ in planned):
        by_rule = {
            name: {r["seed"]: r["accuracy"] for r in found if (r["corpus"], r["rule"]) == (corpus, name)}
            for name in (*COMPARED, rule)
        }
        own = by_rule[rule]
        if not own:
            continue
        cells = [corpus, rule if rule == RANDOM else f"`{rule}`", str(len(own)), str(estimate([*own.values()]))]
        for other in COMPARED:
            against = compare(own, by_rule[other]) if rule not in (RANDOM, other) else None
            cells += [str(against.difference), f"{against.p:.1g}"] if against else ["", ""]
        rows.append(cells)
    head = ["pre-trained on", "rule", "seeds", "accuracy", "− random weights", "p", "− `fifo`", "p"]
    return "## Pre-trained on speech\n\n" + markdown_table(head, rows)


def speech_status(folder: Path) -> str:
    """Markdown: where the encoders that learned from speech were measured, and what is missing."""
    found, planned = _speech_records(folder)
    lines = [f"Measured: {describe_machines(r['environment'] for r in found)}.\n" if found else "Not run yet.\n"]
    if len(found) < len(planned):
        lines.append(f"**Not run yet**: {len(planned) - len(found)} of {len(planned)} trials.\n")
    return "\n".join(lines)


def _table(table: dict[str, dict[int, float]], *, each: bool = False) -> str:
    """One row per rule; with `each` also the accuracy on each fold."""
    others = (RANDOM, LOG_MEL)
    head = ["audio features", *(f"fold {fold}" for fold in range(1, 6) if each), "mean ± s.d."]
    head += [cell for other in others for cell in (f"− {other}", "p")]
    rows = []
    for rule, folds in table.items():
        cells = [rule if not RULES[rule] else f"pre-trained, `{rule}`"]
        cells += [f"{folds[fold]:.3f}" if fold in folds else "" for fold in range(1, 6) if each]
        values = list(folds.values())
        cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
        for other in others:
            found = compare(folds, table.get(other, {})) if rule not in others[: others.index(other) + 1] else None
            cells += [str(found.difference), f"{found.p:.1g}"] if found else ["", ""]
        rows.append(cells)
    return markdown_table(head, rows)


def _sentences(table: dict[str, dict[int, float]]) -> str:
    lines = []
    for rule in (rule for rule in table if RULES[rule]):
        found = compare(table[rule], table.get(RANDOM, {}))
        if found is None or found.difference.n < 5:
            continue
        ahead = sum(table[rule][fold] > table[RANDOM][fold] for fold in table[rule])
        verdict = (
            f"**is ahead of** the {RANDOM} encoder by {found.difference}"
            if found.p < 0.01
            else "is not shown to be ahead"
        )
        lines.append(f"- pre-trained with `{rule}`: {verdict} (p = {found.p:.1g}; ahead in {ahead} of 5 folds).")
    lines.append(
        "- p is over folds that share most of their training clips, with one run each: it says nothing about seeds."
    )
    for rule in (rule for rule in table if RULES[rule] and rule != "fifo"):
        found = compare(table[rule], table.get("fifo", {}))
        if found is not None and found.difference.n == 5:
            lines.append(f"- `{rule}` minus `fifo`: {found.difference} (p = {found.p:.2g}, one run per fold).")
    return "\n".join(lines) + "\n"


def _plot(table: dict[str, dict[int, float]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 2.6))
    for place, folds in enumerate(reversed(table.values())):
        axes.plot(list(folds.values()), [place] * len(folds), "o", alpha=0.5)
        axes.plot(np.mean(list(folds.values())), place, "k|", markersize=18)
    axes.set_yticks(range(len(table)), list(reversed(table)))
    axes.set(title="ESC-50 accuracy, each fold and the mean", xlabel="accuracy")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)
