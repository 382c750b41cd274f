"""Traces an encoder with its preprocessing, writes it as .pt2 and .onnx files, and checks what was written."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config  # torch-private: the only way to trace without assuming sizes above 1

from portable.encoder import INPUTS, OUTPUTS
from settings import Config

OPSET = 18
"""Version of the ONNX operators: the first with all that is used; onnxruntime 1.14 and later run it."""
TOLERANCE = 1e-4
"""Largest difference from the run's own outputs, relative to the largest value where that exceeds 1."""
AXES = {"video": ("batch", "frames", "height", "width"), "audio": ("batch", "samples")}
"""The axes of each encoder's input; frames have a last one of three colours."""
TIME = {"video": "frames", "audio": "samples"}
"""The axis of time."""


class ExportError(RuntimeError):
    """Raised if an encoder cannot be exported; the message is for the user."""


@dataclass(frozen=True)
class Graph:
    """A traced encoder."""

    modality: str
    program: ExportedProgram
    dynamic: tuple[str, ...]
    """The axes of the input that may have any length."""


def raw_clips(config: Config, modality: str, *, clips: int = 2, length: int = 0) -> torch.Tensor:
    """Noise in the form of an encoder's input: uint8 [clips, T, size + 8, size, 3], or int16 [clips, samples].

    Args:
        length: frames or PCM samples; 0 stands for those of the run.
    """
    draw = torch.Generator().manual_seed(0)
    if modality == "video":
        shape = (clips, length or config.clip.frames, config.clip.size + 8, config.clip.size, 3)
        return torch.randint(256, shape, dtype=torch.uint8, generator=draw)
    return torch.randint(-9000, 9000, (clips, length or config.audio_samples), dtype=torch.int16, generator=draw)


def trace(encoder: nn.Module, config: Config, modality: str) -> Graph:
    """Traces an encoder for any number of clips and any size of frames, and for any length if the encoder allows it.

    Raises:
        ExportError: torch.export cannot trace the encoder.
    """
    axes = AXES[modality]
    dynamic = tuple(axis for axis in axes if axis != TIME[modality])
    if getattr(encoder, "any_length", True):
        # torch raises many types here, and so does a network that takes one length only.
        with suppress(Exception):
            # Long enough that no layer's output has a single frame, which would count as a fixed length.
            long = raw_clips(config, modality, length=2 * max(16, config.clip.frames) if modality == "video" else 0)
            program = _program(encoder, long, axes, axes)
            # Where the maps of the last layers are a single pixel, torch.export may rule out a single frame of them.
            program.module()(raw_clips(config, modality))
            return Graph(modality, program, axes)
    try:
        return Graph(modality, _program(encoder, raw_clips(config, modality), axes, dynamic), dynamic)
    except Exception as error:
        what = " ".join(str(error).split())[:500]
        raise ExportError(
            f"torch.export cannot trace the {modality} encoder: {type(error).__name__}: {what}"
        ) from error


def _program(
    encoder: nn.Module, example: torch.Tensor, axes: tuple[str, ...], dynamic: tuple[str, ...]
) -> ExportedProgram:
    shapes = {place: Dim.DYNAMIC if axis in dynamic else Dim.STATIC for place, axis in enumerate(axes)}
    with torch.no_grad(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(encoder, (example,), dynamic_shapes=(shapes,))
    for node in program.graph.nodes:  # the paths of this machine are nobody's business
        node.meta.pop("stack_trace", None)
    return program


def to_pt2(graph: Graph) -> bytes:
    """Returns the content of a file for torch.export.load."""
    buffer = io.BytesIO()
    torch.export.save(graph.program, buffer)
    return buffer.getvalue()


def to_onnx(graph: Graph) -> bytes:
    """Returns the content of an ONNX file, in which the input and the outputs have the names in INPUTS and OUTPUTS."""
    names = {place: axis for place, axis in enumerate(AXES[graph.modality]) if axis in graph.dynamic}
    model = torch.onnx.export(
        graph.program,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=[INPUTS[graph.modality]],
        output_names=list(OUTPUTS),
        dynamic_shapes=(names,),
        external_data=False,
    )
    assert model is not None
    return model.model_proto.SerializeToString(deterministic=True)


def run_pt2(content: bytes, raw: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of the encoder in a .pt2 file."""
    with torch.no_grad():
        return torch.export.load(io.BytesIO(content)).module()(raw)


def run_onnx(content: bytes, raw: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of the encoder in an ONNX file."""
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs = session.run(list(OUTPUTS), {session.get_inputs()[0].name: raw.numpy()})
    return {name: torch.from_numpy(values) for name, values in zip(OUTPUTS, outputs, strict=True)}


def require_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], what: str) -> None:
    """Raises ExportError if the outputs are not those expected, or not finite."""
    for name, values in expected.items():
        difference = float((found[name] - values).abs().max()) / max(1.0, float(values.abs().max()))
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the {name} of {what} differs by {difference:.2g} from that of the run, and at most {TOLERANCE:g} is "
                "allowed: nothing was written to it; please report this with the versions of torch and onnxruntime"
            )
