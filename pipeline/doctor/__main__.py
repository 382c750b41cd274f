"""Checks whether this machine can train and shows what training will use: `python -m pipeline.doctor`.

With SHARDS --verify it reads a prepared data set instead, and lists everything in it that is damaged.

Exit status: 0 if everything that training needs works here (a GPU is optional) or, with --verify, if nothing is
damaged; 1 if something does not work or is damaged; 2 if the command itself fails.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from common.phases import begin, open_log, say
from common.terminal import command, print_error, printable
from pipeline.doctor.checks import CHECKS, INSTALL, Finding

MARKS = {"ok": ("✓", "green"), "warning": ("–", "yellow"), "error": ("✗", "red")}
"""Symbol and colour of each state of a finding."""


def examine(checks: Iterable[Callable[[], Finding]] = CHECKS) -> list[Finding]:
    """Runs the checks; a check that raises (if a package cannot be imported, for example) gives an error."""
    findings = []
    for check in checks:
        begin(check.__name__.removeprefix("check_").replace("_", " "), quietly=True)
        try:
            findings.append(check())
        except Exception as error:
            name = check.__name__.removeprefix("check_")
            findings.append(Finding(name, "error", f"{type(error).__name__}: {error}", INSTALL))
    return findings


def choices(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """Returns what a run with default settings uses on this machine, as (component, choice) pairs."""
    working = {finding.name for finding in findings if finding.state == "ok"}
    gpu = "GPU" in working
    processes = next((f.found.partition(" ")[0] for f in findings if f.name == "GPU" and gpu), "1")
    return [
        ("train.device=auto", "cuda, bf16 autocast" if gpu else "cpu, fp32"),
        ("video decoding", "JPEG on the GPU, VP9 on the CPU" if gpu else "CPU"),
        ("crops and spectrograms", "GPU" if gpu else "CPU"),
        ("process communication", "NCCL" if gpu and processes != "1" else "gloo (CPU)"),
        ("start with", f"torchrun --standalone --nproc_per_node={processes} train.py --config ..."),
    ]


@command("doctor")
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.doctor", description=__doc__)
    parser.add_argument("shards", metavar="SHARDS", nargs="?", type=Path, help="folder of prepared data, for --verify")
    parser.add_argument("--verify", action="store_true", help="read all of SHARDS and compare it with its checksums")
    options = parser.parse_args(arguments)
    if options.verify != (options.shards is not None):
        parser.error("to check a prepared data set, give both: SHARDS --verify")
    if options.verify:
        say(f"comparing {options.shards} with its checksums")
        # Imported here so that the doctor itself starts even if packages that this import needs are missing.
        from pipeline.doctor.verify import verify

        return verify(options.shards)
    say("checking what this machine supports")
    findings = examine()
    errors = [finding.name for finding in findings if finding.state == "error"]
    try:
        _print_table(findings, ready=not errors)
    except ImportError:
        _print_plainly(findings)
    if errors:
        print_error("doctor", f"training does not work here yet; please fix: {', '.join(errors)}")
    return 1 if errors else 0


def _print_table(findings: Sequence[Finding], *, ready: bool) -> None:
    # Imported here so that the doctor can report that rich is missing.
    from rich.table import Table
    from rich.text import Text

    from common.console import Console

    console = Console()
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        mark, color = MARKS[finding.state]
        text = Text(printable(finding.found))
        if finding.fix:
            text.append(f"\n→ {printable(finding.fix)}", style=color)
        table.add_row(Text(mark, style=color), Text(finding.name, style="bold"), text)
    console.print(table)
    if ready:
        used = Table.grid(padding=(0, 2))
        for component, choice in choices(findings):
            used.add_row("", Text(component, style="bold"), Text(choice))
        console.print()
        console.print("Training will use")
        console.print(used)


def _print_plainly(findings: Sequence[Finding]) -> None:
    for finding in findings:
        fix = f"  -> {finding.fix}" * bool(finding.fix)
        print(f"{MARKS[finding.state][0]}  {finding.name}: {printable(finding.found)}{fix}")


if __name__ == "__main__":
    open_log("doctor")
    sys.exit(main())
