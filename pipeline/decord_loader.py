"""The reference loader: raw videos through decord, PyAV, torch and torchaudio, as people do it today.

It carries out the same plans as the DALI loader and is written to be read, not to be fast: the DALI loader is tested
and measured against it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import av
import av.error
import decord
import numpy as np
import torch
from torch.nn.functional import interpolate

from config import Config
from pipeline.bad_samples import SampleError
from pipeline.batch import VIDEO_MEAN, VIDEO_STD, Batch
from pipeline.batch_plan import BatchPlan
from pipeline.clip_loader import ClipLoader, decode_threads
from pipeline.clips import ClipPlan
from pipeline.log_mel import LogMel
from pipeline.raw_dataset import RawDataset

SEEK_BACK_SECONDS = 1.0
"""Audio is decoded from this much before the window: codecs need a run-up, and seeking lands near its aim only."""


class RawVideoError(SampleError):
    """A raw video could not be decoded; the message names the file."""


class DecordLoader(ClipLoader):
    """Clips straight from a folder of videos; threads decode data.prefetch batches ahead. See `make_loader`.

    Raises:
        ConfigError: data.path holds no usable video, or as ClipLoader.
    """

    def __init__(
        self, *, config: Config, device: str | torch.device = "cpu", rank: int = 0, world_size: int = 1
    ) -> None:
        dataset = RawDataset(
            root=config.data.path,
            labels=config.data.labels,
            fps=config.clip.fps,
            sample_rate=config.audio.sample_rate,
        )
        super().__init__(
            config=config, dataset=dataset, fps=config.clip.fps, device=device, rank=rank, world_size=world_size
        )
        self._log_mel = LogMel(config.audio)
        self._pool = ThreadPoolExecutor(decode_threads(config.data.threads), thread_name_prefix="decord")

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
        """Clip b of the batch, or the one that takes its place."""
        while True:
            try:
                return future.result()
            except RawVideoError as error:
                batch.replace({b: error})
                future = self._pool.submit(self._clip, batch.plan, b)

    def _collate(self, plan: ClipPlan, clips: list[tuple[torch.Tensor, torch.Tensor | None]]) -> Batch:
        video = torch.stack([video for video, _ in clips]).contiguous(memory_format=torch.channels_last_3d)
        audio = torch.stack([audio for _, audio in clips]).to(self.device) if self.has_audio else None
        return Batch(
            video=video.to(self.device), audio=audio, ids=torch.from_numpy(plan.ids), start=torch.from_numpy(plan.start)
        )

    def _clip(self, plan: ClipPlan, b: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        i = int(plan.ids[b])
        video = self._augmented(self._frames(i, int(plan.start_frame[b])), plan, b)
        if not self.has_audio:
            return video, None
        pcm = self._pcm(int(plan.audio_ids[b]), int(plan.audio_start[b]))
        return video, self._log_mel(pcm).unsqueeze(0)

    def _frames(self, i: int, start_frame: int) -> torch.Tensor:
        """uint8 [T, H, W, 3], the frames nearest to the clip's times; the last one again after the end."""
        clip = self.config.clip
        wanted = np.minimum(start_frame + np.arange(clip.frames), self.dataset.frames[i] - 1) / clip.fps
        try:
            # Not kept open: decord's readers hold memory that grows with use.
            reader = decord.VideoReader(self._path(i), num_threads=1)
            shown_at = reader.get_frame_timestamp(range(len(reader)))[:, 0]
            return torch.from_numpy(reader.get_batch(_nearest(shown_at, wanted).tolist()).asnumpy())
        except (decord.DECORDError, RuntimeError, IndexError, ValueError) as error:
            # decord's FFmpeg knows no AV1 and trips over some MPEG-2 and very small pictures.
            frames = _frames_with_av(self._path(i), wanted)
            if frames is None:
                raise self._error(i, "decord cannot decode the video", error) from error
            return frames

    def _augmented(self, frames: torch.Tensor, plan: ClipPlan, b: int) -> torch.Tensor:
        """float32 [3, T, H, W]: crop, resize, flip, colour, normalisation."""
        top, left, height, width = plan.window[b].tolist()
        window = frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2).float() / 255
        size = (self.config.clip.size, self.config.clip.size)
        pictures = interpolate(window, size=size, mode="bilinear", antialias=True)
        if plan.flip[b]:
            pictures = pictures.flip(-1)
        color = torch.from_numpy(plan.color[b]).float()
        pictures = torch.einsum("dc,tchw->dthw", color[:, :3], pictures) + color[:, 3].view(3, 1, 1, 1)
        return (pictures - torch.tensor(VIDEO_MEAN).view(3, 1, 1, 1)) / torch.tensor(VIDEO_STD).view(3, 1, 1, 1)

    def _pcm(self, i: int, start: int) -> torch.Tensor:
        """float32 [audio_samples] in [-1, 1], the window from PCM sample `start` on, silence where there is none."""
        rate, length = self.config.audio.sample_rate, self.config.audio_samples
        window = np.zeros(length, dtype=np.int16)
        origin = self.dataset.headers[i].origin
        try:
            with av.open(self._path(i), metadata_errors="replace") as container:
                stream = container.streams.audio[0]
                if stream.codec_context is None:  # PyAV would crash
                    raise ValueError("FFmpeg has no decoder for it")
                seek_to = origin + start / rate - SEEK_BACK_SECONDS
                # In an MPEG program stream a seek lands in the middle of a sound packet, which does not decode.
                if seek_to > origin and container.format.name != "mpeg":
                    container.seek(int(seek_to / stream.time_base), stream=stream)
                resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
                place = None
                for frame in container.decode(stream):
                    if place is None:
                        place = round((frame.time - origin) * rate) - start
                    for resampled in resampler.resample(frame):
                        place = _paste(window, resampled.to_ndarray()[0], place)
                    if place >= length:
                        break
        except (av.error.FFmpegError, IndexError, TypeError, ValueError, OverflowError) as error:
            raise self._error(i, "PyAV cannot decode the audio", error) from error
        return torch.from_numpy(window).float() / 32768

    def _error(self, i: int, what: str, error: Exception) -> RawVideoError:
        found = " ".join(str(error).split())
        return RawVideoError(f"{what} of {self._path(i)}: {found}", sample=i, file=self._path(i), reason=what)

    def _path(self, i: int) -> str:
        return str(self.dataset.sources[i].path)


def _nearest(shown_at: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """int64 [T], index of the frame nearest to each time (seconds after the first frame), the earlier one of two."""
    shown_at = shown_at - shown_at[0]
    after = np.searchsorted(shown_at, wanted).clip(1, max(len(shown_at) - 1, 1))
    nearer_before = wanted - shown_at[after - 1] <= shown_at[after.clip(max=len(shown_at) - 1)] - wanted
    return np.where(nearer_before, after - 1, after).clip(max=len(shown_at) - 1)


def _frames_with_av(path: str, wanted: np.ndarray) -> torch.Tensor | None:
    """As `DecordLoader._frames`; None for what PyAV cannot decode either, and for turned pictures."""
    frames = []
    try:
        with av.open(path, metadata_errors="replace") as container:
            for frame in container.decode(video=0):
                if frame.rotation:
                    return None
                frames.append(frame)
                if frame.time - frames[0].time > wanted[-1] + 1:
                    break
        chosen = _nearest(np.array([frame.time for frame in frames]), wanted)
        return torch.from_numpy(np.stack([frames[k].to_ndarray(format="rgb24") for k in chosen]))
    except (av.error.FFmpegError, OSError, IndexError, TypeError, ValueError):
        return None


def _paste(window: np.ndarray, samples: np.ndarray, place: int) -> int:
    """Writes `samples` at `place` as far as they lie within the window; returns the place after them."""
    first, last = max(place, 0), min(place + len(samples), len(window))
    if first < last:
        window[first:last] = samples[first - place : last - place]
    return place + len(samples)
