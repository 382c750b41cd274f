"""The pages about the experiments: for each question a short page and one with all figures, and an index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.markdown import markdown_table

GENERATED = "<!-- Written by `python -m experiments.report`; edit the sweeps or the generator, not this page. -->\n"
INDEX = """\
# Results: does an active dictionary help?

Each page answers one question: the verdict first, then the figures, how they were measured and how to measure again.
All experiments use small encoders on a CPU; nothing was measured at the paper's sizes.

"""
READING = """
## How to read the figures

Values are means over seeds ± 95 % intervals (Student's t). Differences are paired by seed; a claim needs p < 0.01
(two-sided paired t test) and at least 5 seeds. **p, all** is the same p adjusted for all comparisons of an experiment
(Holm). Hyper-parameters were chosen on seeds 100 and above, which are in no table; the notes of an experiment say what
was tried, and not every such run was recorded. The **probe** is the accuracy of a linear classifier on frozen features
of unseen samples, the mean of both modalities.

Rules: `fifo` keeps the newest keys (MoCo); `uniform` draws from the pool; `kmeanspp gradient` is the paper's rule;
`kmeanspp negative_gradient` is D² on the gradient that a candidate would cause *as a negative*; `hard` takes the
candidates most similar to the batch's queries; `ohem` takes those with the largest loss against their own pseudo-label;
`kcenter feature` always adds the key that is farthest from all keys picked so far; `adaptive` selects like `hard`, but
like `kcenter` where the hardest candidates would be false negatives. [Samplers](samplers.md) explains them.
"""
LEGEND = """\
- **probe**: accuracy of a linear classifier on frozen features of unseen samples, mean of both modalities.
- **R@1**: share of queries whose counterpart ranks first among 512 unseen pairs, mean of both directions.
- **distinct**: number of distinct classes in the dictionary, divided by its number of keys.
- **false neg.**: share of all (query, negative) pairs in which both have the same class.
- **mass**: mean total softmax probability of a query's negatives, which measures how hard they are. The queries are
  random: on the batch it was selected for, a dictionary of `hard` or `kmeanspp` is harder than shown.
- **CPU s**: CPU seconds of training, including selection but not the measurements. The encoders are so small that
  selection is a large part of a step, which it is not at real sizes; the machine also did other work during the trials.
- **at fifo's final**: where the mean curve first reaches the baseline's final probe, as a share of the baseline's steps
  and, if all trials ran on one kind of machine and one commit, of its CPU seconds. The baseline's own row shows where
  its mean curve first reaches that value.
"""


@dataclass(frozen=True, kw_only=True)
class Page:
    """The content of the two pages about one question; all texts are Markdown."""

    name: str
    """Name of both files, without suffix."""
    question: str
    verdict: Sequence[str]
    """Sentences; the index shows the first one."""
    summary: str
    """The tables of the short page."""
    method: str
    """How it was measured."""
    rerun: Sequence[str]
    """Commands that repeat the measurement."""
    plot: str = ""
    """File name of the plot beside the page; empty without results."""
    details: str = ""
    """The tables with all figures, their interpretation, and notes."""


def write_pages(pages: Sequence[Page], *, docs: Path, results: Path) -> None:
    """Writes results.md (the index) and results/NAME.md (short) to `docs`, and NAME.md (all figures) to `results`."""
    (docs / "results").mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    for page in pages:
        (docs / "results" / f"{page.name}.md").write_text(_short(page), encoding="utf-8")
        (results / f"{page.name}.md").write_text(_long(page), encoding="utf-8")
    rows = [[f"[{page.question}](results/{page.name}.md)", page.verdict[0]] for page in pages]
    index = GENERATED + INDEX + markdown_table(["question", "verdict"], rows) + READING
    (docs / "results.md").write_text(index, encoding="utf-8")


def describe_machines(environments: Iterable[dict[str, Any]]) -> str:
    """States how many trials ran on each processor, torch version and commit."""
    found = Counter(
        (e.get("gpu") or e["cpu"], e.get("versions", {}).get("torch"), (e["commit"] or "unknown")[:9])
        for e in environments
    )
    return "; ".join(
        f"{count} trials on {device}{f', torch {torch}' if torch else ''}, commit {commit}"
        for (device, torch, commit), count in found.most_common()
    )


def _short(page: Page) -> str:
    parts = [
        f"{GENERATED}# {page.question}\n",
        "\n".join(page.verdict) + "\n",
        page.summary,
        "## How it was measured\n",
        page.method,
        f"All figures, their interpretation, and notes: [experiments/results/{page.name}.md]"
        f"(../../experiments/results/{page.name}.md). Terms: [results](../results.md#how-to-read-the-figures).\n",
        "To measure it again:\n",
        "```sh\n" + "\n".join(page.rerun) + "\n```\n",
    ]
    return "\n".join([*parts, *([f"![{page.question}]({page.plot})\n"] if page.plot else [])])


def _long(page: Page) -> str:
    links = (
        f"How it was measured: [docs/results/{page.name}.md](../../docs/results/{page.name}.md). Rules and statistics: "
        "[docs/results.md](../../docs/results.md#how-to-read-the-figures).\n"
    )
    return "\n".join([f"{GENERATED}# All figures: {page.question}\n", links, page.details])
