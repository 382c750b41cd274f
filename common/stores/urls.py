"""URLs of folders and files in object stores; needs only the standard library."""

from __future__ import annotations

import argparse
import re
from urllib.parse import urlsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class UrlError(argparse.ArgumentTypeError, ValueError):
    """A URL cannot be used; the message is for the user and never repeats a secret.

    argparse prints the message of an ArgumentTypeError, and the argument itself for any other ValueError.
    """


def is_url(text: object) -> bool:
    """Whether `text` has the form scheme://..., as opposed to a path of this machine's file system."""
    return _URL.match(str(text)) is not None


def check_url(text: str) -> str:
    """Returns `text`, which is a path or a URL that may be used; nothing is accessed. Serves as a type for argparse.

    Raises:
        UrlError: it names no bucket, or holds a password or a signature.
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
            "remove it, and give credentials by the environment (docs/stores.md)"
        )
    if parts.query or parts.fragment:
        raise UrlError(
            f"the {scheme}:// URL holds a query (after ? or #), which may be a signature and would end up in logs and "
            "configs: remove it, and give credentials by the environment (docs/stores.md)"
        )
    if not host and scheme.lower() not in ("file", "memory", "local"):
        raise UrlError(f"{text} names no bucket: it must have the form {scheme}://BUCKET/FOLDER")
    if ".." in parts.path.split("/"):
        raise UrlError(f"{text} contains a part .., which has no meaning in an object store")
    return text


def split_url(text: str) -> tuple[str, str, str]:
    """Returns scheme in lower case, bucket (or host), and key without slashes at its ends, of a URL."""
    scheme, _, rest = text.partition("://")
    bucket, _, key = rest.partition("/")
    return scheme.lower(), bucket, "/".join(part for part in key.split("/") if part)
