"""Errors of object stores, whose messages never repeat a secret."""

from __future__ import annotations

import os
import re

_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCOUNT_KEY|STORAGE_KEY|ACCESS_KEY|SAS|CONNECTION_STRING", re.IGNORECASE)
"""Names of environment variables whose values are secrets."""
_SHORTEST_SECRET = 6
"""Values with fewer characters are not masked, because they also occur in ordinary words."""
_QUERY = re.compile(r"\?[^\s\"'<>]+")
_CODE = re.compile(r"<Code>([A-Za-z]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]+)</Message>")
_LONGEST = 300
"""Largest number of characters of a library's message that is repeated."""


class StoreError(OSError):
    """A file in an object store cannot be read or written; the message is a sentence for the user."""


class StoreFileNotFound(StoreError, FileNotFoundError):
    """There is no such file, or no such bucket."""


class StoreUnreachable(StoreError):
    """A store gave no answer for so long that the request was given up; another one would hardly fare better."""


class StoreFileChanged(StoreError):
    """A file is no longer the one that was there when the command began."""


class StoreFileDamaged(StoreError):
    """A file has another checksum than it should have."""


def without_secrets(text: str) -> str:
    """Returns the first words of a library's error message without anything that could be a secret."""
    if code := _CODE.search(text):
        message = _MESSAGE.search(text)
        text = f"{code[1]}: {message[1]}" if message else code[1]
    text = _QUERY.sub("", " ".join(text.split()))
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
