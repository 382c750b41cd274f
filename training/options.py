"""Options of train.py, and the checks of a run that need neither torch nor the samples."""

from __future__ import annotations

from pathlib import Path

from common.registry_keys import registry_keys
from common.stores import RemotePath
from pipeline.suitability import check_training_data
from settings import Config, ConfigError
from settings.load import pick
from training.initial.sources import check_sources, is_new
from training.remote.places import as_location, run_folder, run_url
from training.saving.files import require_some_checkpoint
from training.saving.folder import require_new
from training.tracking.trackers import require_trackers

DEFAULT_STEPS = "10:15"
REGISTRIES = {
    "sampler.name": ("sampler/__init__.py", "SAMPLERS"),
    "model.video": ("model/video.py", "VIDEO_ENCODERS"),
    "model.audio": ("model/audio.py", "AUDIO_ENCODERS"),
    "data.loader": ("pipeline/loader.py", "LOADERS"),
}
"""The settings that name an entry of a registry, and where that is."""


def parse_steps(text: str | None) -> range:
    """Parses `FIRST:LAST` into a range that excludes LAST; None (no profile) gives an empty range.

    Raises:
        ConfigError: the text has a different form.
    """
    if text is None:
        return range(0)
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) < int(last)):
        raise ConfigError(f"--profile must be FIRST:LAST with 1 <= FIRST < LAST, such as {DEFAULT_STEPS}, not {text!r}")
    return range(int(first), int(last))


def check_names(config: Config) -> None:
    """Raises ConfigError if a setting names what its registry lacks, a tracker that is missing, or an unusable URL."""
    as_location(config.run_dir)  # before anything prints it: a URL may hold a password
    for key, registry in REGISTRIES.items():
        section, name = key.split(".")
        pick(dict.fromkeys(registry_keys(*registry)), getattr(getattr(config, section), name), key)
    require_trackers(config)


def check_files(config: Config, *, resume: str, dry_run: bool) -> int:
    """Checks the first weights, the data set, the run folder and the checkpoint of a run of a single process.

    Several processes find these mistakes together, after they have met, so that none waits for one that has ended.

    Returns:
        The number of samples of the data set; 0 if that is not known yet.

    Raises:
        ConfigError, ManifestError, CheckpointError: the run cannot start.
    """
    url, folder = run_url(config), run_folder(config)
    if url is None and (dry_run or is_new(folder, resume=resume)):
        check_sources(config)
    samples = check_training_data(config)
    if not dry_run and url is None and resume == "never":
        require_new(folder)
    elif not (dry_run or resume in ("never", "auto") or isinstance(as_location(resume), RemotePath)):
        require_some_checkpoint(Path(resume))
    return samples
