"""Sentences below a table that say what its test samples can show, and what they cannot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.statistics import CHANCE, wilson
from settings import DataConfig

FEW = 50
"""With fewer test samples, every table says what they can show."""
FEW_PER_K = 10
"""R@k and top-k accuracy need this many test samples times k, if that is more than FEW."""
GROUP = ("modality", "training", "layer")
"""The columns that, with the encoder, identify a row."""


def reportable(ks: Sequence[int], candidates: int) -> list[int]:
    """The values of k worth reporting: those below half the number of candidates.

    For the others, a random order has an R@k of at least 0.5.
    """
    return [k for k in ks if k < candidates / 2]


def omitted_recalls(ks: Sequence[int], candidates: int) -> list[str]:
    """A sentence about the R@k that are not reported, if any."""
    omitted = [k for k in ks if k not in reportable(ks, candidates)]
    if not omitted:
        return []
    names = " and ".join(f"R@{k}" for k in omitted)
    return [f"{names}: not reported, as k is at least half the number of candidates ({candidates})."]


def pretrained_on(trained: DataConfig, data: str) -> list[str]:
    """A sentence if the checkpoint was pre-trained on the samples that are tested, though without their labels.

    Args:
        trained: the data settings of the run.
        data: the folder that is evaluated.
    """
    whole = [one.path for one in trained.sets.values() if not one.split]
    if Path(data).resolve() not in [Path(path).resolve() for path in whole]:
        return []
    return [
        "The checkpoint was pre-trained on all samples of this data set, the test samples too (its "
        f"{'split in data.mix' if trained.mix else 'data.split'} is empty): this does not show how well it does on "
        "unseen videos."
    ]


def few_samples(rows: Sequence[dict[str, Any]], *, tests: int) -> list[str]:
    """What few test samples can and cannot show about the first encoder; nothing if there are enough.

    Args:
        rows: of a table: those of the checkpoint's encoder first, then the randomly initialised one, chance last.
        tests: number of distinct test samples.
    """
    scores = [column.removesuffix("_interval") for column in rows[0] if column.endswith("_interval")]
    few = [score for score in scores if tests < max(FEW, FEW_PER_K * _k(score))]
    if not few:
        return []
    width = {n: f"± {(wilson(0.5, n)[1] - wilson(0.5, n)[0]) / 2:.2f}" for n in (tests, 100, 400)}
    named = "" if few == scores else f" for {' and '.join(few).replace('_', ' ')}"
    return [
        f"{tests} test sample{' is' if tests == 1 else 's are'} few{named}: a single one changes an accuracy or R@k by "
        f"{1 / tests:.3f}, and the 95 % interval of a score near 0.5 is {width[tests]}; with 100 samples it would be "
        f"{width[100]}, with 400 {width[400]}.",
        *_verdicts(rows, few[0]),
    ]


def _k(score: str) -> int:
    """The k of R@k or top-k accuracy; 1 for other scores."""
    found = re.search(r"@(\d+)$|^top(\d+)_", score)
    return int(found[1] or found[2]) if found else 1


def _verdicts(rows: Sequence[dict[str, Any]], score: str) -> list[str]:
    """Compares the intervals of the first encoder with chance and with those of the second encoder."""
    chance = next((row for row in rows if str(row["encoder"]).startswith(CHANCE)), None)
    encoders = list(dict.fromkeys(row["encoder"] for row in rows if row is not chance))
    groups_by_claim: dict[tuple[bool, str], list[str]] = {}  # (is shown, claim) -> the groups it holds for
    for row in rows:
        if row["encoder"] != encoders[0] or f"{score}_interval" not in row:
            continue
        others: dict[str, list[float]] = {}
        if chance is not None and score in chance:
            others[f"chance ({chance[score]:.3f})"] = [chance[score]] * 2
        for other in rows:
            if len(encoders) > 1 and other["encoder"] == encoders[1] and _group(other) == _group(row):
                others[encoders[1]] = other[f"{score}_interval"]
        low, high = row[f"{score}_interval"]
        for name, (other_low, other_high) in others.items():
            above, below = low > other_high, high < other_low
            claim = f"{encoders[0]} is {'below' if below else 'above'} {name}"
            groups_by_claim.setdefault((above or below, claim), []).append(_group(row))
    lines = []
    for is_shown, verb in ((True, "show"), (False, "do not show")):
        claims = [
            f"that {claim}{_brackets(groups)}"
            for (shown, claim), groups in groups_by_claim.items()
            if shown == is_shown
        ]
        if claims:
            lines.append(f"By {score.replace('_', ' ')}, the test samples {verb} {'; '.join(claims)}.")
    return lines


def _brackets(groups: Sequence[str]) -> str:
    named = [group for group in groups if group]
    return f" ({'; '.join(named)})" if named else ""


def _group(row: dict[str, Any]) -> str:
    return ", ".join(str(row[column]) for column in GROUP if column in row)
