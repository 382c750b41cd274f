"""The reference loader: loads raw videos with decord, PyAV, torch and torchaudio, which is common practice.

It carries out the same plans as the DALI loader and is written for clarity, not for speed: the DALI loader is tested
and benchmarked against it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from pipeline.batch import VIDEO_MEAN, VIDEO_STD, Batch
from pipeline.load.clip_loader import ClipLoader, decode_threads
from pipeline.load.log_mel import LogMel
from pipeline.load.reference.processes import call_in_process
from pipeline.load.reference.raw_dataset import RawDataset
from pipeline.load.reference.raw_decoding import decode_frames, decode_pcm
from pipeline.plan.audio_augment import waveforms
from pipeline.plan.bad_samples import SampleError
from pipeline.plan.batch_plan import BatchPlan
from pipeline.plan.clips import ClipPlan
from settings import Config


class RawVideoError(SampleError):
    """A raw video could not be decoded; the message names the file."""


class DecordLoader(ClipLoader[RawDataset]):
    """Loads clips from a folder of raw videos; threads prepare data.prefetch batches ahead. See `make_loader`.

    Files are opened and decoded in separate processes only, because some damaged files abort decord's process.

    Raises:
        ConfigError: data.path holds no usable video; also as for ClipLoader.
    """

    def __init__(
        self,
        *,
        config: Config,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
        dataset: RawDataset | None = None,
    ) -> None:
        dataset = self.open_dataset(config) if dataset is None else dataset
        super().__init__(
            config=config,
            dataset=dataset,
            fps=config.clip.fps,
            device=device,
            rank=rank,
            world_size=world_size,
            batch_size=batch_size,
        )
        self._log_mel = LogMel(config.audio)
        self._pool = ThreadPoolExecutor(decode_threads(config.data.threads), thread_name_prefix="decord")

    @staticmethod
    def open_dataset(config: Config) -> RawDataset:
        """Opens the data set at data.path."""
        return RawDataset(
            root=config.data.path,
            labels=config.data.labels,
            fps=config.clip.fps,
            sample_rate=config.audio.sample_rate,
            workers=decode_threads(config.data.threads),
        )

    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        pending: deque[tuple[BatchPlan, list[Future]]] = deque()

        def submit_next() -> None:
            batch = next(plans, None)
            if batch is not None:
                rows = range(len(batch.plan))
                pending.append((batch, [self._pool.submit(self._clip, batch.plan, b) for b in rows]))

        try:
            for _ in range(self.config.data.prefetch):
                submit_next()
            while pending:
                clips = [self._result(pending[0][0], b, future) for b, future in enumerate(pending[0][1])]
                batch, _ = pending.popleft()
                submit_next()
                self.bad_samples.note(batch.bad)
                yield self._collate(batch.plan, clips)
        finally:
            for _, futures in pending:
                for future in futures:
                    future.cancel()

    def _result(self, batch: BatchPlan, b: int, future: Future) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Waits for clip b of the batch, or for its replacement."""
        while True:
            try:
                return future.result()
            except RawVideoError as error:
                batch.replace({b: error})
                future = self._pool.submit(self._clip, batch.plan, b)

    def _collate(self, plan: ClipPlan, clips: list[tuple[torch.Tensor, torch.Tensor | None]]) -> Batch:
        video = torch.stack([video for video, _ in clips]).contiguous(memory_format=torch.channels_last_3d)
        spectrograms = [audio for _, audio in clips if audio is not None]
        audio = torch.stack(spectrograms).to(self.device) if self.has_audio else None
        assert len(spectrograms) == (len(clips) if self.has_audio else 0)
        return Batch.of_plan(plan, video=video.to(self.device), audio=audio)

    def _clip(self, plan: ClipPlan, b: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Loads clip b of a plan: video float32 [3, T, H, W], and log-mel float32 [1, n_mels, F] if there is audio."""
        i = int(plan.ids[b])
        video = self._augmented(self._frames(i, int(plan.start_frame[b])), plan, b)
        if not self.has_audio:
            return video, None
        clip = plan[b : b + 1]
        (pcm,) = waveforms(clip.audio, (clip.audio_ids, clip.audio_start), self._windows)
        return video, self._log_mel(torch.from_numpy(pcm).float() / 32768).unsqueeze(0)

    def _frames(self, i: int, start_frame: int) -> torch.Tensor:
        """Decodes the frames nearest to the clip's times, uint8 [T, H, W, 3]; past the end, the last is repeated."""
        clip = self.config.clip
        wanted = np.minimum(start_frame + np.arange(clip.frames), self.dataset.frames[i] - 1) / clip.fps
        arguments = {"wanted": wanted, "is_upright": self.dataset.headers[i].is_upright}
        what = "decord cannot decode the video"
        frames = self._decoded(i, what, decode_frames, **arguments)
        height, width = self.dataset.height[i], self.dataset.width[i]
        if frames.shape[1:3] != (height, width):  # a damaged file; the crop is planned for the header's size
            found = f"frames of {frames.shape[2]} x {frames.shape[1]} pixels, though the first has {width} x {height}"
            raise self._error(i, what, ValueError(found))
        return torch.from_numpy(frames)

    def _augmented(self, frames: torch.Tensor, plan: ClipPlan, b: int) -> torch.Tensor:
        """Crops, resizes, flips, colours and normalises: uint8 [T, H, W, 3] to float32 [3, T, size, size]."""
        top, left, height, width = plan.window[b].tolist()
        window = frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2).float() / 255
        size = (self.config.clip.size, self.config.clip.size)
        video = interpolate(window, size=size, mode="bilinear", antialias=True)
        if plan.flip[b]:
            video = video.flip(-1)
        color = torch.from_numpy(plan.color[b]).float()
        video = torch.einsum("dc,tchw->dthw", color[:, :3], video) + color[:, 3].view(3, 1, 1, 1)
        return (video - torch.tensor(VIDEO_MEAN).view(3, 1, 1, 1)) / torch.tensor(VIDEO_STD).view(3, 1, 1, 1)

    def _windows(self, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Decodes the windows from PCM samples `starts`, int16 [B, audio_samples]; silent without audio."""
        window = {"rate": self.config.audio.sample_rate, "length": self.config.audio_samples}
        what, headers = "PyAV cannot decode the audio", self.dataset.headers
        return np.stack(
            [
                self._decoded(i, what, decode_pcm, origin=headers[i].origin, start=start, **window)
                for i, start in zip(ids.tolist(), starts.tolist(), strict=True)
            ]
        )

    def _decoded(self, i: int, what: str, decode: Callable[..., np.ndarray], **arguments: Any) -> np.ndarray:
        """Calls `decode` on the file of sample i in another process, which the file may crash or hang."""
        try:
            return call_in_process(decode_threads(self.config.data.threads), decode, self._path(i), **arguments)
        except ValueError as error:
            raise self._error(i, what, error) from None

    def _error(self, i: int, what: str, error: BaseException) -> RawVideoError:
        found = " ".join(str(error).split())
        return RawVideoError(f"{what} of {self._path(i)}: {found}", sample=i, file=self._path(i), reason=what)

    def _path(self, i: int) -> str:
        return str(self.dataset.sources[i].path)
