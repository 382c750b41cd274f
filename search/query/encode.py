"""Turns the file of a query into a vector, with the encoders whose vectors an index holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from common.finite import require_finite
from common.terminal import printable
from evaluation.features import unit_rows
from pipeline.batch import VIDEO_MEAN, VIDEO_STD
from pipeline.load.log_mel import LogMel
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.workers.pool import WorkerPool, classify_failure
from search.decoding import MAX_PIXELS, MEMORY_MB
from search.encoders import load_encoders
from search.index.folder import SearchIndexError
from search.query.media import Clips, Reading, read_clips
from search.query.request import MODALITY


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query as a vector."""

    modality: str
    vector: np.ndarray
    """float32 [D], of unit length."""
    words: str
    """What the vector was made of, such as "the mean of 4 clips of 1.6 s"."""


class QueryEncoder:
    """The encoders of a run, and the workers that decode files for them; usable from several threads.

    Args:
        run: run folder or checkpoint.
        fingerprint: that of the encoders which made the index.
        workers: the processes that decode files.
        max_seconds: length at which files are cut.
        timeout_seconds: time limit per file.

    Raises:
        CheckpointError, ConfigError: the run cannot be read.
        SearchIndexError: its encoders are others than those of the index.
    """

    def __init__(
        self, run: Path, *, fingerprint: str, workers: WorkerPool, max_seconds: float, timeout_seconds: float
    ) -> None:
        encoders = load_encoders(run)
        if encoders.fingerprint != fingerprint:
            raise SearchIndexError(
                f"the encoders of {printable(run)} are not those of the index, so their vectors cannot be compared: "
                "name the run or checkpoint that made it with --run"
            )
        self._model, self._config = encoders.model, encoders.config
        self._reading = Reading.of(encoders.config, max_seconds=max_seconds, max_pixels=MAX_PIXELS)
        self._log_mel = LogMel(encoders.config.audio)
        self._workers, self._timeout = workers, timeout_seconds

    def encode(self, path: Path, kind: str, *, at: float | None = None) -> Query:
        """Averages the vectors of evenly spaced clips of a file, or encodes the one clip that begins at `at` seconds.

        Args:
            kind: sound, video or picture.

        Raises:
            RejectedSource: the file cannot be used.
            NotFiniteError: the encoder's output is not finite.
        """
        future = self._workers.schedule(read_clips, (path, kind, at, self._reading), timeout=self._timeout)
        error = classify_failure(future.exception(), self._timeout, MEMORY_MB)
        if error is not None:
            raise error
        clips: Clips = future.result()
        embeddings = self._embed(clips)
        require_finite(embeddings, "the embeddings of the query", advice="the run has probably diverged")
        vector = unit_rows(unit_rows(embeddings).mean(axis=0, keepdims=True))[0].astype(np.float32)
        if not vector.any():
            raise RejectedSource("no direction", "the clips of this file cancel each other out; choose one by @seconds")
        return Query(modality=MODALITY[kind], vector=vector, words=self._words(clips, kind, at))

    @torch.no_grad()
    def _embed(self, clips: Clips) -> np.ndarray:
        """Embeddings of the clips, float32 [C, D]."""
        if clips.pcm is not None:
            audio = self._log_mel(torch.from_numpy(clips.pcm).float() / 32768)
            return self._model.query["audio"](audio[:, None]).embedding.numpy()
        assert clips.frames is not None
        size, (count, frames) = self._config.clip.size, clips.frames.shape[:2]
        flat = torch.from_numpy(clips.frames).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        resized = interpolate(flat, size=(size, size), mode="bilinear", antialias=True)
        normal = (resized - torch.tensor(VIDEO_MEAN).view(3, 1, 1)) / torch.tensor(VIDEO_STD).view(3, 1, 1)
        video = normal.view(count, frames, 3, size, size).transpose(1, 2)
        video = video.expand(-1, -1, self._config.clip.frames, -1, -1) if frames == 1 else video
        return self._model.query["video"](video.contiguous(memory_format=torch.channels_last_3d)).embedding.numpy()

    def _words(self, clips: Clips, kind: str, at: float | None) -> str:
        if kind == "picture":
            return "a still picture, as a clip in which nothing moves"
        seconds = self._config.audio_seconds if kind == "sound" else self._config.clip.seconds
        if at is not None or len(clips.starts) == 1:
            return f"the {seconds:.3g} s from {clips.starts[0]:.3g} s on"
        return f"the mean of {len(clips.starts)} clips of {seconds:.3g} s, evenly spaced over {clips.seconds:.3g} s"
