"""Summarises the results of a campaign, and writes the table of docs/reliability.md."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.environment import environment
from tests.force.campaign import KINDS, VERDICTS, Record

SUMMARY = Path(__file__).parent / "summary.json"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
_PLACE = re.compile(r"(?<=<!-- table force -->\n).*?(?=<!-- end -->)", re.DOTALL)


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Counts the records per kind; `tried` counts the kills, flips or faults, and a case may hold several."""
    rows = []
    for name, kind in KINDS.items():
        of_kind = [record for record in records if record.kind == name]
        row: dict[str, Any] = {"kind": name, "what": kind.what, "cases": len(of_kind)}
        row["tried"] = sum(record.tried for record in of_kind)
        row |= {verdict: sum(record.verdict == verdict for record in of_kind) for verdict in VERDICTS}
        rows.append(row | {"seconds": round(sum(record.seconds for record in of_kind))})
    seeds = sorted({record.seed for record in records})
    return {"environment": environment(), "seeds": seeds, "rows": [row for row in rows if row["cases"]]}


def table(result: dict[str, Any]) -> str:
    """Formats the rows of a summary as a Markdown table."""
    lines = ["| kind | what was tried | tried | cases | kept | lost | silent | seconds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in result["rows"]:
        counts = " | ".join(f"{row[name]:,}" for name in ("tried", "cases", *VERDICTS, "seconds"))
        lines.append(f"| {row['kind']} | {row['what']} | {counts} |")
    return "\n".join(lines)


def publish(result: dict[str, Any]) -> None:
    """Writes the summary, and its table into the page."""
    SUMMARY.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), result), encoding="utf-8")


def filled(page: str, result: dict[str, Any]) -> str:
    """Returns the page with the table of a summary in its place."""
    return _PLACE.sub(lambda _: table(result) + "\n", page)
