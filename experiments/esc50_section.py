"""The part of docs/results.md about ESC-50, from the lines that experiments.esc50_transfer wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from experiments import esc50_speech
from experiments import records as stored
from experiments.esc50_transfer import FILE, LOG_MEL, RANDOM, RULES, SETTINGS
from experiments.statistics import compare, estimate

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TITLE = "ESC-50: does pre-training help on real sounds?"
QUESTION = """\
All 2,000 clips, five official folds. An encoder is pre-trained without labels on four folds, whose sounds are paired
with moving pictures of their spectrum, as a spectrum analyser shows them; a linear SVM on its frozen features (10
windows of 0.98 s a clip averaged, C chosen within the four folds) is tested on the fifth, of which neither has heard
anything. The sounds are real and the pictures are made from them: there was no large corpus of real videos at hand. 400
steps, a minute and a half of one core; the settings were tried once, on an encoder that had heard all folds.
"""

SPEECH = """\
The audio encoders of the experiments with GRID (800 sentences of one speaker) and AV-MNIST (spoken digits, 90 % of them
three digits, 1,000 steps; trained again for this, in fp32): no sound of ESC-50 was in their pre-training. The same SVM
on the mean of 10 windows (0.64 and 0.75 s), the mean of the five folds, one encoder a seed.

Speech of one kind teaches little about other sounds: no encoder is clearly ahead of its own random weights, those of
GRID tend to be behind, and no rule differs from `fifo`. Pre-training on sounds of the world's kind is what helps
(above).
"""
RULED = (RANDOM, "fifo")
"""What the others are compared with."""


def esc50_section(folder: Path, plot: Path) -> str:
    """Markdown; the plot is written where something was measured."""
    lines = [f"## {TITLE}\n", QUESTION]
    wanted = {rule: [*SETTINGS, *RULES[rule]] for rule in RULES}
    records = [r for r in stored.load(folder / FILE) if r["settings"] == wanted.get(r["rule"])]
    table = {rule: {r["fold"]: r["accuracy"] for r in records if r["rule"] == rule} for rule in RULES}
    table = {rule: folds for rule, folds in table.items() if folds}
    if table:
        _plot(table, plot)
        lines += [f"![{TITLE}](results/{plot.name})\n", _table(table), _sentences(table), _measured_on(records)]
    lacking = 5 * len(RULES) - sum(len(folds) for folds in table.values())
    lines.append(f"**Not run yet**: {lacking} of {5 * len(RULES)} trials.\n" if lacking else "All trials were run.\n")
    lines.append("Rerun: `python -m experiments.esc50_transfer --data DATA` (`--quick`: one fold).\n")
    return "\n".join([*lines, speech_section(folder)])


def speech_section(folder: Path) -> str:
    """Markdown about the encoders that experiments.esc50_speech asked."""
    planned = list(esc50_speech.trials())
    wanted = {(corpus, rule, trial.seed, trial.digest) for corpus, rule, trial in planned}
    found = stored.load(folder / esc50_speech.FILE)
    records = [r for r in found if (r["corpus"], r["rule"], r["seed"], r["digest"]) in wanted]
    lines = ["### What encoders that learned from speech hear in it\n", SPEECH]
    lines += ["| audio encoder of | rule | seeds | accuracy | less random weights | p | less `fifo` | p |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for corpus, rule in dict.fromkeys((corpus, rule) for corpus, rule, _ in planned):
        of = {r: {x["seed"]: x["accuracy"] for x in records if (x["corpus"], x["rule"]) == (corpus, r)} for r in RULED}
        of[rule] = {x["seed"]: x["accuracy"] for x in records if (x["corpus"], x["rule"]) == (corpus, rule)}
        if not of[rule]:
            continue
        cells = [
            corpus,
            rule if rule == RANDOM else f"`{rule}`",
            str(len(of[rule])),
            str(estimate([*of[rule].values()])),
        ]
        for other in RULED:
            against = compare(of[rule], of[other]) if rule not in (RANDOM, other) else None
            cells += [str(against.difference), f"{against.p:.1g}"] if against else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("\n" + (_measured_on(records) if records else "Not run yet.\n"))
    if len(records) < len(planned):
        lines.append(f"**Not run yet**: {len(planned) - len(records)} of {len(planned)} trials.\n")
    lines.append("Rerun: `python -m experiments.esc50_speech --data DATA --runs RUNS` (`--quick`: one seed).\n")
    return "\n".join(lines)


def _table(table: dict[str, dict[int, float]]) -> str:
    others = (RANDOM, LOG_MEL)
    head = ["audio features", *(f"fold {fold}" for fold in range(1, 6)), "mean ± s.d."]
    head += [cell for other in others for cell in (f"less {other}", "p")]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for rule, folds in table.items():
        name = rule if not RULES[rule] else f"pre-trained, `{rule}`"
        cells = [name, *(f"{folds[fold]:.3f}" if fold in folds else "" for fold in range(1, 6))]
        values = list(folds.values())
        cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
        for other in others:
            found = compare(folds, table.get(other, {})) if rule not in others[: others.index(other) + 1] else None
            cells += [str(found.difference), f"{found.p:.1g}"] if found else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _sentences(table: dict[str, dict[int, float]]) -> str:
    lines = []
    for rule in (rule for rule in table if RULES[rule]):
        found = compare(table[rule], table.get(RANDOM, {}))
        if found is None or found.difference.n < 5:
            continue
        ahead = sum(table[rule][fold] > table[RANDOM][fold] for fold in table[rule])
        verdict = (
            f"**is ahead of** the {RANDOM} encoder by {found.difference}" if found.p < 0.01 else "is not shown ahead"
        )
        lines.append(f"- pre-trained with `{rule}`: {verdict} (p = {found.p:.1g}; ahead in {ahead} of 5 folds).")
    lines.append(
        "- p is over folds that share most of their training clips, with one run each: it says nothing of seeds."
    )
    for rule in (rule for rule in table if RULES[rule] and rule != "fifo"):
        found = compare(table[rule], table.get("fifo", {}))
        if found is not None and found.difference.n == 5:
            lines.append(f"- `{rule}` less `fifo`: {found.difference} (p = {found.p:.2g}, one run a fold).")
    return "\n".join(lines) + "\n"


def _measured_on(records: Sequence[dict[str, Any]]) -> str:
    found = Counter((r["environment"]["cpu"], (r["environment"]["commit"] or "unknown")[:9]) for r in records)
    parts = [f"{count} trials on {cpu}, commit {commit}" for (cpu, commit), count in found.most_common()]
    return "Measured: " + "; ".join(parts) + ".\n"


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
