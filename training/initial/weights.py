"""Reads the weights that a new run starts from, and gives them to its model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from common.files import file_sha256
from common.phases import begin, say
from model.encoder import CrossModalModel, build_model
from model.weights import read_weights, require_fitting, without_classifier
from settings import AudioConfig, Config, ConfigError, from_dict, to_dict
from training.checkpoint import CheckpointError, find, read
from training.distributed import World, from_main
from training.initial.sources import Source, exported_file, is_new, require_architecture, sources
from training.remote.places import run_folder

log = logging.getLogger(__name__)
BACKBONE, HEAD = "backbone.", "head."


@dataclass
class InitialWeights:
    """Weights of the encoders of a new run."""

    encoders: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    """Tensors by their name within the encoder (backbone.stem.0.weight, ...), by modality."""
    origin: list[dict[str, Any]] = field(default_factory=list)
    """For each encoder its modality, the path and the SHA-256 of its file, and the number of tensors taken from it;
    checkpoints record it."""

    def give_to(self, model: CrossModalModel) -> None:
        """Copies the weights into the query encoders, and these into the momentum encoders."""
        for modality, tensors in self.encoders.items():
            # BatchNorm's counters may be missing; everything else has been checked.
            model.query[modality].load_state_dict(tensors, strict=False)
        model.restart_momentum()


def initial_weights(config: Config, world: World, *, resume: str) -> InitialWeights | None:
    """Reads the weights that `model.init` names, and says what is taken; all ranks read the same files.

    Args:
        resume: as for `find_resume_checkpoint`; a run that is resumed has all of its weights in the checkpoint.

    Returns:
        The weights, or None for a run that starts from random weights or is resumed.

    Raises:
        ConfigError, CheckpointError: a file cannot be read, is not that of rank 0, or does not fit the model.
    """
    chosen = sources(config.model)
    if not chosen or not from_main(is_new(run_folder(config), resume=resume)):
        return None
    begin(f"reading the weights of {' and '.join(dict.fromkeys(str(source.path) for source in chosen.values()))}")
    with torch.device("meta"):
        outline = build_model(config.model, audio=config.audio, seed=config.seed)
    # Both encoders may come from one file, and reading it takes seconds.
    read_once, digest_once = cache(_find_and_read), cache(file_sha256)
    weights = InitialWeights()
    for modality, source in chosen.items():
        path, tensors = _read(source, modality, config, read_once)
        wanted = outline.query[modality].state_dict()
        taken = _fitting(source, modality, tensors, wanted, config)
        weights.encoders[modality] = taken
        digest = digest_once(path)
        if from_main(digest) != digest:
            raise ConfigError(f"{source}: {path} is not the same file on all machines: copy it to all of them")
        weights.origin.append({"encoder": modality, "path": str(path), "sha256": digest, "tensors": len(taken)})
        new_head = (
            "" if any(name.startswith(HEAD) for name in taken) else "; its projection head is randomly initialised"
        )
        say(f"{modality} encoder: {len(taken)} of its {len(wanted)} tensors are from {path}{new_head}")
    return weights


def _find_and_read(path: Path) -> tuple[Path, dict[str, Any]]:
    """Returns the checkpoint that a run folder or a path names, and its contents."""
    found = find(path)
    return found, read(found)


def _read(
    source: Source, modality: str, config: Config, read_checkpoint: Callable[[Path], tuple[Path, dict[str, Any]]]
) -> tuple[Path, dict[str, Any]]:
    """Returns the file of an encoder and its tensors, by their names within the encoder."""
    architecture = getattr(config.model, modality)
    if source.is_export:
        path = exported_file(source, modality, architecture=architecture)
        return path, _as_backbone(read_weights(path, key=source.key))
    contents: Any = {} if source.path.is_dir() else read_weights(source.path, key=source.key)
    if source.path.is_dir() or (isinstance(contents, dict) and {"format", "config", "model"} <= contents.keys()):
        try:
            path, state = read_checkpoint(source.path)
            return path, _of_checkpoint(state, source, modality, config)
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from None
    if source.key == "model.init":
        raise ConfigError(f"{source} holds a single encoder: name it with model.init_video or model.init_audio")
    return source.path, _as_backbone(contents)


def _as_backbone(state: Any) -> Any:
    state = without_classifier(state)
    return {f"{BACKBONE}{name}": value for name, value in state.items()} if isinstance(state, Mapping) else state


def _of_checkpoint(state: dict[str, Any], source: Source, modality: str, config: Config) -> dict[str, Any]:
    before = from_dict(Config, state.get("config"), source=str(source))
    require_architecture(source, modality, getattr(before.model, modality), getattr(config.model, modality))
    if modality == "audio":
        _warn_of_audio(source, before.audio, config.audio)
    prefix, model = f"query.{modality}.", state.get("model")
    if not isinstance(model, Mapping):
        raise CheckpointError("it holds no model; give another checkpoint")
    return {name.removeprefix(prefix): value for name, value in model.items() if str(name).startswith(prefix)}


def _fitting(
    source: Source, modality: str, tensors: Any, wanted: Mapping[str, torch.Tensor], config: Config
) -> dict[str, torch.Tensor]:
    """Returns the tensors if they fit the encoder; those of a file without a head, its backbone."""
    architecture = getattr(config.model, modality)
    parts = [{name: t for name, t in wanted.items() if name.startswith(part)} for part in (BACKBONE, HEAD)]
    if not isinstance(tensors, Mapping) or not any(str(name).startswith(HEAD) for name in tensors):
        return require_fitting(tensors, parts[0], what=f"{source} does not hold weights of {architecture}")
    of_head = {name: value for name, value in tensors.items() if name.startswith(HEAD)}
    backbone = {name: value for name, value in tensors.items() if name not in of_head}
    require_fitting(backbone, parts[0], what=f"{source} does not hold weights of {architecture} as in this run")
    what = (
        f"{source} has another {modality} head than this run (set model.head, dim, hidden and head_batchnorm as "
        "there, or start from the folder that export.py writes of it, which has no heads)"
    )
    return {**backbone, **require_fitting(of_head, parts[1], what=what)}


def _warn_of_audio(source: Source, before: AudioConfig, now: AudioConfig) -> None:
    old, new = to_dict(before), to_dict(now)
    changed = [f"audio.{key}={old[key]} there, {new[key]} here" for key in old if old[key] != new[key]]
    changed = [text for text in changed if not text.startswith("audio.seconds=")]
    if changed:
        log.warning("the audio encoder of %s was trained on other spectrograms: %s", source, "; ".join(changed))
