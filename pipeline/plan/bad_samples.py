"""Samples that turn out to be unreadable during training: which, why, and how many a run tolerates."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from common.files import write_atomically

_log = logging.getLogger(__name__)
_SHOWN = 20


class SampleError(RuntimeError):
    """Something cannot be read or decoded; the message is meant for the user.

    Args:
        message: what is wrong, where, and what to do.
        sample: id of the sample that is at fault; None if no single one is.
        file: the file that holds it.
        reason: what is wrong with it, in a few words that do not repeat the file.
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
    """Its id."""
    source: str
    """Path of its source video, relative to the source folder."""
    file: str
    """The shard (or raw video) that holds it."""
    reason: str
    replacement: int
    """The sample that was tried instead when it was first met."""


class BadSamples:
    """The distinct bad samples that a run has met, in the order in which it met them.

    Args:
        samples: how many samples the run trains on.
        max_fraction: the share of them that may be bad.
    """

    def __init__(self, *, samples: int, max_fraction: float) -> None:
        self._samples, self._max_fraction = samples, max_fraction
        self._known: dict[int, BadSample] = {}
        self._unshared = 0

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[BadSample]:
        return iter(self._known.values())

    def note(self, found: Iterable[BadSample]) -> None:
        """Adds what this process has found and warns of what is new.

        Raises:
            TooManyBadSamples: the limit is exceeded.
        """
        for bad in found:
            if bad.sample not in self._known:
                self._known[bad.sample] = bad
                self._unshared += 1
                _log.warning(
                    "sample %d (%s) in %s cannot be used: %s; using sample %d instead",
                    *(bad.sample, bad.source, bad.file, bad.reason, bad.replacement),
                )
        self._check()

    def share(self, *, any_rank: Callable[[bool], bool], gather: Callable[[list], list[list]]) -> bool:
        """Makes the list the same on all ranks, each of which must call this; True if any had found something.

        Args:
            any_rank: whether a flag holds on at least one rank.
            gather: every rank's list, in rank order.

        Raises:
            TooManyBadSamples: the limit is exceeded, on all ranks alike.
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
        """The list as plain values, for checkpoints."""
        return [asdict(bad) for bad in self]

    def restore(self, state: list[dict[str, int | str]]) -> None:
        """Restores from `state()`. A limit that has been lowered since then is applied at the next bad sample."""
        self._add(state)

    def write(self, path: Path) -> None:
        """Replaces `path` by the list, one JSON object per line."""
        write_atomically(path, "".join(json.dumps(bad, ensure_ascii=False) + "\n" for bad in self.state()))

    def _add(self, state: list[dict[str, int | str]]) -> None:
        for fields in state:
            self._known.setdefault(int(fields["sample"]), BadSample(**fields))  # type: ignore[arg-type]

    def _check(self) -> None:
        if len(self) > self._max_fraction * self._samples:
            raise TooManyBadSamples(
                f"{len(self)} of {self._samples} samples cannot be read or decoded, and "
                f"data.max_bad_fraction={self._max_fraction:g} allows {int(self._max_fraction * self._samples)}:\n"
                f"{listing(self)}\n"
                "copy these files again, or prepare the data again (python -m pipeline.prepare); a larger "
                "data.max_bad_fraction continues with other samples in their place"
            )


def listing(bad: Iterable[BadSample]) -> str:
    """Lines `file: reason: samples`, so that a missing shard is mentioned once."""
    groups: dict[tuple[str, str], list[str]] = {}
    for one in bad:
        groups.setdefault((one.file, one.reason), []).append(f"{one.sample} ({one.source})")
    lines = []
    for (file, reason), names in islice(groups.items(), _SHOWN):
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"  {file}: {reason}: sample {', '.join(names[:_SHOWN])}{more}")
    if len(groups) > _SHOWN:
        lines.append(f"  and {len(groups) - _SHOWN} more like these")
    return "\n".join(lines)
