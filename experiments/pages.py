"""The pages about the experiments: one per question for readers, one with all figures, and an index."""

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
(Holm). Hyper-parameters were chosen on seeds from 100 on, which are in no table; the notes of an experiment say what
was tried, and not every such run was kept. The **probe** is the accuracy of a linear classifier on frozen features of
unseen samples, the mean of both modalities.

Rules: `fifo` keeps the newest keys (MoCo); `uniform` draws from the pool; `kmeanspp gradient` is the paper's rule;
`kmeanspp negative_gradient` is D² on the gradient that a candidate would cause *as a negative*; `hard` takes the
candidates most similar to the batch's queries; `ohem` takes those with the largest loss against their own pseudo-label;
`kcenter feature` takes, pick by pick, the key that is farthest from all picks so far; `adaptive` acts as `hard`, but as
`kcenter` where the hardest candidates would be false negatives. [Samplers](samplers.md) explains them.
"""
LEGEND = """\
- **probe**: accuracy of a linear classifier on frozen features of unseen samples, mean of both modalities.
- **R@1**: share of pairs whose other half is the nearest among 512 unseen pairs, mean of both directions.
- **distinct**: distinct classes in the dictionary per key. **false neg.**: share of (query, negative) of one class.
- **mass**: mean softmax probability that all the negatives of a query have together, which is how hard they are. The
  queries are random: for the batch that a dictionary was chosen for, the picks of `hard` and D² are harder than this.
- **CPU s**: CPU seconds of the training thread, with selection and without measurements. The encoders are so small that
  selection is a large part of a step, which it is not at real sizes; other work ran beside the trials.
- **at fifo's final**: where the mean curve first reaches the baseline's final probe, as a share of the baseline's steps
  and, if all trials ran on one kind of machine and one commit, of its CPU seconds. The baseline's own row shows where
  it first reaches that value itself.
"""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What is known about one question; all texts are Markdown."""

    name: str
    """Name of the files."""
    question: str
    verdict: Sequence[str]
    """Sentences; the first one stands in the index."""
    summary: str
    """The short tables."""
    method: str
    """How it was measured."""
    rerun: Sequence[str]
    """Commands that measure it again."""
    plot: str = ""
    """File name of the plot beside the page; empty without results."""
    details: str = ""
    """All figures, what they may mean, and notes."""


def write_pages(pages: Sequence[Page], *, docs: Path, results: Path) -> None:
    """Writes the index docs/results.md, docs/results/NAME.md for readers and NAME.md with all figures to `results`."""
    (docs / "results").mkdir(parents=True, exist_ok=True)
    results.mkdir(parents=True, exist_ok=True)
    for page in pages:
        (docs / "results" / f"{page.name}.md").write_text(_short(page), encoding="utf-8")
        (results / f"{page.name}.md").write_text(_long(page), encoding="utf-8")
    rows = [[f"[{page.question}](results/{page.name}.md)", page.verdict[0]] for page in pages]
    index = GENERATED + INDEX + markdown_table(["question", "verdict"], rows) + READING
    (docs / "results.md").write_text(index, encoding="utf-8")


def describe_machines(environments: Iterable[dict[str, Any]]) -> str:
    """How many trials ran on which processor, torch and commit."""
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
        f"All figures, how they may be read, and notes: [experiments/results/{page.name}.md]"
        f"(../../experiments/results/{page.name}.md). Terms: [results](../results.md#how-to-read-the-figures).\n",
        "To measure it again:\n",
        "```sh\n" + "\n".join(page.rerun) + "\n```\n",
    ]
    return "\n".join([*parts, *([f"![{page.question}]({page.plot})\n"] if page.plot else [])])


def _long(page: Page) -> str:
    return "\n".join([f"{GENERATED}# All figures: {page.question}\n", LEGEND, page.details])
