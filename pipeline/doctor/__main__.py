"""What this machine can do, and what training will use: `python -m pipeline.doctor`.

Exit status: 0 when everything needed to train here works (a GPU is not needed), 1 when something is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence

from pipeline.doctor.checks import CHECKS, INSTALL, Finding

MARKS = {"ok": ("✓", "green"), "warning": ("–", "yellow"), "error": ("✗", "red")}


def examine(checks: Iterable[Callable[[], Finding]] = CHECKS) -> list[Finding]:
    """Runs the checks; one that raises (a package that is missing or does not load) is a finding itself."""
    findings = []
    for check in checks:
        try:
            findings.append(check())
        except Exception as error:
            name = check.__name__.removeprefix("check_")
            findings.append(Finding(name, "error", f"{type(error).__name__}: {error}", INSTALL))
    return findings


def what_is_used(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """What a run with default settings uses here, as (part, choice)."""
    good = {finding.name for finding in findings if finding.state == "ok"}
    gpu = "GPU" in good
    processes = next((f.found.partition(" ")[0] for f in findings if f.name == "GPU" and gpu), "1")
    return [
        ("train.device=auto", "cuda, bf16 autocast" if gpu else "cpu, fp32"),
        ("video decoding", "JPEG on the GPU, VP9 on the CPU" if gpu else "CPU"),
        ("the rest of the loader", "GPU" if gpu else "CPU"),
        ("between processes", "NCCL" if gpu and processes != "1" else "gloo (CPU)"),
        ("start with", f"torchrun --standalone --nproc_per_node={processes} train.py --config ..."),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m pipeline.doctor", description=__doc__).parse_args(arguments)
    findings = examine()
    broken = [finding.name for finding in findings if finding.state == "error"]
    try:
        _print_table(findings, ready=not broken)
    except ImportError:
        _print_plainly(findings)
    if broken:
        print(f"doctor: training does not work here yet; please fix: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def _print_table(findings: Sequence[Finding], *, ready: bool) -> None:
    # Imported late: the doctor must be able to say that rich is missing.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        mark, color = MARKS[finding.state]
        text = Text(finding.found)
        if finding.fix:
            text.append(f"\n→ {finding.fix}", style=color)
        table.add_row(Text(mark, style=color), Text(finding.name, style="bold"), text)
    console.print(table)
    if ready:
        used = Table.grid(padding=(0, 2))
        for part, choice in what_is_used(findings):
            used.add_row("", Text(part, style="bold"), Text(choice))
        console.print("\nWhat will be used")
        console.print(used)


def _print_plainly(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(f"{MARKS[finding.state][0]}  {finding.name}: {finding.found}" + f"  -> {finding.fix}" * bool(finding.fix))


if __name__ == "__main__":
    sys.exit(main())
