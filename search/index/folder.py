"""The folder of an index: which files it consists of, and how a change replaces all of them at once.

`index.json` names the generation of the other files, so replacing that one file is what makes a change valid. A process
that is killed before it leaves the old index, and files that the next change removes. Needs only the standard library,
so that commands can answer mistakes before they import FAISS.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.files import make_folder, sync, write_atomically
from search.packages import require_utf8

FORMAT = 1
HEAD = "index.json"
MODALITIES = ("video", "audio")
_FILE = re.compile(r"(rows|video|audio)-(\d{6,})\.(arrow|flat|ivfpq)")
"""Names of the files of a generation."""


class SearchIndexError(Exception):
    """An index cannot be read, built or changed as asked; the message is for the user."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """How the vectors of a modality are searched."""

    kind: str
    """`exact` compares with every vector; `ivfpq` with those of `probes` cells, in compressed form, and then compares
    the best `refine` times `top` of them exactly."""
    vectors: int
    trained_on: int = 0
    """Number of vectors when the cells were computed; 0 for `exact`."""
    probes: int = 0
    refine: int = 0
    recall: float = 1.0
    """Recall at 10 against the exact search, measured on a sample of queries."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The content of index.json."""

    generation: int
    """Number of the changes of this folder; part of the names of its files."""
    rows: int
    next_id: int
    """Id of the next row to be added; ids are never used again."""
    model: dict[str, Any]
    """run, step, fingerprint, dim and modalities of the run whose encoders made the vectors, as in embeddings.json."""
    source: dict[str, Any]
    """kind and path of the data that was embedded first, as in embeddings.json."""
    exact_up_to: int
    """Number of vectors above which cells are computed for a modality."""
    structures: dict[str, Structure]
    """Modality -> its structure; a modality without vectors is absent."""

    def file(self, name: str, suffix: str) -> str:
        """Name of a file of this generation."""
        return f"{name}-{self.generation:06d}.{suffix}"


def read_head(folder: Path) -> Head:
    """Reads index.json.

    Raises:
        SearchIndexError: the folder holds no index, a damaged one, or one of another format.
        OSError: its path is not UTF-8.
    """
    require_utf8(folder)
    path = folder / HEAD
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise SearchIndexError(
            f"{folder} holds no index (no {HEAD}): make one with python -m search.index EMBEDDINGS {folder}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SearchIndexError(f"cannot read {path}: {error}") from None
    found = tree.get("format") if isinstance(tree, dict) else None
    if found != FORMAT:
        raise SearchIndexError(f"{path} has format {found!r}, but this version reads format {FORMAT}: build it again")
    try:
        structures = {name: Structure(**values) for name, values in tree.pop("structures").items()}
        del tree["format"]
        head = Head(**tree, structures=structures)
        _check(head)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise SearchIndexError(f"{path} is damaged ({error}): build the index again") from None
    return head


def as_in_embeddings(text: str) -> str:
    """A name from a command line or a list, as embeddings hold it: bytes that are not UTF-8 appear as \\xNN."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _check(head: Head) -> None:
    """Raises an error unless all values have the types that searches and changes rely on."""
    counts = [head.generation, head.rows, head.next_id, head.exact_up_to, head.model["dim"]]
    for found in head.structures.values():
        counts += [found.vectors, found.trained_on, found.probes, found.refine]
        if found.kind not in ("exact", "ivfpq") or type(found.recall) not in (int, float):
            raise ValueError(f"a structure is {found}")
    texts = [head.model["run"], head.model["fingerprint"]]
    if head.source.get("kind") == "folder":
        texts.append(head.source["path"])
    if any(type(count) is not int or count < 0 for count in counts) or any(type(text) is not str for text in texts):
        raise ValueError("a number or a name has another type")
    if not head.structures.keys() <= set(MODALITIES):
        raise ValueError(f"it has vectors of {', '.join(head.structures)}")


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Holds the lock of an index, which is made if it is missing; the kernel frees it when the process ends.

    Raises:
        SearchIndexError: another process is changing this index.
        OSError: the folder cannot be made or written to.
    """
    require_utf8(folder)
    make_folder(folder)
    descriptor = os.open(folder / "index.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SearchIndexError(f"another process is changing {folder}; wait until it has ended") from None
        yield
    finally:
        os.close(descriptor)


def publish(folder: Path, head: Head) -> None:
    """Makes the files of `head.generation`, which are complete, the index, and removes those of other generations.

    Raises:
        OSError: the disk is full or broken; the old index stays.
    """
    for path in folder.iterdir():
        if (found := _FILE.fullmatch(path.name)) and int(found[2]) == head.generation:
            sync(path)
    tree = {"format": FORMAT, **asdict(head)}
    write_atomically(folder / HEAD, json.dumps(tree, indent=2, ensure_ascii=False) + "\n", durable=True)
    remove_others(folder, head.generation)


def remove_others(folder: Path, generation: int) -> None:
    """Removes the files of all generations but one: older ones, and those of changes that did not end."""
    for path in list(folder.iterdir()):
        if (found := _FILE.fullmatch(path.name)) and int(found[2]) != generation:
            with suppress(OSError):  # a process that has a removed file open can still read it
                path.unlink()
