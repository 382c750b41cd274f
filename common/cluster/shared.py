"""Folders that all nodes of a cluster must see, because tasks read and write files there."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from common.files import writer

_PROOFS = 20
"""Largest number of entries of a folder of which a node must see one; some may be deleted while the tasks run."""


class SharedFolder(NamedTuple):
    """A folder that all nodes must see, and how a node recognises it."""

    folder: Path
    proofs: tuple[Path, ...]
    """Files of the folder, of which a node must see at least one."""
    content: str | None = None
    """What these files contain; None if they only have to be there."""


class NotShared(Exception):
    """A node does not see a folder; the message names both."""


_checked: set[SharedFolder] = set()
"""The folders that this process on a node has seen."""


def require_shared(one: SharedFolder) -> None:
    """Raises NotShared unless this node sees the folder; looks once per process."""
    if one in _checked:
        return
    if not one.folder.is_dir():
        raise NotShared(f"does not see the folder {one.folder}; mount it there under the same path")
    if not any(_is_proof(path, one.content) for path in one.proofs):
        raise NotShared(
            f"sees another folder at {one.folder} than this machine: {one.proofs[0].name} is not there; mount the same "
            "folder under the same path"
        )
    _checked.add(one)


def _is_proof(path: Path, content: str | None) -> bool:
    try:
        return path.exists() if content is None else path.read_text(encoding="utf-8") == content
    except OSError:
        return False


def shared_folder(folder: Path) -> SharedFolder:
    """Describes a folder that is only read by some of its entries."""
    return SharedFolder(folder, tuple(itertools.islice(folder.iterdir(), _PROOFS)))


@contextmanager
def shared_output(folder: Path) -> Iterator[SharedFolder]:
    """Describes a folder that is written, by a file that exists until the block ends."""
    proof = folder / f".{writer()}.tmp"
    content = uuid.uuid4().hex
    proof.write_text(content, encoding="utf-8")
    try:
        yield SharedFolder(folder, (proof,), content)
    finally:
        proof.unlink(missing_ok=True)
