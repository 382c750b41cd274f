"""Serves a web page that searches an index: `python -m search.serve INDEX [--videos SRC]`.

Drop or record a sound, drop a video or a picture, or take a clip of the index; results play from the right second. The
page is only for this machine, unless --host says otherwise: then browsers are asked for a token, which is printed.
"""

from __future__ import annotations

from common.signals import end_on_signals

if __name__ == "__main__":
    # Ending at once is safe: uploaded files have no names, and the kernel ends the workers together with this process.
    end_on_signals("serve")

import argparse
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from common.environment import MissingPackage
from common.phases import begin, close_log, open_log, say
from common.terminal import command, printable
from search.index.folder import Head, SearchIndexError, read_head
from search.packages import require_packages
from search.query.request import require_run
from settings import ConfigError
from training.saving.files import CheckpointError

TOKEN_VARIABLE = "CMACC_SEARCH_TOKEN"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@command("serve", CheckpointError, ConfigError, MissingPackage, SearchIndexError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake in the arguments, the index or the run."""
    options = _parse(arguments)
    require_packages("pyarrow", "starlette", "uvicorn")
    head = read_head(options.index)
    root = _sources(head, options.videos)
    run, no_encoder = None, ""
    try:
        run = require_run(head, options.run)
    except (SearchIndexError, CheckpointError) as error:
        if options.run is not None:
            raise
        no_encoder = f"{error}; until then only clips of the index can be searched for"
        say(no_encoder)
    token = _token(options.host)
    say(f"serving the {head.rows:,} rows of {options.index}")
    listening = _listen(options.host, options.port)
    begin("importing FAISS and torch")
    from search.serve.run import make_server

    def ready() -> None:
        close_log()
        print(_greeting(options.host, listening.getsockname()[1], token), flush=True)

    with make_server(
        options.index,
        listening,
        run=run,
        no_encoder=no_encoder,
        root=root,
        token=token,
        workers=options.workers,
        max_upload=options.max_upload * 2**20,
        ready=ready,
    ) as server:
        server.run(sockets=[listening])
    return 0


def _sources(head: Head, videos: Path | None) -> Path | None:
    """The folder whose files are played; None if there is none."""
    if videos is not None:
        if not videos.is_dir():
            raise SearchIndexError(f"--videos {printable(videos)} is not a folder")
        return videos
    if head.source.get("kind") == "folder" and (found := Path(head.source["path"])).is_dir():
        return found
    say("the clips cannot be played: name the folder of the videos with --videos")
    return None


def _token(host: str) -> str | None:
    """The token that browsers are asked for; None for a server that only this machine reaches."""
    given = os.environ.get(TOKEN_VARIABLE)
    if given is not None and len(given) < 16:
        raise SearchIndexError(f"{TOKEN_VARIABLE} must have at least 16 characters, because others could guess it")
    return given or (None if host in LOOPBACK else secrets.token_urlsafe(24))


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the address.

    Raises:
        SearchIndexError: it is in use, or not of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise SearchIndexError(
            f"cannot listen at {host} port {port}: {error.strerror}; choose another --port or --host"
        ) from None
    return listening


def _greeting(host: str, port: int, token: str | None) -> str:
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}/"
    if token is None:
        return f"Open {address} in a browser; Ctrl-C ends the server."
    if TOKEN_VARIABLE in os.environ:
        return f"Open {address} in a browser, and give it the token of {TOKEN_VARIABLE}; Ctrl-C ends the server."
    return f"Open {address}?token={token} in a browser; Ctrl-C ends the server.\nWhoever has this address can search."


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m search.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path, metavar="INDEX", help="folder of the index")
    parser.add_argument(
        "--videos", type=Path, metavar="SRC", help="folder of the sources (default: the one that was embedded)"
    )
    parser.add_argument("--run", type=Path, metavar="RUN", help="run or checkpoint of the encoders, if it was moved")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 for any that is free (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that decode uploads, and as many for frames (default: 2)"
    )
    parser.add_argument(
        "--max-upload", type=int, default=64, metavar="MIB", help="largest file to search by (default: %(default)s MiB)"
    )
    options = parser.parse_args(arguments)
    for name, least, most in (("port", 0, 65535), ("workers", 1, 64), ("max_upload", 1, 4096)):
        if not least <= getattr(options, name) <= most:
            parser.error(f"--{name.replace('_', '-')} must be from {least} to {most}, not {getattr(options, name)}")
    return options


if __name__ == "__main__":
    open_log("serve")
    sys.exit(main())
