"""Prints text safely to terminals, pipes and log files, and gives commands their error messages and exit statuses.

Names may hold any characters, and the output may have any encoding, be closed by its reader, or be on a full disk. The
module uses only the standard library, because `pipeline.doctor` must work where packages are missing; tables of rich
are printed through `common.console`.
"""

from __future__ import annotations

import codecs
import functools
import logging
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from common.signals import EXIT_INTERRUPTED

_PLAIN = {"✓": "+", "✗": "x", "→": "->", "–": "-", "—": "-", "−": "-", "±": "+-", "…": "...", "×": "x", "²": "2"}
"""Replacements for the non-ASCII characters of our messages where the encoding of the output lacks them."""
READER_LEFT = 141
"""Exit status if the reader of the output has closed it, as in `| head`: 128 + SIGPIPE."""


def printable(text: object, *, lines: bool = False) -> str:
    r"""Returns `text` with every unprintable character replaced by a Python escape such as `\x1b` or `\n`.

    Names of files and labels may hold any characters. Unescaped, control sequences would act on the terminal, and a
    line break would look like the start of another message.

    Args:
        lines: whether to keep line breaks, for multi-line texts in which names are already escaped.
    """
    return "".join(
        c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def encodable(text: str, encoding: str) -> str:
    """Returns `text` with characters that `encoding` lacks replaced by ASCII, such as `->` for an arrow."""
    return text.encode(encoding, "plainer").decode(encoding)


def print_error(name: str, error: object) -> None:
    """Prints `name: error` on stderr; of an OSError, the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        file = f" {error.filename}" if error.filename is not None else ""
        error = f"cannot read or write{file}: {error.strerror}"
    print(f"{name}: {printable(error, lines=True)}", file=sys.stderr, flush=True)


def show_logs() -> None:
    """Shows log messages from level INFO on stderr, as plain lines."""
    handler = _CurrentStderr()
    handler.setFormatter(_PrintableFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def command(name: str, *errors: type[Exception]) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Makes a decorator for the main function of a command, which then always returns an exit status.

    The output may have any encoding. An OSError (a folder that cannot be written, a full disk) or one of `errors` ends
    the command with one message and status 2; Ctrl-C ends it with `EXIT_INTERRUPTED`; and output that its reader has
    closed ends it with `READER_LEFT` and no message.

    Args:
        name: the name of the command in messages.
        errors: further exceptions whose message is for the user.
    """
    expected: tuple[type[Exception], ...] = (OSError, *errors)

    def decorate(main: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def run(*args: Any, **kwargs: Any) -> int:
            accept_any_text()
            try:
                status = main(*args, **kwargs) or 0
                sys.stdout.flush()
                return status
            except KeyboardInterrupt:
                _try_to_print(name, "interrupted")
                return EXIT_INTERRUPTED
            except expected as error:
                if isinstance(error, BrokenPipeError) and (_is_unread(sys.stdout) or _is_unread(sys.stderr)):
                    return READER_LEFT
                _try_to_print(name, error)
                return 2
            finally:
                _drop_unwritable_output()

        return run

    return decorate


def accept_any_text() -> None:
    """Makes stdout, stderr and log messages accept any text, whatever their encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plainer")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())


class _CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to the current sys.stderr, which a progress bar replaces so that messages appear above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters), error.end


codecs.register_error("plainer", _plainer)


def _try_to_print(name: str, error: object) -> None:
    with suppress(OSError):
        print_error(name, error)


def _is_unread(stream: TextIO) -> bool:
    """Whether the stream is a pipe or socket whose other end is closed."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError, AttributeError):  # not a file of the system
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _drop_unwritable_output() -> None:
    """Drops buffered text that cannot be written; Python would otherwise print an error for it when it exits."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
