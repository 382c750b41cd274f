"""Finds the credentials and endpoints that clients of object stores need; nothing of them is logged or stored.

obstore itself reads the environment variables of each cloud, Google's application default credentials, and the
metadata service of a machine in the cloud. This module adds what it does not read: the files of the AWS command line,
and environment variables under names that other tools use.
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path

_CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""Environment variables from which obstore takes credentials by itself; then the keys in ~/.aws are not read."""


def s3_options() -> dict[str, str]:
    """Options for obstore's S3Store: endpoint and region, from the environment or ~/.aws, and the keys in ~/.aws."""
    profile = {} if _is_on("AWS_SKIP_SIGNATURE") else _profile()
    options = {}
    if endpoint := (
        os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or os.environ.get("AWS_ENDPOINT")
        or profile.get("endpoint_url", "")
    ):
        options["endpoint"] = endpoint
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or profile.get("region", ""):
        options["region"] = region
    if not any(os.environ.get(name) for name in _CREDENTIAL_VARIABLES):
        names = ("access_key_id", "secret_access_key", "session_token")
        options |= {name: profile[f"aws_{name}"] for name in names if profile.get(f"aws_{name}")}
    return options


def azure_options() -> dict[str, str]:
    """Options for obstore's AzureStore: the endpoint, from the environment."""
    endpoint = os.environ.get("AZURE_STORAGE_ENDPOINT") or os.environ.get("AZURE_ENDPOINT")
    return {"endpoint": endpoint} if endpoint else {}


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def _profile() -> dict[str, str]:
    """The entries of the profile AWS_PROFILE (or default) in the files of the AWS command line, credentials last."""
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    folder = Path(os.environ.get("HOME") or "/") / ".aws"
    sections = (
        (os.environ.get("AWS_CONFIG_FILE") or folder / "config", name if name == "default" else f"profile {name}"),
        (os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or folder / "credentials", name),
    )
    found: dict[str, str] = {}
    for path, section in sections:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # not reported, because the message would quote a line, which may hold a secret
        if parser.has_section(section):
            found |= dict(parser.items(section))
    return found
