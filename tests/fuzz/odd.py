"""Unusual texts, values and YAML documents that tend to break parsers."""

from __future__ import annotations

import itertools
import string
from typing import Any


def _laughs() -> list[str]:
    """Returns the lines of a YAML bomb ("billion laughs"): each name repeats the one before 9 times (9 ** 9 values)."""
    letters = string.ascii_lowercase[:9]
    nine = (f"{b}: &{b} [{','.join(['*' + a] * 9)}]" for a, b in itertools.pairwise(letters))
    return ["a: &a [x,x,x,x,x,x,x,x,x]", *nine]


ODD_TEXTS = (
    *(
        "",
        " ",
        "a b",
        "\U0001f600 é",
        "-rf",
        "--help",
        "../../../etc/passwd",
        "/etc/passwd",
        "a\nb",
        "a\rb",
        "\t",
        "\0",
    ),
    *("'", '"', '"""', "`id`", "$(id)", ";ls", "|cat", "%s%n", "{0}", "null", "~", "yes", "1e3", "0x10", "nan"),
    *("x" * 300, "x" * 5000, "é" * 130, ".", "..", "a/b", "\\", "<script>alert(1)</script>"),
    *("\ufeff", "\x85", "\u2028", "\u202e"),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.0, -0.5, 1e308, 1e-320),
    *(float("inf"), float("-inf"), float("nan"), [], {}, [1], [0.1, 0.9], [0.9, 0.1], [None, 1], [[1, 2], 3]),
    *({"a": 1}, {1: 2}, {"options": {"a": [1]}}),
    *ODD_TEXTS,
)
ODD_YAML = (
    *(
        "[" * 30_000,
        "{a: " * 5_000,
        "- " * 5_000,
        "\n".join(_laughs()),
        f"sampler: {{options: {{{', '.join(_laughs())}}}}}",
    ),
    *("a: &a [*a]", "&a {data: *a}", "data: &x {path: *x}", "*nobody", "? [a]\n: 1", "sampler: {options: &o {a: *o}}"),
    *(
        "sampler: {options: {1: 2}}",
        "sampler: {options: {a: 2001-01-01, b: !!set {x}}}",
        "!!python/object/apply:os.system [id]",
    ),
    *("seed: !!python/name:os.system", "seed: !!int x", "seed: !!float", "seed: !!timestamp x", "seed: 2001-99-99"),
    *("seed: 0b", "seed: 0x", "seed: " + "9" * 5000, "seed: 0x" + "f" * 5000, "run_dir: 0x" + "f" * 5000),
    *("seed: 1:99:99", "seed: !!binary x", "seed: =", "<<: [1]", "<<: {seed: 1}", "--- 1\n--- 2", "%YAML 9.9\n--- {}"),
    *("seed: !<x> 1", "a\tb: c", "\t- x", '"\\ud800": 1', 'run_dir: "\\ud800"', 'run_dir: "a\\0b"', "seed: 1\nseed: 2"),
    *("? ", ": ", "seed: !!null x", "null", "[]", "3", "text", "''", "---\n...", "data:", "data: ~", "data: 3"),
    *("clip: {frames: 1_000}", "[1, 2]: 3", "{a: b}: c"),
)
