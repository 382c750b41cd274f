"""Loads exported encoders (docs/export.md) by torch alone:

encoders = torch.hub.load("path/to/this/repository", "encoders", source="local", folder="OUT")
"""

from __future__ import annotations

from pathlib import Path

import torch

dependencies = ["torch"]


def encoders(
    folder: str | Path = "", *, repo_id: str = "", revision: str | None = None, device: str = "cpu"
) -> dict[str, torch.nn.Module]:
    """Returns the encoders of a folder that export.py wrote, by modality: "video" and "audio".

    Each maps raw clips (uint8 RGB frames [B, T, H, W, 3], or 16-bit mono PCM [B, samples] as int16) to a dict with
    "embedding", float32 [B, D] of unit length, and "features", float32 [B, F].

    Args:
        folder: the exported folder.
        repo_id: in place of a folder, a repository USER/NAME of the Hugging Face Hub; needs huggingface_hub.
        revision: branch, tag or commit of that repository.
        device: device of the weights and of the inputs.

    Raises:
        ValueError: not exactly one of folder and repo_id is given.
        FileNotFoundError: the folder holds no exported encoder.
    """
    if bool(folder) == bool(repo_id):
        raise ValueError("give either folder or repo_id")
    root = Path(_download(repo_id, revision) if repo_id else folder)
    files = {modality: root / f"{modality}.pt2" for modality in ("video", "audio")}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"there is no {' and no '.join(missing)}: write them by python export.py RUN OUT")
    return {modality: _load(path, device) for modality, path in files.items()}


def _load(path: Path, device: str) -> torch.nn.Module:
    program = torch.export.load(path)
    if torch.device(device).type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module().requires_grad_(False)


def _download(repo_id: str, revision: str | None) -> str:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError("repo_id needs the package huggingface_hub: pip install huggingface_hub") from None
    return snapshot_download(repo_id, revision=revision, allow_patterns=["*.pt2", "config.json"])
