"""What an exported folder says about itself: config.json, for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.video import input_normalisation
from portable.encoder import INPUTS
from portable.graphs import AXES, Graph
from settings import Config, to_dict
from training.report.evaluations import Evaluation, read_evaluations

FORMAT = 1
"""Version of the layout of config.json."""
BACKBONE_INPUT = {
    "video": "float32 [B, 3, frames, size, size]: (RGB in [0, 1] - mean) / std",
    "audio": (
        "float32 [B, 1, n_mels, time]: (dB - mean_db) / std_db, where dB comes from torchaudio's MelSpectrogram("
        "sample_rate, n_fft, win_length=window, hop_length=hop, f_min, f_max, n_mels) and AmplitudeToDB()"
    ),
}
"""Input of the backbones whose weights the .safetensors files hold."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where exported encoders come from; what a checkpoint does not tell is None."""

    run: str
    """The name of the run folder."""
    checkpoint: str
    """The name of the checkpoint file."""
    step: int | None = None
    samples: int | None = None
    """Number of samples in the data set."""
    fingerprint: str | None = None
    """Hash that identifies the data set."""
    clips_seen: int | None = None
    """Number of clips in all training steps."""
    evaluations: Sequence[Evaluation] = ()
    """The results in the run folder."""
    licence: str = ""
    """Identifier such as "mit"; empty if none was given."""

    @classmethod
    def of(cls, state: dict[str, Any], config: Config, checkpoint: Path, *, licence: str) -> Origin:
        """Reads the origin from the contents of a checkpoint and from the run folder that it is in."""
        step, batch = state.get("step"), config.train.batch_size
        samples, fingerprint = state.get("samples"), state.get("data")
        folder = _run_folder(checkpoint)
        return cls(
            run=folder.name,
            checkpoint=checkpoint.name,
            step=step if isinstance(step, int) else None,
            samples=samples if isinstance(samples, int) else None,
            fingerprint=fingerprint if isinstance(fingerprint, str) else None,
            clips_seen=step * batch if isinstance(step, int) and isinstance(batch, int) else None,
            evaluations=read_evaluations(folder),
            licence=licence,
        )


def _run_folder(checkpoint: Path) -> Path:
    """The run folder that a checkpoint file is in; for a copy of a file elsewhere, the copy's folder."""
    path = checkpoint.resolve()
    return path.parents[1] if path.parent.name == "checkpoints" else path.parent


def describe(
    config: Config,
    graphs: Mapping[str, Graph],
    widths: Mapping[str, Mapping[str, int]],
    files: Mapping[str, Mapping[str, str]],
    origin: Origin,
) -> dict[str, Any]:
    """Returns the content of config.json.

    Args:
        graphs: the traced encoders, by modality.
        widths: the length of each output's rows, by modality and name.
        files: the names of the files, by modality and kind.
    """
    # That of the weights: the transformers of this project convert the loader's frames themselves.
    mean, std = input_normalisation(config.model.video)
    sections: dict[str, dict[str, Any]] = {
        "video": to_dict(config.clip) | {"mean": list(mean), "std": list(std), "color": "RGB"},
        "audio": to_dict(config.audio) | {"seconds": config.audio_seconds, "samples": config.audio_samples},
    }
    described: dict[str, Any] = {"format": FORMAT}
    for modality, about in sections.items():
        graph = graphs[modality]
        shape: list[Any] = [axis if axis in graph.dynamic else about[axis] for axis in AXES[modality]]
        described[modality] = {
            "architecture": getattr(config.model, modality),
            "input": {
                "name": INPUTS[modality],
                "dtype": {"video": "uint8", "audio": "int16"}[modality],
                "shape": [*shape, 3] if modality == "video" else shape,
                **about,
            },
            "outputs": {
                name: {"dtype": "float32", "shape": ["batch", width]} for name, width in widths[modality].items()
            },
            "backbone_input": BACKBONE_INPUT[modality],
            "files": dict(files[modality]),
        }
    described["model"] = to_dict(config.model)
    numbers = ("step", "clips_seen", "samples", "fingerprint")
    described["run"] = {key: getattr(origin, key) for key in numbers} | {"seed": config.seed}
    return described
