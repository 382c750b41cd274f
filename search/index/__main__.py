"""Builds an index of embeddings, changes it, or describes it.

    python -m search.index EMBEDDINGS INDEX                 builds one in the folder INDEX
    python -m search.index EMBEDDINGS INDEX --add           adds the rows of other embeddings
    python -m search.index INDEX --remove dog/1.mp4 ...     removes all rows of these sources
    python -m search.index INDEX                            says what it holds

EMBEDDINGS is a folder that search.embed wrote.
"""

from __future__ import annotations

from common.signals import end_on_signals

if __name__ == "__main__":
    # Ending at once is safe: until the last step of a change the old index is valid.
    end_on_signals("index")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.environment import MissingPackage
from common.phases import begin, open_log, say
from common.terminal import command, printable
from search.index.folder import Head, SearchIndexError, as_in_embeddings, read_head
from search.packages import require_packages


@command("index", MissingPackage, SearchIndexError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake in the arguments, the embeddings or the index."""
    options = _parse(arguments)
    require_packages("pyarrow")
    if options.embeddings is not None:
        return _from_embeddings(options)
    head = read_head(options.index)
    if options.remove or options.remove_list:
        named = [*options.remove, *(_listed(options.remove_list) if options.remove_list else ())]
        sources = [as_in_embeddings(name) for name in named]
        say(f"removing {len(sources):,} sources from {options.index}")
        begin("importing FAISS")
        from search.index.build import remove

        head, count = remove(options.index, sources)
        print(f"removed {count:,} rows")
    print(describe(options.index, head))
    return 0


def _from_embeddings(options: argparse.Namespace) -> int:
    if not (options.embeddings / "embeddings.json").exists():
        raise SearchIndexError(
            f"{options.embeddings} holds no finished embeddings; make some: python -m search.embed RUN SRC "
            f"{options.embeddings}"
        )
    if options.add:
        read_head(options.index)
    if options.add:
        say(f"adding the embeddings in {options.embeddings} to the index {options.index}")
    else:
        say(f"building the index {options.index} from the embeddings in {options.embeddings}")
    begin("importing FAISS")
    from search.index.build import add, build, grown, opened

    embeddings = opened(options.embeddings)
    if options.add:
        head, replaced = add(embeddings, options.index, replacing=options.replace)
        print(f"added {len(embeddings):,} rows" + (f" and removed {replaced:,} that they replace" if replaced else ""))
    else:
        head = build(embeddings, options.index, exact_up_to=options.exact_up_to)
    print(describe(options.index, head))
    for modality in grown(head):
        found = head.structures[modality]
        print(
            f"The {modality} cells were computed when the index had {found.trained_on:,} {modality} vectors; it now "
            f"has {found.vectors:,}. A new index would be faster to search: python -m search.index EMBEDDINGS NEW_INDEX"
        )
    return 0


def describe(folder: Path, head: Head) -> str:
    """What an index holds, in a few lines."""
    model = head.model
    lines = [f"{printable(folder)}: {head.rows:,} rows, {model['dim']} dimensions, of {printable(model['run'])}"]
    for modality, found in head.structures.items():
        how = "exact search"
        if found.kind == "ivfpq":
            how = f"IVF-PQ, {found.probes} cells probed, recall at 10 of {found.recall:.3f} against exact search"
        lines.append(f"{modality}: {found.vectors:,} vectors, {how}")
    return "\n".join(lines)


def _listed(path: Path) -> list[str]:
    """The lines of a file, without empty ones."""
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        return [name for line in file if (name := line.rstrip("\n"))]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.index", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("embeddings", nargs="?", type=Path, metavar="EMBEDDINGS", help="folder that search.embed wrote")
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of the index")
    parser.add_argument(
        "--exact-up-to",
        type=int,
        default=200_000,
        metavar="N",
        help="search exactly in up to N vectors, and by IVF-PQ in more (default: %(default)s)",
    )
    parser.add_argument("--add", action="store_true", help="add the rows of EMBEDDINGS to INDEX")
    parser.add_argument(
        "--replace", action="store_true", help="with --add, replace the rows of sources that INDEX already holds"
    )
    parser.add_argument("--remove", nargs="+", default=[], metavar="SOURCE", help="remove all rows of these sources")
    parser.add_argument("--remove-list", type=Path, metavar="FILE", help="remove the sources in a file, one per line")
    options = parser.parse_args(arguments)
    removes = bool(options.remove or options.remove_list)
    if removes and options.embeddings is not None:
        parser.error("--remove takes only INDEX, not EMBEDDINGS")
    if options.add and options.embeddings is None:
        parser.error("--add needs EMBEDDINGS and INDEX")
    if options.replace and not options.add:
        parser.error("--replace is only for --add")
    if options.exact_up_to < 0:
        parser.error(f"--exact-up-to must be at least 0, not {options.exact_up_to}")
    return options


if __name__ == "__main__":
    open_log("index")
    sys.exit(main())
