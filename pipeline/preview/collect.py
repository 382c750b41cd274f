"""Loads the clips to draw: with the DALI loader and, for comparison, with the decord loader."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.terminal import printable
from pipeline.batch import Batch, pixels
from pipeline.lists.spans import split_fragment
from pipeline.load.clip_loader import ClipLoader
from pipeline.load.dali_loader import DaliLoader
from pipeline.load.reference.decord_loader import DecordLoader
from pipeline.plan.clips import ClipPlan
from pipeline.plan.order import global_order
from pipeline.preview.contact_sheet import ShownClip, View
from settings import Config
from settings.errors import ConfigError


def collect(config: Config, ids: Sequence[int], *, count: int, epoch: int, compare: Path | None) -> list[ShownClip]:
    """Loads the training clips of `ids` or, if there are none, of the first `count` samples of the epoch.

    Data sets that lack a stream cannot be trained on; for them this loads test clips.

    Args:
        config: data.path holds the shards.
        ids: samples to show; may be empty.
        count: number of samples if `ids` is empty.
        epoch: selects the random numbers, and the order of samples.
        compare: folder of the raw videos that were prepared; None omits the decord loader.

    Raises:
        ConfigError, ManifestError, SampleError, ValueError: the message says what is wrong.
    """
    chosen = len(ids) or count
    # Show exactly the requested samples: here a bad sample is an error, not replaced.
    data = replace(config.data, max_bad_fraction=0.0, idle_priority=False)
    per_sample = config.clip.per_sample
    loader = DaliLoader(config=replace(config, data=data), batch_size=chosen * per_sample)
    first = loader.samples[global_order(len(loader.samples), seed=config.seed, epoch=epoch, last=count)]
    shown = np.asarray(ids if len(ids) else first, dtype=np.int64)
    if loader.has_video and loader.has_audio:
        (batch,) = loader.clips(shown, epoch=epoch, purpose="train", per_sample=per_sample)
    else:
        (batch,) = loader.uniform_clips(shown, clips=1)
    plan = batch.plan
    assert plan is not None  # every loader sets it
    pcm = loader.waveforms(plan) if loader.has_audio else [None] * len(plan)
    batches = {"dali": batch}
    if compare is not None:
        batches["decord"] = _raw_batch(config, loader, plan, compare)
    return [
        ShownClip(
            title=_title(loader, plan, b),
            start=float(plan.start[b]),
            frame_seconds=1 / config.clip.fps,
            audio_start=plan.audio_start[b] / config.audio.sample_rate,
            pcm=pcm[b],
            sample_rate=config.audio.sample_rate,
            hop_seconds=config.audio.hop / config.audio.sample_rate,
            views=[_view(name, batch, b, config) for name, batch in batches.items()],
        )
        for b in range(len(plan))
    ]


def _raw_batch(config: Config, loader: DaliLoader, plan: ClipPlan, videos: Path) -> Batch:
    """Carries out the same plan with the decord loader on the source videos of the prepared samples."""
    names = [loader.dataset.source(int(i)) for i in plan.ids]
    audio_names = [loader.dataset.source(int(i)) for i in plan.audio_ids]
    mixed = plan.audio.mixed_ids if plan.audio is not None else None
    mixed_names = [] if mixed is None else [loader.dataset.source(int(i)) for i in mixed]
    with tempfile.TemporaryDirectory() as folder:
        # Link only these videos into a folder, because `videos` may hold a million files, some of them rejected.
        link_of = {}
        for number, name in enumerate(sorted({*names, *audio_names, *mixed_names})):
            if split_fragment(name)[1]:
                raise ConfigError(
                    f"--compare shows only whole files, but {printable(name)} was cut from one: leave --compare out"
                )
            if not (videos / name).is_file():
                raise ConfigError(f"--compare {videos} holds no {name}; give the folder the shards were prepared from")
            link_of[name] = f"{number}{Path(name).suffix}"
            Path(folder, link_of[name]).symlink_to((videos / name).resolve())
        data = config.data.without_split(path=folder, loader="decord", labels="")
        # Nothing is drawn here: the plan is given, with its augmentation.
        raw = DecordLoader(config=replace(config.for_evaluation(), data=data), batch_size=len(plan))
        id_of = {raw.dataset.source(i): i for i in range(len(raw.dataset))}
        for name, link in link_of.items():
            if link not in id_of:
                raise ConfigError(f"--compare: {videos / name} can no longer be read as a video")
        ids = np.array([id_of[link_of[name]] for name in names])
        audio = plan.audio
        if audio is not None and mixed is not None:
            audio = replace(audio, mixed_ids=np.array([id_of[link_of[name]] for name in mixed_names]))
        translated = replace(
            plan,
            ids=ids,
            audio_ids=np.array([id_of[link_of[name]] for name in audio_names]),
            audio=audio,
            window=_scaled_windows(plan, loader, raw, ids),
        )
        (batch,) = raw.carry_out(translated)
    return batch


def _scaled_windows(plan: ClipPlan, loader: ClipLoader, raw: ClipLoader, raw_ids: np.ndarray) -> np.ndarray:
    """The plan's crop windows, scaled to pixels of the raw videos, int64 [B, 4]."""
    y = raw.dataset.height[raw_ids] / loader.dataset.height[plan.ids]
    x = raw.dataset.width[raw_ids] / loader.dataset.width[plan.ids]
    return np.rint(plan.window * np.stack([y, x, y, x], axis=1)).astype(np.int64)


def _view(name: str, batch: Batch, b: int, config: Config) -> View:
    """Clip `b` of a batch, without the normalisation."""
    frames = decibels = None
    if batch.video is not None:
        frames = pixels(batch.video[b])
    if batch.audio is not None:
        decibels = batch.audio[b, 0].numpy() * config.audio.std_db + config.audio.mean_db
    return View(loader=name, frames=frames, decibels=decibels)


def _audio_changes(plan: ClipPlan, b: int) -> list[str]:
    """The audio augmentation of clip `b`; its masks are visible anyway."""
    audio, parts = plan.audio, []
    if audio is not None and audio.gain is not None:
        parts.append(f"gain {20 * np.log10(audio.gain[b]):+.1f} dB")
    if audio is not None and audio.mixed_ids is not None and audio.mixed_share is not None:
        parts.append(f"mixed with {audio.mixed_share[b]:.0%} of #{audio.mixed_ids[b]}")
    return parts


def _title(loader: DaliLoader, plan: ClipPlan, b: int) -> str:
    """The title of clip `b`: id, source, labels, and the augmentation that was applied."""
    dataset, i = loader.dataset, int(plan.ids[b])
    top, left, height, width = plan.window[b].tolist()
    parts = [f"#{i} {dataset.source(i)}"]
    for column in dataset.label_columns:
        code = int(dataset.labels(column)[i])
        if code >= 0:
            parts.append(f"{column}={dataset.label_names(column)[code]}")
    if loader.has_video:
        parts.append(f"crop {width} x {height} at ({left}, {top}) of {dataset.width[i]} x {dataset.height[i]}")
        if plan.flip[b]:
            parts.append("flipped")
        # The colour map of a grey clip has equal rows.
        if np.allclose(plan.color[b, 1:], plan.color[b, :1]):
            parts.append("grey")
    if plan.audio_ids[b] != i:
        parts.append(f"audio of #{plan.audio_ids[b]}")
    if plan.number[b]:
        parts.append(f"clip {plan.number[b] + 1}")
    parts += _audio_changes(plan, b)
    # File names may contain any character; a line break would disturb the layout.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in "   ".join(parts))
