"""Names of AudioSet's classes, from the ontology.json or class_labels_indices.csv that the user has."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.lists.annotation import AnnotationList
from pipeline.lists.table import LabelError
from settings.load import format_names

COLUMN = "label_name"
"""Column of the names; those of several classes are joined by SEPARATOR, as names hold commas."""
SEPARATOR = ";"


def read_ontology(path: Path) -> dict[str, str]:
    """Returns the names of classes by their ids, such as /m/09x0r.

    Raises:
        LabelError: the file cannot be read, or is neither of the two.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if text.lstrip()[:1] == "[":
            names = {entry["id"]: entry["name"] for entry in json.loads(text)}
        else:
            rows = csv.DictReader(io.StringIO(text, newline=""))
            names = {row["mid"]: row["display_name"] for row in rows}
    except OSError as error:
        raise LabelError(f"cannot read the ontology {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, csv.Error, RecursionError):
        names = {}
    if not names or not all(isinstance(item, str) and item for pair in names.items() for item in pair):
        raise LabelError(
            f"{path} is no ontology: it must be AudioSet's ontology.json (a list of objects with id and name) or "
            "class_labels_indices.csv (with columns mid and display_name)"
        )
    return {key.strip(): name.strip() for key, name in names.items()}


def add_names(lists: Sequence[AnnotationList], names: dict[str, str], *, path: Path) -> list[str]:
    """Adds the column of the names to the lists in the form audioset; a class that the ontology lacks keeps its id.

    Returns:
        Lines about classes that the ontology lacks.

    Raises:
        LabelError: no list has a class of the ontology.
    """
    unknown: Counter[str] = Counter()
    known = 0
    for one in lists:
        if one.form != "audioset":
            continue
        one.columns.append(COLUMN)
        for place, row in enumerate(one.rows):
            ids = [part for text in row.values.get("label", "").split(",") if (part := text.strip())]
            unknown.update(part for part in ids if part not in names)
            known += sum(part in names for part in ids)
            text = SEPARATOR.join(names.get(part, part) for part in ids)
            one.rows[place] = row._replace(values={**row.values, COLUMN: text})
    if not known:
        raise LabelError(
            f"no list is in the form audioset and has a class of the ontology {path}; leave --ontology out"
        )
    if not unknown:
        return []
    return [f"classes that the ontology lacks: {len(unknown):,} ({format_names(list(unknown)[:3])})"]
