"""Exports the query encoders of a run as a folder that works without this project:

    python export.py RUN OUT [--licence ID] [--no-onnx] [--push USER/NAME [--private]]

OUT then holds, for video and for audio, a .pt2 file (for torch.export.load) and an .onnx file, both with the
preprocessing inside: raw frames and PCM in, embeddings (unit vectors) and backbone features out; the weights of the
backbone alone as .safetensors, with torchvision's names; config.json; and README.md, a model card made from the run
(docs/export.md).
"""

from __future__ import annotations

from common.signals import end_on_signals

if __name__ == "__main__":
    end_on_signals("export.py")

import argparse
import errno
import json
import sys
from pathlib import Path

from common.environment import MissingPackage, missing_packages
from common.phases import begin, open_log, say
from common.stores import Location, location
from common.stores.scratch import written_to
from common.terminal import command, printable
from portable.hub import HubError, push, require_hub
from training.saving.files import CheckpointError, require_some_checkpoint

EXAMPLE = """\
To load the weights of a video encoder with torchvision (r3d_18 and mc3_18 in the same way):

    network = torchvision.models.video.r2plus1d_18(weights=None)
    network.fc = torch.nn.Identity()                   # the encoder has no classifier: its output is 512 features
    network.load_state_dict(safetensors.torch.load_file("OUT/video.safetensors"))

To load an audio encoder of model.audio=resnet18, which takes the log-mel spectrogram as an image of one channel:

    network = torchvision.models.resnet18(weights=None)
    network.conv1 = torch.nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.fc = torch.nn.Identity()
    network.load_state_dict(safetensors.torch.load_file("OUT/audio.safetensors"))
"""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What writing ONNX files and checking them needs."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python export.py",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=location, help="run folder, or a checkpoint file; or its URL")
    parser.add_argument("out", type=location, help="folder to write to; or its URL")
    parser.add_argument(
        "--licence",
        default="",
        metavar="ID",
        help="licence of the weights, as an identifier for the model card, such as mit",
    )
    parser.add_argument("--no-onnx", action="store_true", help="write no ONNX files")
    parser.add_argument("--push", metavar="USER/NAME", help="then upload the folder to the Hugging Face Hub")
    parser.add_argument("--private", action="store_true", help="with --push: make a new repository private")
    args = parser.parse_args(arguments)
    if args.private and args.push is None:
        parser.error("--private needs --push USER/NAME")
    return args


def require_packages(args: argparse.Namespace) -> None:
    """Raises MissingPackage or HubError if what the options need is not installed."""
    if not args.no_onnx and (missing := missing_packages(*ONNX_PACKAGES)):
        raise MissingPackage(
            f"writing ONNX files needs {' and '.join(missing)}: pip install -r requirements-export.txt, or export "
            "without ONNX files: --no-onnx"
        )
    if args.push is not None:
        require_hub(args.push)


def require_replaceable(out: Location) -> None:
    """Raises OSError if OUT is a file, or holds a README.md or config.json that is not from an export."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "this is not a folder", str(out))
    for name in ("README.md", "config.json"):
        # An export writes video.safetensors before these two.
        if (out / name).exists() and not (out / "video.safetensors").exists():
            said = "this file is not from an export and would be overwritten: choose another folder"
            raise FileExistsError(errno.EEXIST, said, str(out / name))


@command("export.py", CheckpointError, HubError, MissingPackage)
def announce() -> None:
    """Finds mistakes that can be found without torch, which takes seconds to import; says what follows.

    `command` returns the exit status.
    """
    args = parse()
    if isinstance(args.run, Path):
        require_some_checkpoint(args.run)
    require_replaceable(args.out)
    require_packages(args)
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
from portable.card import model_card
from portable.describe import Origin, describe
from portable.encoder import OUTPUTS, portable_encoder
from portable.graphs import ExportError, Graph, raw_clips, require_equal, run_onnx, run_pt2, to_onnx, to_pt2, trace
from settings import Config, ConfigError
from training.checkpoint import find, model_of, read
from training.remote.checkpoints import local_checkpoint

MODALITIES = ("video", "audio")


def export(model: CrossModalModel, config: Config, out: Path, *, origin: Origin, onnx: bool = True) -> list[str]:
    """Writes the query encoders, their description and their card to the folder `out`.

    Each graph is run before it is written, and its outputs are compared with those of `model`.

    Args:
        model: a model in eval mode, on the CPU.
        origin: what the description and the card say about the run.
        onnx: whether to write ONNX files too.

    Returns:
        The names of the files in the folder.

    Raises:
        ExportError: an encoder cannot be traced, or a graph gives other outputs than the model.
        OSError: the folder or a file cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    graphs: dict[str, Graph] = {}
    widths: dict[str, dict[str, int]] = {}
    names: dict[str, dict[str, str]] = {}
    for modality in MODALITIES:
        begin(f"tracing the {modality} encoder")
        encoder = portable_encoder(model, config, modality)
        graph = graphs[modality] = trace(encoder, config, modality)
        raw = raw_clips(config, modality)
        with torch.no_grad():
            result = model.query[modality](encoder.inputs(raw))
        expected = {name: getattr(result, name) for name in OUTPUTS}
        contents = {".pt2": to_pt2(graph)}
        require_equal(run_pt2(contents[".pt2"], raw), expected, f"{modality}.pt2")
        if onnx:
            begin(f"translating the {modality} encoder to ONNX")
            contents[".onnx"] = to_onnx(graph)
            require_equal(run_onnx(contents[".onnx"], raw), expected, f"{modality}.onnx")
        else:  # one of an earlier export would belong to other weights
            (out / f"{modality}.onnx").unlink(missing_ok=True)
        contents[".safetensors"] = weights_of(model.query[modality].backbone)
        for suffix, content in contents.items():
            write_atomically(out / f"{modality}{suffix}", content)
        widths[modality] = {name: values.shape[1] for name, values in expected.items()}
        names[modality] = {suffix[1:]: f"{modality}{suffix}" for suffix in contents}
    described = describe(config, graphs, widths, names, origin)
    files = [*(name for of_encoder in names.values() for name in of_encoder.values()), "config.json"]
    write_atomically(out / "config.json", json.dumps(described, indent=2) + "\n")
    write_atomically(out / "README.md", model_card(described, config, origin, files=files))
    return [*files, "README.md"]


def weights_of(backbone: torch.nn.Module) -> bytes:
    """Returns the content of a .safetensors file with the weights of a backbone."""
    # contiguous: training stores weights channels-last, which safetensors does not support.
    return to_safetensors({name: value.contiguous() for name, value in backbone.state_dict().items()})


@command("export.py", CheckpointError, ConfigError, ExportError, HubError, MissingPackage)
def main(arguments: list[str] | None = None) -> None:
    """The exit status is 0, or 2 if the run cannot be read, exported or uploaded, or OUT cannot be written to."""
    args = parse(arguments)
    require_replaceable(args.out)
    require_packages(args)
    begin(f"reading {args.run}")
    checkpoint = find(local_checkpoint(args.run))
    state = read(checkpoint)
    config, model = model_of(state, source=str(args.run))
    origin = Origin.of(state, config, checkpoint, licence=args.licence)
    if args.no_onnx:  # as in `export`, which sees only an empty temporary folder if OUT is a URL
        for modality in MODALITIES:
            (args.out / f"{modality}.onnx").unlink(missing_ok=True)
    with written_to(args.out) as out:
        files = export(model, config, out, origin=origin, onnx=not args.no_onnx)
        if args.push is not None:
            begin(f"uploading {args.out} to {args.push}")
            pushed = push(out, args.push, private=args.private, files=files)
    for name in files:
        print(printable(args.out / name))
    if args.push is not None:
        print(printable(pushed))


if __name__ == "__main__":
    sys.exit(main())
