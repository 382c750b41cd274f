"""Uploads an exported folder to the Hugging Face Hub, or to another server that HF_ENDPOINT names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from common.environment import missing_packages

_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


class HubError(RuntimeError):
    """Raised if a folder cannot be uploaded; the message is for the user."""


def require_hub(name: str) -> None:
    """Finds mistakes before an export begins.

    Raises:
        HubError: the name is not USER/NAME, or the package huggingface_hub is missing.
    """
    if not _NAME.fullmatch(name):
        raise HubError(f"--push must be USER/NAME, not {name!r}")
    if missing_packages("huggingface_hub"):
        raise HubError("--push needs the package huggingface_hub: pip install -r requirements-export.txt")


def push(folder: Path, name: str, *, private: bool, files: Sequence[str]) -> str:
    """Uploads the files to the repository `name`, which is made if it does not exist; returns the commit's address.

    ONNX files of an earlier upload are removed there if `files` has none.

    The token is that of `hf auth login` or of the environment variable HF_TOKEN; huggingface_hub reads it.

    Args:
        private: whether a new repository is private.
        files: names of files in the folder.

    Raises:
        HubError: the server refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(files),
            # Those of an earlier upload would belong to other weights.
            delete_patterns=sorted({"video.onnx", "audio.onnx"} - set(files)),
            commit_message="Upload encoders",
        )
    except Exception as error:  # huggingface_hub raises the errors of several libraries
        cause = str(error.__cause__ or "")
        what = " ".join(f"{error} {'' if cause in str(error) else cause}".split())[:300]
        raise HubError(
            f"cannot upload to {name} at {api.endpoint}: {what}. The folder {folder} is complete. For a token that may "
            "write: hf auth login"
        ) from None
    return str(commit.commit_url)
