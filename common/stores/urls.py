"""Checks and splits the URLs of folders and files in object stores; needs only the standard library."""

from __future__ import annotations

import argparse
import re
from urllib.parse import urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class UrlError(argparse.ArgumentTypeError, ValueError):
    """A URL cannot be used; the message is for the user and never repeats a secret.

    It is an ArgumentTypeError because argparse prints the message of such an error; for another ValueError it would
    print the argument itself.
    """


def is_url(text: object) -> bool:
    """Whether `text` has the form scheme://..., as opposed to a path in this machine's file system."""
    return _URL.match(str(text)) is not None


def check_url(text: str) -> str:
    """Returns `text` if it is a path or a URL that may be used; nothing is accessed. Serves as a type for argparse.

    Raises:
        UrlError: it is a URL that is malformed, names no bucket, or holds a user name, a query or a part `..`.
    """
    if not is_url(text):
        return text
    scheme = text.partition("://")[0]
    try:
        parts = urlsplit(text)
        host = parts.netloc
    except ValueError:
        raise UrlError(f"the {scheme}:// URL cannot be read: its brackets do not match") from None
    if "@" in host:
        raise UrlError(
            f"the {scheme}:// URL holds a user name or a password before @, which would end up in logs and configs: "
            "remove it, and set credentials in the environment (docs/stores.md)"
        )
    if parts.query or parts.fragment:
        raise UrlError(
            f"the {scheme}:// URL holds a query (after ? or #), which may be a signature and would end up in logs and "
            "configs: remove it, and set credentials in the environment (docs/stores.md)"
        )
    if not host and scheme.lower() not in ("file", "memory", "local"):
        raise UrlError(f"{text} names no bucket: it must have the form {scheme}://BUCKET/FOLDER")
    if ".." in parts.path.split("/"):
        raise UrlError(f"{text} contains a part .., which has no meaning in an object store")
    return text


def split_url(text: str) -> tuple[str, str, str]:
    """Splits a URL into scheme (in lower case), bucket (or host), and key without slashes at its ends or doubled."""
    scheme, _, rest = text.partition("://")
    bucket, _, key = rest.partition("/")
    return scheme.lower(), bucket, "/".join(part for part in key.split("/") if part)
