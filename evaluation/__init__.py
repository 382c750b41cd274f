"""What frozen encoders know: protocols over the query encoders of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evaluation.knn import run_knn
from evaluation.linear import run_linear
from evaluation.retrieval import run_retrieval

# --protocol -> (features by encoder, Task or Split, settings) to rows of a table.
LABEL_PROTOCOLS: dict[str, Callable[..., list[dict[str, Any]]]] = {"linear": run_linear, "knn": run_knn}
PAIR_PROTOCOLS: dict[str, Callable[..., list[dict[str, Any]]]] = {"retrieval": run_retrieval}
PROTOCOLS = {**LABEL_PROTOCOLS, **PAIR_PROTOCOLS}
