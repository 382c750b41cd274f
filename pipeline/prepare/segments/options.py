"""The lists that the command line names; importing this does not load NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.lists.classes import read_classes
from pipeline.lists.ontology import read_ontology
from pipeline.lists.published import require_forms


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The lists of a run, as the command line gives them.

    Attributes:
        paths: the lists.
        form: the form of all of them; None to find out each.
        ontology: names of AudioSet's classes.
        classes: name or file of a set of classes; rows of others are left out.
    """

    paths: tuple[Path, ...]
    form: str | None = None
    ontology: Path | None = None
    classes: str | None = None

    def require(self) -> None:
        """Raises LabelError or ConfigError if a file is missing or an option unknown, before anything slow begins."""
        require_forms(self.paths, self.form)
        if self.ontology is not None:
            read_ontology(self.ontology)
        if self.classes is not None:
            read_classes(self.classes)
