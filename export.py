"""Exports the query encoders of a run as plain weights, for use without this project.

    python export.py RUN OUT [--format torchvision|safetensors]

Writes video.pth and audio.pth (for torch.load with weights_only=True), or video.safetensors and audio.safetensors, to
the folder OUT, and encoders.json, which gives the architecture and the input format of each. Tensors of
torchvision's architectures have torchvision's names, without the classifier; `python export.py --help` shows how to
load them.
"""

from __future__ import annotations

from common.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("export.py")

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.phases import begin, open_log, say
from common.terminal import command, print_error, printable
from training.saving.files import CheckpointError, require_some_checkpoint

EXAMPLE = """\
To load a video encoder with torchvision alone (r3d_18 and mc3_18 in the same way; mvit_v2_s and swin3d_t have `head`
in place of `fc`, and encoders.json gives the normalisation of their frames):

    network = torchvision.models.video.r2plus1d_18(weights=None)
    network.fc = torch.nn.Identity()                   # the encoder has no classifier: its output is 512 features
    network.load_state_dict(torch.load("OUT/video.pth", weights_only=True))

To load an audio encoder of model.audio=resnet18, which takes the log-mel spectrogram as an image of one channel:

    network = torchvision.models.resnet18(weights=None)
    network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.fc = torch.nn.Identity()
    network.load_state_dict(torch.load("OUT/audio.pth", weights_only=True))

The architectures resnet1d_18, vit_tiny, vit_small and tiny are defined in this project (model/audio.py,
model/audio_transformer.py, model/video.py).
"""


SUFFIXES = {"torchvision": ".pth", "safetensors": ".safetensors"}
"""Maps each value of --format to the files' suffix."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python export.py",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder, or a checkpoint file")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument(
        "--format",
        choices=sorted(SUFFIXES),
        default="torchvision",
        help="torchvision: .pth files for torch.load (default); safetensors: files for the safetensors library",
    )
    return parser.parse_args(arguments)


@command("export.py", CheckpointError)
def announce() -> None:
    """Finds mistakes that can be found without torch, which takes seconds to import; says what follows."""
    args = parse()
    require_some_checkpoint(args.run)
    say(f"exporting the encoders of {args.run} to {args.out}")
    begin("importing torch")


if __name__ == "__main__":
    open_log("export.py")
    if status := announce():
        sys.exit(status)

import torch
from safetensors.torch import save as to_safetensors

from common.files import write_atomically
from model.encoder import CrossModalModel
from model.video import input_normalisation
from settings import Config, ConfigError, to_dict
from training.checkpoint import load_model


def _to_torch(state: dict[str, torch.Tensor]) -> bytes:
    # Not straight into the file: on a full disk torch.save raises an error of its own that names no file.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[dict[str, torch.Tensor]], bytes]] = {
    "torchvision": _to_torch,
    "safetensors": to_safetensors,
}
"""Maps each value of --format to the function that makes the files' content."""

VIDEO_INPUT = "float32 [B, 3, frames, size, size]: (RGB in [0, 1] - mean) / std"
AUDIO_INPUT = (
    "float32 [B, 1, n_mels, time]: (dB - mean_db) / std_db, where dB comes from torchaudio's MelSpectrogram("
    "sample_rate, n_fft, win_length=window, hop_length=hop, f_min, f_max, n_mels) and AmplitudeToDB()"
)


def export(model: CrossModalModel, config: Config, out: Path, *, file_format: str) -> dict[str, Any]:
    """Writes the backbones of the query encoders and a description of their inputs to the folder `out`.

    Args:
        file_format: a key of FORMATS.

    Returns:
        The contents of encoders.json.

    Raises:
        OSError: the folder or a file cannot be written.
    """
    suffix, serialise = SUFFIXES[file_format], FORMATS[file_format]
    audio = to_dict(config.audio) | {"seconds": config.audio_seconds}
    # Of the weights alone: the transformers of this project convert other frames themselves.
    mean, std = input_normalisation(config.model.video)
    clip = to_dict(config.clip) | {"mean": list(mean), "std": list(std)}
    out.mkdir(parents=True, exist_ok=True)
    description: dict[str, Any] = {}
    for modality, about in (("video", {"input": VIDEO_INPUT, **clip}), ("audio", {"input": AUDIO_INPUT, **audio})):
        path = out / f"{modality}{suffix}"
        # contiguous: training stores weights channels-last, which safetensors does not support.
        backbone = model.query[modality].backbone
        write_atomically(path, serialise({name: value.contiguous() for name, value in backbone.state_dict().items()}))
        description[modality] = {"file": path.name, "architecture": getattr(config.model, modality), **about}
    write_atomically(out / "encoders.json", json.dumps(description, indent=2) + "\n")
    return description


@command("export.py")
def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 if the run cannot be read or OUT cannot be written."""
    args = parse(arguments)
    try:
        begin(f"reading {args.run}")
        config, model = load_model(args.run)
        begin(f"writing {args.out}")
        written = export(model, config, args.out, file_format=args.format)
    except (CheckpointError, ConfigError) as error:
        print_error("export.py", error)
        return 2
    for about in written.values():
        print(f"{printable(args.out / about['file'])}: {about['architecture']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
