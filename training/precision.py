"""The precision of the encoders: fp32 or bf16 autocast."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def uses_bf16(precision: str, device: torch.device, *, warn: bool = True) -> bool:
    """Returns whether the encoders run under bf16 autocast.

    Args:
        precision: the setting train.precision: auto, fp32 or bf16. auto means bf16 on GPUs with instructions for it.
        device: where the run computes.
        warn: log a warning if precision is bf16 and the device has no instructions for it.
    """
    if precision == "fp32":
        return False
    fast = _has_instructions(device)
    if precision == "auto":
        return device.type == "cuda" and fast
    if not fast and warn:
        log.warning(
            "train.precision=bf16, but this %s has no instructions for bf16: steps may be ten times slower than with "
            "train.precision=fp32",
            "GPU" if device.type == "cuda" else "CPU",
        )
    return True


def _has_instructions(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # torch-private: no public query of CPU support
