"""The model card of an exported folder: README.md, for people and for the Hugging Face Hub, made from the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.markdown import markdown_table
from portable.describe import Origin
from settings import Config, DataConfig
from training.report.evaluations import Evaluation, cell
from training.saving.files import step_of

FILES = {
    ".pt2": "encoder with its preprocessing, for `torch.export.load` (torch alone)",
    ".onnx": "the same for ONNX runtimes",
    ".safetensors": "weights of the backbone alone, with torchvision's names where it has the architecture",
    ".json": "inputs, outputs, architecture and origin, for programs",
}
"""Maps the suffixes of the files to what they hold."""


def model_card(described: dict[str, Any], config: Config, origin: Origin, *, files: Sequence[str]) -> str:
    """Returns the card as Markdown with a YAML head.

    Args:
        described: the content of config.json.
        files: names of the other files in the folder.
    """
    tags = ["video", "audio", "contrastive-learning", "cm-acc", *(["onnx"] if "video.onnx" in files else [])]
    head = {"library_name": "pytorch", "pipeline_tag": "feature-extraction", "tags": tags}
    head |= {"license": origin.licence} if origin.licence else {}
    parts = [
        # JSON is YAML, and it quotes whatever a licence may hold.
        "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items()) + "---",
        f"# Video and audio encoders of {_plain(origin.run)}",
        _summary(described),
        "## Use",
        _use(described),
        "## Training",
        _training(config, origin),
        "## Evaluation",
        *_evaluation(origin),
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in _limits(described, origin)),
        "## Files",
        markdown_table(["file", "content"], [[f"`{name}`", FILES[Path(name).suffix]] for name in files]).rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(described: dict[str, Any]) -> str:
    video, audio = described["video"], described["audio"]
    return (
        f"A video encoder (`{video['architecture']}`) and an audio encoder (`{audio['architecture']}`), trained "
        "together without labels by CM-ACC: active contrastive learning across video and sound "
        "([Ma et al. 2021](https://arxiv.org/abs/2009.09805)). Each maps a clip to a unit vector of "
        f"{described['model']['dim']} numbers (`embedding`): the cosine of two such vectors says how well a clip and a "
        "sound, or two clips, fit together. `features` are the outputs of the backbones, for classifiers."
    )


def _use(described: dict[str, Any]) -> str:
    video, audio = described["video"]["input"], described["audio"]["input"]
    return f"""```python
import torch

video = torch.export.load("video.pt2").module()
audio = torch.export.load("audio.pt2").module()
# RGB frames [clips, frames, height, width, 3] of any size at {video["fps"]:g} frames per second, and their sound
frames = torch.zeros(1, {video["frames"]}, 240, 320, 3, dtype=torch.uint8)
pcm = torch.zeros(1, {audio["samples"]}, dtype=torch.int16)  # mono, 16-bit, at {audio["sample_rate"]} Hz
similarity = video(frames)["embedding"] @ audio(pcm)["embedding"].T
```

The largest centred square of each frame is resized to {video["size"]} x {video["size"]} pixels and normalised inside, \
and so is the log-mel spectrogram computed. `torch.export.load` unpickles: load files only from people you trust."""


def _training(config: Config, origin: Origin) -> str:
    rows = [
        ["data set", f"{_known(origin.samples)} samples, fingerprint `{_plain(origin.fingerprint or 'unknown')}`"],
        *_parts(config.data),
        ["steps", _known(origin.step)],
        ["clips seen", _known(origin.clips_seen)],
        ["rule that selects negatives", f"`{_plain(config.sampler.name)}`"],
        ["seed", str(config.seed)],
    ]
    return markdown_table(["", ""], rows).rstrip()


def _parts(data: DataConfig) -> list[list[str]]:
    """Which samples of which data set: one row, or one per data set of a mix."""
    rows = []
    for key, one in data.sets.items():
        part = f"split `{_plain(one.split)}`" if one.split else "all samples"
        part += ", weighted" if one.weights else ""
        name = key.removeprefix("data.mix.").rstrip(".")
        rows.append([f"of `{name}`", f"{part}, weight {one.weight:g}"] if data.mix else ["part of it", part])
    return rows


def _evaluation(origin: Origin) -> list[str]:
    if not origin.evaluations:
        return ["The run folder holds no evaluation: how good these encoders are has not been measured."]
    parts = []
    for result in origin.evaluations:
        rows = [[_plain(cell(row, column)) for column in result.columns] for row in result.rows]
        parts += [f"### {_plain(result.title)}", markdown_table(list(map(_plain, result.columns)), rows).rstrip()]
        parts += ["\n".join(f"- {_plain(note)}" for note in [*result.notes, *_other_checkpoint(result, origin)])]
    return [part for part in parts if part]


def _other_checkpoint(result: Evaluation, origin: Origin) -> list[str]:
    evaluated = Path(result.checkpoint)
    if step_of(evaluated) is None or evaluated.name == origin.checkpoint:
        return []
    return [f"This table is about {evaluated.name}, but the exported encoders are those of {origin.checkpoint}."]


def _limits(described: dict[str, Any], origin: Origin) -> list[str]:
    video, audio = described["video"]["input"], described["audio"]["input"]
    lines = [
        f"The encoders were trained on clips of {video['frames']} frames at {video['fps']:g} frames per second and on "
        f"{audio['seconds']:g} s of mono sound at {audio['sample_rate']} Hz. Other frame rates, sample rates and "
        "lengths may run, but nothing is known about their results.",
        "What they know comes from the training videos, which this card identifies only by a fingerprint; whatever is "
        "rare or one-sided there will be so in their vectors.",
        "Vectors of two runs cannot be compared with each other.",
    ]
    if "frames" not in video["shape"]:
        lines.insert(0, f"The video encoder takes exactly {video['frames']} frames per clip.")
    if origin.clips_seen is not None and origin.samples and origin.clips_seen < origin.samples * video["per_sample"]:
        lines.append("Training ended before each sample had been seen once.")
    if not origin.evaluations:
        lines.append("No evaluation was made.")
    if not origin.licence:
        lines.append("No licence was given: ask the authors before you use the weights.")
    return lines


def _known(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _plain(text: str) -> str:
    """Text that is neither markup nor the end of a cell of a table."""
    for character, escaped in {"&": "&amp;", "<": "&lt;", "|": "&#124;", "`": "&#96;"}.items():
        text = text.replace(character, escaped)
    return text
