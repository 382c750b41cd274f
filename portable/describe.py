"""What an exported folder says about itself: config.json, for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.batch import VIDEO_MEAN, VIDEO_STD
from portable.encoder import INPUTS
from portable.graphs import AXES, Graph
from settings import Config, to_dict
from training.saving.files import step_of

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


@dataclass(frozen=True)
class Origin:
    """The training behind the encoders; what a checkpoint does not tell is None."""

    name: str
    """The name of the run folder."""
    step: int | None
    samples: int | None
    """Number of samples in the data set."""
    fingerprint: str | None
    """Hash that identifies the data set."""
    clips_seen: int | None
    """Number of clips in all training steps."""

    @classmethod
    def of(cls, state: dict[str, Any], config: Config, checkpoint: Path) -> Origin:
        """Reads the origin from the contents of a checkpoint."""
        step = state.get("step")
        batch = config.train.batch_size
        known = isinstance(step, int) and isinstance(batch, int)
        samples, fingerprint = state.get("samples"), state.get("data")
        folder = checkpoint.resolve().parents[1] if step_of(checkpoint) is not None else checkpoint.resolve().parent
        return cls(
            name=folder.name,
            step=step if isinstance(step, int) else None,
            samples=samples if isinstance(samples, int) else None,
            fingerprint=fingerprint if isinstance(fingerprint, str) else None,
            clips_seen=step * batch if known else None,
        )


def describe(
    config: Config, graphs: Mapping[str, Graph], widths: Mapping[str, Mapping[str, int]], origin: Origin
) -> dict[str, Any]:
    """Returns the content of config.json, by modality and without the names of the files, which `export` adds.

    Args:
        graphs: the traced encoders, by modality.
        widths: the length of each output's rows, by modality and name.
    """
    sections: dict[str, dict[str, Any]] = {
        "video": to_dict(config.clip) | {"mean": list(VIDEO_MEAN), "std": list(VIDEO_STD), "color": "RGB"},
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
        }
    described["model"] = to_dict(config.model)
    described["run"] = {key: value for key, value in vars(origin).items() if key != "name"} | {"seed": config.seed}
    return described
