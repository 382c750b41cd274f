"""Records samples that turn out to be unreadable during training, and limits how many a run tolerates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from common.files import write_json_lines
from common.terminal import printable

_log = logging.getLogger(__name__)
_SHOWN = 20
"""Largest number of lines in a list, and of samples per line."""


class SampleError(RuntimeError):
    """Data cannot be read or decoded; the message is meant for the user.

    Args:
        message: what is wrong, where, and what to do.
        sample: id of the sample at fault; None if no single sample is.
        file: the file that holds the sample.
        reason: what is wrong with the sample, in a few words that do not repeat the file.
    """

    def __init__(self, message: str, *, sample: int | None = None, file: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.sample, self.file, self.reason = sample, file, reason


class TooManyBadSamples(SampleError):
    """More samples are unreadable than data.max_bad_fraction allows; the message lists them."""


@dataclass(frozen=True, kw_only=True)
class BadSample:
    """A sample that could not be read or decoded."""

    sample: int
    """Id of the sample."""
    source: str
    """Path of its source video, relative to the source folder."""
    file: str
    """The shard (or raw video) that holds it."""
    reason: str
    replacement: int
    """Id of the sample that was tried in its place the first time."""


class BadSamples:
    """The distinct bad samples that a run has encountered, in order of first encounter.

    Args:
        samples: number of samples that the run trains on.
        max_fraction: largest fraction of them that may be bad.
    """

    def __init__(self, *, samples: int, max_fraction: float) -> None:
        self.samples, self._max_fraction = samples, max_fraction
        self._known: dict[int, BadSample] = {}
        self._unshared = 0
        self._write_failed = False

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[BadSample]:
        return iter(self._known.values())

    def note(self, found: Iterable[BadSample]) -> None:
        """Adds bad samples that this process has found, and logs a warning for each new one.

        Raises:
            TooManyBadSamples: the limit is exceeded.
        """
        for bad in found:
            if bad.sample not in self._known:
                self._known[bad.sample] = bad
                self._unshared += 1
                _log.warning(
                    "sample %d (%s) in %s cannot be used: %s; using sample %d instead",
                    *(bad.sample, printable(bad.source), printable(bad.file), printable(bad.reason), bad.replacement),
                )
        self._check()

    def share(self, *, any_rank: Callable[[bool], bool], gather: Callable[[list], list[list]]) -> bool:
        """Merges the lists of all ranks, each of which must call this; returns whether any rank had found a new one.

        Args:
            any_rank: collective that returns whether a flag is set on at least one rank.
            gather: collective that returns every rank's list, in rank order.

        Raises:
            TooManyBadSamples: the limit is exceeded; raised on all ranks alike.
        """
        if not any_rank(self._unshared > 0):
            return False
        first = len(self) - self._unshared
        for found in gather([asdict(bad) for bad in islice(self, first, None)]):
            self._add(found)
        self._unshared = 0
        self._check()
        return True

    def state(self) -> list[dict[str, int | str]]:
        """Returns the list as plain values, for checkpoints."""
        return [asdict(bad) for bad in self]

    def restore(self, state: list[dict[str, int | str]]) -> None:
        """Restores the list from `state()`; a limit lowered since then takes effect at the next bad sample."""
        self._add(state)

    def write(self, path: Path) -> None:
        """Writes the list to `path`, one JSON object per line; replaces the file atomically.

        A file that cannot be written, as on a full disk, does not end the run: a warning is logged once.
        """
        try:
            write_json_lines(path, self.state())
        except OSError as error:
            if not self._write_failed:
                _log.warning("cannot write %s: %s; the run continues without it", path, error.strerror or error)
            self._write_failed = True

    def _add(self, state: list[dict[str, int | str]]) -> None:
        for fields in state:
            self._known.setdefault(int(fields["sample"]), BadSample(**fields))  # type: ignore[arg-type]

    def _check(self) -> None:
        if len(self) > self._max_fraction * self.samples:
            raise TooManyBadSamples(
                f"{len(self)} of {self.samples} samples cannot be read or decoded, and "
                f"data.max_bad_fraction={self._max_fraction:g} allows {int(self._max_fraction * self.samples)}:\n"
                f"{listing(self)}\n"
                "copy these files again, or prepare the data again (python -m pipeline.prepare); to train on other "
                "samples in their place, raise data.max_bad_fraction"
            )


def listing(bad: Iterable[BadSample]) -> str:
    """Formats lines of `file: reason: samples`, so that a missing shard appears only once.

    Characters that are not printable are escaped: one line stays one line, whatever a file is called.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for one in bad:
        groups.setdefault((printable(one.file), printable(one.reason)), []).append(
            f"{one.sample} ({printable(one.source)})"
        )
    lines = []
    for (file, reason), names in islice(groups.items(), _SHOWN):
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"  {file}: {reason}: sample {', '.join(names[:_SHOWN])}{more}")
    if len(groups) > _SHOWN:
        lines.append(f"  and {len(groups) - _SHOWN} more like these")
    return "\n".join(lines)
