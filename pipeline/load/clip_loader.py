"""The base class of the loaders: selects the samples, orders them and plans their clips."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import torch

from common.environment import available_cores
from common.terminal import printable
from pipeline.batch import Batch
from pipeline.load.sets import Dataset, SelectedSet, select_samples, select_sets, shares_of
from pipeline.plan.bad_samples import BadSamples
from pipeline.plan.batch_plan import BatchPlan, Replacement
from pipeline.plan.clips import ClipPlan, ClipPlanner
from pipeline.plan.mismatched_pairs import MismatchedPairs
from pipeline.plan.mixed_planner import MixedPlanner
from pipeline.plan.mixture import Mixture, WeightedSet
from pipeline.plan.order import ShardOrder, global_order, rank_slice, steps_per_epoch
from pipeline.plan.selection import Selection, all_positive
from pipeline.shards.mix import MixedManifest
from pipeline.suitability import check_sample_rate
from settings import Config
from settings.errors import ConfigError, require
from settings.load import AUTO

BOTH = ("video", "audio")
_PLANNED_TOGETHER = 256
"""Number of clips planned per call, to amortise NumPy's overhead."""
_ORDERED_TOGETHER = 4096
"""Number of samples whose order is computed per call, for the same reason."""


D = TypeVar("D", bound=Dataset)


class ClipLoader(ABC, Generic[D]):
    """Iterates over clips of a data set; see `make_loader`.

    Args:
        config: data, clip, audio, augment, audio_augment, seed and train.batch_size are read.
        dataset: the samples.
        fps: frame rate at which `dataset.frames` counts frames, in frames per second.
        device: device of the video and audio tensors.
        rank, world_size: rank of this process, and number of processes that share the global batch.
        batch_size: clips per global batch; None means train.batch_size.

    Attributes:
        sets: the samples to train on, by data set.
        samples: all of them: those in data.split, without those of data.leave_out and those of weight 0.
        left_out: hash of the sources in data.leave_out; empty without such a list.
        weighed: hash of data.weights; empty without weights.
        mixture: which sample of which data set comes when; None for one data set without weights.
        batch_size: clips per batch of this process, its share of the global batch.
        bad_samples: the unreadable samples of the batches that have been yielded so far.

    Raises:
        ConfigError: settings contradict each other or the data set.
    """

    def __init__(
        self,
        *,
        config: Config,
        dataset: D,
        fps: float,
        device: str | torch.device,
        rank: int,
        world_size: int,
        batch_size: int | None,
    ) -> None:
        self.sets = select_sets(dataset, config.data)
        for one in self.sets:
            check_sample_rate(config, one.dataset.sample_rate, data=config.data.sets[one.key].path)
        self.config = config
        self.dataset = dataset
        self.device = torch.device(device)
        self.has_video, self.has_audio = (all_positive(column) for column in (dataset.frames, dataset.audio_samples))
        self.samples = select_samples(dataset, self.sets)
        self.left_out, self.weighed = (
            "/".join(hashes) if any(hashes) else ""
            for hashes in zip(*((one.left_out_hash, one.weights_hash) for one in self.sets), strict=True)
        )
        self._global_batch = config.train.batch_size if batch_size is None else batch_size
        require(self._global_batch != AUTO, "only train.py chooses train.batch_size=auto: set it to a number")
        self._per_sample = config.clip.per_sample
        self._share = rank_slice(self._global_batch, rank=rank, world_size=world_size, per_sample=self._per_sample)
        self.batch_size = self._share.stop - self._share.start
        fewest = min(self.sets, key=lambda one: len(one.ids))
        require(
            not config.audio_augment.mix or len(fewest.ids) > 1,
            f"audio_augment.mix needs at least two samples, but {config.data.sets[fewest.key].path} has "
            f"{len(fewest.ids)}",
        )
        self.planner = _planner(config, dataset, self.sets, fps=fps)
        self.mixture: Mixture | None = None
        if config.data.mix or self.weighed:
            self.mixture = _mixture(config, self.sets, batch=self._global_batch // self._per_sample)
        self.bad_samples = BadSamples(samples=len(self.samples), max_fraction=config.data.max_bad_fraction)

    @property
    def ids(self) -> np.ndarray:
        """The ids of `samples`, int64 [n], as a new array: 8 bytes per sample, which `samples` does without."""
        return np.asarray(self.samples)

    def __len__(self) -> int:
        """Steps per epoch, the same on all ranks.

        Raises:
            ConfigError: the data set is smaller than one global batch.
        """
        return steps_per_epoch(len(self.samples), self._global_batch, per_sample=self._per_sample)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Like `steps`, for the steps of one epoch from `start_step` (counted from 0) to its end."""
        first = epoch * len(self)
        return self.steps(first + start_step, first + len(self))

    def steps(self, first: int, last: int) -> Iterator[Batch]:
        """Yields this rank's share of the training steps `first` to `last` - 1, counted from the start of the run.

        The clips of a sample (clip.per_sample of them) are next to each other. Reading ahead does not stop at the end
        of an epoch. Samples that cannot be read are replaced by others; see `Batch.ids` and `bad_samples`.

        Raises:
            ConfigError: the data set is smaller than a batch, or samples lack a stream.
            TooManyBadSamples: more samples are bad than data.max_bad_fraction allows (from the iterator).
        """
        if not (self.has_video and self.has_audio):
            self._require_streams(self.ids, BOTH)
        return self._batches(self._step_plans(first, last, length=len(self)))

    def clips(
        self,
        ids: np.ndarray | torch.Tensor,
        *,
        epoch: int,
        purpose: str,
        streams: Sequence[str] = BOTH,
        per_sample: int = 1,
    ) -> Iterator[Batch]:
        """Yields training clips of `ids` in that order, not divided among ranks.

        The last batch may be short. Samples that cannot be read are replaced as in `steps`.

        Args:
            ids: int64 [n].
            epoch, purpose: select the random numbers of the clips.
            streams: the streams that each of `ids` must have.
            per_sample: number of clips of each of `ids`; they are next to each other. It must divide `batch_size`.

        Raises:
            ValueError: the data set has no such id, or `per_sample` does not divide `batch_size`.
            ConfigError: samples lack a stream.
            TooManyBadSamples: as in `steps`.
        """
        ids = self._checked(ids)
        if self.batch_size % per_sample:
            raise ValueError(f"batches of {self.batch_size} clips do not hold {per_sample} clips of each sample")
        self._require_streams(ids, streams)
        blocks = _blocks(ids.repeat(per_sample), self.batch_size)
        return self._batches(self._train_plans(blocks, epoch=epoch, purpose=purpose, per_sample=per_sample))

    def uniform_clips(self, ids: np.ndarray | torch.Tensor, *, clips: int, crops: int = 1) -> Iterator[Batch]:
        """Yields `clips` evenly spaced test clips per id, ordered by id as in `ids`, not divided among ranks.

        Each clip has the centre crop or, with `crops` > 1, is repeated with square crops spread over the frame's longer
        side. The last batch may be short. A stream that the data set lacks is None in the batch. Samples are never
        replaced.

        Raises:
            ValueError: clips or crops is less than 1, or the data set has no such id.
            SampleError: a sample cannot be read (from the iterator).
        """
        for name, value in (("clips", clips), ("crops", crops)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        return self._batches(self._uniform_plans(self._checked(ids), clips, crops))

    def carry_out(self, plan: ClipPlan) -> Iterator[Batch]:
        """Yields the clips of a given plan in batches of `batch_size`; samples are never replaced.

        Raises:
            SampleError: a sample cannot be read (from the iterator).
        """
        return self.carry_out_all([plan])

    def carry_out_all(self, plans: Iterable[ClipPlan]) -> Iterator[Batch]:
        """Like `carry_out` for one plan after the other, without a pause between them.

        The last batch of each plan may be short. `plans` is read ahead, by the loader's reading thread.
        """
        return self._batches(batch for plan in plans for batch in self._in_batches(plan))

    @abstractmethod
    def _batches(self, plans: Iterator[BatchPlan]) -> Iterator[Batch]:
        """Carries out plans of at most `batch_size` clips, in order.

        Bad samples are recorded when their batch is yielded, not when it is read, so that their number at a step does
        not depend on how far the loader has read ahead.
        """

    def _train_plans(
        self, blocks: Iterable[np.ndarray], *, epoch: int, purpose: str, per_sample: int
    ) -> Iterator[BatchPlan]:
        """Plans training clips of `blocks` of ids, in which each id occurs `per_sample` times in a row.

        All blocks have batch_size ids, except possibly the last.
        """
        replacement, blocks = self._replacement(purpose), iter(blocks)
        # Planning a few clips takes as long as planning many, and each call delays the training step.
        while together := list(islice(blocks, self._batches_planned_together)):
            ids = np.concatenate(together)
            plan = self.planner.train(ids, epoch=epoch, purpose=purpose, number=np.arange(len(ids)) % per_sample)
            yield from self._in_batches(plan, replacement)

    @property
    def _batches_planned_together(self) -> int:
        return max(1, _PLANNED_TOGETHER // self.batch_size)

    def _replacement(self, purpose: str) -> Replacement:
        choose = self._any_sample if self.mixture is None else self.mixture.replacement
        return Replacement(planner=self.planner, choose=choose, source=self.dataset.source, purpose=purpose)

    def _any_sample(self, sample: int, number: float) -> int:
        return self.samples[int(number * len(self.samples))]

    def _step_plans(self, first: int, last: int, *, length: int) -> Iterator[BatchPlan]:
        if self.mixture is not None:
            yield from self._mixed_step_plans(self.mixture, first, last)
            return
        while first < last:
            epoch, start = divmod(first, length)
            stop = min(length, start + last - first)
            ids = self._epoch_ids(epoch, range(start, stop))
            yield from self._train_plans(ids, epoch=epoch, purpose="train", per_sample=self._per_sample)
            first += stop - start

    def _mixed_step_plans(self, mixture: Mixture, first: int, last: int) -> Iterator[BatchPlan]:
        replacement, clips = self._replacement("train"), self._per_sample
        mine = np.arange(self._share.start // clips, self._share.stop // clips)
        for start in range(first, last, self._batches_planned_together):
            steps = np.arange(start, min(start + self._batches_planned_together, last))
            ids, passes = mixture.samples((steps[:, None] * mixture.batch + mine).reshape(-1))
            ids, epochs, number = ids.repeat(clips), passes.repeat(clips), np.arange(len(ids) * clips) % clips
            plan = self.planner.train_at(ids, epochs=epochs, purpose="train", number=number)
            yield from self._in_batches(plan, replacement)

    def _epoch_ids(self, epoch: int, steps: range) -> Iterator[np.ndarray]:
        size = self._global_batch // self._per_sample  # in samples, as is the share
        share = slice(self._share.start // self._per_sample, self._share.stop // self._per_sample)
        together = max(1, _ORDERED_TOGETHER // size)
        for begin in range(0, len(steps), together):
            some = steps[begin : begin + together]
            places = self._order(seed=self.config.seed, epoch=epoch, first=some.start * size, last=some.stop * size)
            for batch in places.reshape(len(some), size):
                yield self.samples[batch[share]].repeat(self._per_sample)

    @cached_property
    def _order(self) -> Callable[..., np.ndarray]:
        """Returns a part of the order of `samples` in an epoch, as `global_order` does."""
        if self.config.data.order == "shards":
            return ShardOrder(self.samples, self.dataset.shard, window=self.config.data.window).part
        return partial(global_order, len(self.samples))

    def _uniform_plans(self, ids: np.ndarray, clips: int, crops: int) -> Iterator[BatchPlan]:
        # A block of batch_size samples makes complete batches: only the last block's last batch is short.
        for block in _blocks(ids, self.batch_size):
            plan = self.planner.uniform(block, clips=clips, crops=crops)
            yield from self._in_batches(plan)

    def _in_batches(self, plan: ClipPlan, replacement: Replacement | None = None) -> Iterator[BatchPlan]:
        for first in range(0, len(plan), self.batch_size):
            yield BatchPlan(plan[first : first + self.batch_size], replacement)

    def _checked(self, ids: np.ndarray | torch.Tensor) -> np.ndarray:
        """Returns `ids` as int64 [n], or raises ValueError if one is not in the data set."""
        ids = np.asarray(ids, dtype=np.int64)
        wrong = ids[(ids < 0) | (ids >= len(self.dataset))]
        if len(wrong):
            raise ValueError(f"id {wrong[0]} is not in the data set, which has {len(self.dataset)} samples")
        return ids

    def _require_streams(self, ids: np.ndarray, streams: Sequence[str]) -> None:
        lengths = {"video": self.dataset.frames, "audio": self.dataset.audio_samples}
        for stream in streams:
            lacking = ids[lengths[stream][ids] == 0]
            if len(lacking):
                raise ConfigError(
                    f"training needs {' and '.join(streams)}, but {len(lacking)} of {len(ids)} samples of "
                    f"{self.config.data.where} have no {stream}, the first "
                    f"{printable(self.dataset.source(int(lacking[0])))}: "
                    f"prepare the data with streams={streams[0] if len(streams) == 1 else 'both'}"
                )


def _planner(config: Config, dataset: Dataset, sets: Sequence[SelectedSet], *, fps: float) -> ClipPlanner:
    """Creates the planner of one data set, whose frames are counted at `fps`, or of a mix."""
    planner = MismatchedPairs if config.data.shuffle_pairs else ClipPlanner
    if not isinstance(dataset, MixedManifest):
        return planner(config=config, dataset=dataset, fps=fps, ids=sets[0].ids)
    planners = []
    for one, part in zip(sets, dataset.parts.values(), strict=True):
        try:
            planners.append(planner(config=config, dataset=part, fps=part.storage.fps, ids=one.ids, first_id=one.first))
        except ConfigError as error:
            raise ConfigError(f"{one.key}path={part.root}: {error}") from None
    return MixedPlanner(planners, dataset.firsts)


def _mixture(config: Config, sets: Sequence[SelectedSet], *, batch: int) -> Mixture:
    """Creates the order of the samples, `batch` of which make a global batch."""
    parts = []
    for one, share in zip(sets, shares_of(sets), strict=True):
        arrange = partial(_arranged, config, one) if config.data.order == "shards" else None
        parts.append(
            WeightedSet(key=one.key, ids=one.ids, first=one.first, share=share, weights=one.weights, arrange=arrange)
        )
    return Mixture(parts, batch=batch, seed=config.seed)


def _arranged(config: Config, one: SelectedSet, indices: np.ndarray, epoch: int, purpose: str) -> np.ndarray:
    shards = one.dataset.shard[one.ids[indices]]
    order = ShardOrder(Selection(len(indices)), shards, window=config.data.window)
    return order.part(seed=config.seed, epoch=epoch, purpose=purpose)


def decode_threads(configured: int) -> int:
    """Number of threads: data.threads, or if that is 0 this process's share of the cores that it may run on.

    torchrun sets LOCAL_WORLD_SIZE to the number of processes that share the machine.
    """
    if configured:
        return configured
    return available_cores(processes=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _blocks(ids: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (ids[first : first + size] for first in range(0, len(ids), size))
