"""The active dictionary of one modality: pool, selection rule and dictionary in one module with one state_dict."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from common.randomness import torch_generator
from sampler import build_sampler
from sampler.base import Candidates
from sampler.d2.distance import squared_norms
from sampler.gradient import gradient_factors
from sampler.key_ring import Dictionary, KeyRing, Pool
from sampler.quality import near_duplicate_share, phi
from settings import DictionaryConfig, PoolConfig, SamplerConfig
from settings.errors import ConfigError


class ActiveDictionary(nn.Module):
    """The negatives of one modality, selected from a pool by the rule `sampler.name`.

    Every random number is a function of (seed, purpose, step): there is no generator state to save, and all ranks that
    receive the same inputs hold the same dictionary. `state_dict` holds pool, dictionary and their write positions.
    """

    def __init__(
        self,
        *,
        sampler: SamplerConfig,
        pool: PoolConfig,
        dictionary: DictionaryConfig,
        dim: int,
        temperature: float,
        hidden: int | None = None,
        seed: int = 0,
        purpose: str = "",
        per_sample: int = 1,
        partners: bool = False,
    ) -> None:
        """
        Args:
            sampler: selection rule, its options and the embedding that it measures distances in.
            pool: size and source of the pool.
            dictionary: size of the dictionary, or that all keys of the pool are negatives.
            dim: D, number of dimensions of keys and queries.
            temperature: τ of the loss; `sampler.temperature` replaces it in the scores, if set.
            hidden: H, number of inputs of the query head's last layer; needed by the embeddings gradient and
                negative_gradient, None otherwise.
            seed: seed of the run.
            purpose: name that distinguishes the dictionaries of one run ("video", "audio").
            per_sample: n, the number of clips that a sample has: clip id // n is the sample id.
            partners: whether the dictionary also holds its clips' keys of the other modality.

        Raises:
            ConfigError: the sampler or an option is unknown, or the embedding needs `hidden` and it is None.
        """
        super().__init__()
        if hidden is None and sampler.embedding in ("gradient", "negative_gradient"):
            raise ConfigError(
                f"sampler.embedding={sampler.embedding} needs the input of the query head's last layer; "
                "without it use query_gradient or feature"
            )
        self.config, self.pool_config = sampler, pool
        self.sampler = build_sampler(sampler.name, sampler.options)
        self.temperature = temperature if sampler.temperature is None else sampler.temperature
        self.seed, self.purpose, self.per_sample = seed, purpose, per_sample
        self.pool = Pool(size=pool.size, dim=dim)
        self.dictionary = (
            None if dictionary.whole_pool else Dictionary(size=dictionary.size, dim=dim, partners=partners)
        )
        # The last selection: its candidates, its picks (int64 rows) and the value of pool.written at that time.
        self._last: tuple[Candidates, Tensor, int] | None = None

    @property
    def negatives(self) -> KeyRing:
        """The rows that the loss takes as negatives."""
        return self.pool if self.dictionary is None else self.dictionary

    @property
    def keys(self) -> Tensor:
        """[K, D] float32 negatives."""
        return self.negatives.keys

    @property
    def ids(self) -> Tensor:
        """[K] int64 clip ids of the negatives; -1 marks an empty row, which must be masked in the loss."""
        return self.negatives.ids

    def excluded(self, ids: Tensor) -> Tensor:
        """Returns which rows are not negatives of the clips `ids`, [B, K] bool: empty ones, and clips of their sample.

        Args:
            ids: [B] int64 clip ids.
        """
        own = (self.ids // self.per_sample)[None, :] == (ids // self.per_sample)[:, None]
        return (self.ids < 0)[None, :] | own

    @torch.no_grad()
    def fill(self, keys: Tensor, ids: Tensor, partners: Tensor | None = None) -> None:
        """Replaces the pool with n keys of random clips; a dictionary that is still empty is filled from them too.

        Args:
            keys: [n, D], n <= pool.size.
            ids: [n] int64, all different.
            partners: [n, D] keys of the other modality; needed if the dictionary holds them.
        """
        self.pool.replace(keys, ids)
        if self.dictionary is not None and not (self.dictionary.ids >= 0).any():
            rows = torch.randperm(len(ids), generator=self._generator("fill", 0))[: len(self.dictionary)]
            rows = rows.to(keys.device)
            self.dictionary.enqueue(keys[rows], ids[rows.to(ids.device)], None if partners is None else partners[rows])

    @torch.no_grad()
    def update(
        self,
        queries: Tensor,
        hidden: Tensor | None,
        *,
        batch_ids: Tensor,
        step: int,
        positives: Tensor | None = None,
        partners: Tensor | None = None,
    ) -> dict[str, float | Tensor]:
        """Selects M keys from the pool and enqueues them in the dictionary; call it before the step's loss.

        Selects nothing if all keys of the pool are negatives.

        Clips of the batch's samples, and clips that remain in the dictionary, are not eligible. With `every_n_steps` =
        n, n·M keys are selected at every n-th step and none at the others.

        Args:
            queries: [M, D] queries of the batch in the *other* modality.
            hidden: [M, H] input of the last layer of that modality's query head; None if the embedding does not use it.
            batch_ids: [M] int64 clip ids of the batch.
            step: global step of the run.
            positives: [M, D] keys of the queries' own clips, used by negative_gradient, key_gradient and samplers that
                need Candidates.outrank_fraction.
            partners: [N, D] keys of the pool's clips in the other modality; needed if the dictionary holds them.

        Returns:
            Metrics as plain numbers and 0-d tensors; empty at the steps that select nothing.
        """
        if self.dictionary is None or step % self.config.every_n_steps:
            return {}
        if self.ids.is_cuda:
            # So that `seconds` excludes the encoders' pending kernels; the selection would wait for them anyway.
            torch.cuda.current_stream(self.ids.device).synchronize()
        started = time.perf_counter()
        k = min(len(queries) * self.config.every_n_steps, len(self.dictionary))
        retained = self.dictionary.retained(k)
        in_batch = all_clips_of(batch_ids.to(self.ids.device), self.per_sample)
        allowed = allowed_rows(self.pool.ids, self.ids[retained], in_batch)
        negatives = self._negatives(allowed)
        embed = partial(self._embed, queries=queries, hidden=hidden, positives=positives, negatives=negatives)
        candidates = embed(self.pool, allowed)
        selection = self.sampler.select(
            candidates,
            k,
            generator=self._generator("select", step),
            dictionary=embed(self.dictionary, retained) if self.config.condition_on_dictionary else None,
        )
        self._last = candidates, selection.indices, self.pool.written
        picks = selection.indices
        self.dictionary.enqueue(
            self.pool.keys[picks], self.pool.ids[picks], None if partners is None else partners[picks]
        )
        if self.pool_config.remove_selected:
            self.pool.evict(picks)
        return {
            **selection.stats,
            "seconds": time.perf_counter() - started,
            "distinct_ids": (self.dictionary.ids >= 0).sum(),
        }

    @torch.no_grad()
    def add(self, keys: Tensor, ids: Tensor) -> None:
        """Adds the batch's keys to a stream pool after the step; a pool of source epoch does not change.

        Args:
            keys: [M, D] keys from the momentum encoder.
            ids: [M] int64, all different.
        """
        if self.pool_config.source == "stream":
            self.pool.add(keys, ids)

    @torch.no_grad()
    def diagnostics(self, labels: Tensor | None = None) -> dict[str, float]:
        """Measures the dictionary and the last selection; costs about as much as a selection.

        Args:
            labels: [n] int64 class of each sample id, -1 = unknown; if None, no classes are counted.

        Returns:
            distinct_ids and, with labels, distinct_classes of the dictionary. Once there has been a selection, also phi
            of the last one (divided by the pool's sum of squared norms) and near_duplicates (as a share of its picks).
        """
        ids = self.ids[self.ids >= 0]
        found = {"distinct_ids": float(len(ids))}
        if labels is not None:
            classes = labels.to(ids.device)[ids // self.per_sample]
            found["distinct_classes"] = float(len(classes[classes >= 0].unique()))
        if self._last is not None:
            candidates, picks, written = self._last
            # Rows that the pool has overwritten since then no longer hold the key that they were selected by.
            unchanged = self.pool.write_index < written
            candidates, picks = replace(candidates, valid=candidates.valid & unchanged), picks[unchanged[picks]]
            usable = candidates.rows(candidates.valid)
            norms = squared_norms(usable)
            total = float(norms[torch.isfinite(norms)].sum(dtype=torch.float64))
            found["phi"] = phi(candidates, picks) / total if total > 0 and len(picks) else 0.0
            found["near_duplicates"] = near_duplicate_share(candidates, picks)
        return found

    def get_extra_state(self) -> dict[str, Tensor]:
        """Returns the state that the sampler keeps between steps (the quantiser of an index)."""
        return self.sampler.state_dict() if hasattr(self.sampler, "state_dict") else {}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        if hasattr(self.sampler, "load_state_dict"):
            self.sampler.load_state_dict(state)

    def _negatives(self, allowed: Tensor) -> Tensor | None:
        """Returns the keys in the softmax that the embedding needs, [n, D].

        None for the other embeddings, because the indexing makes the host wait for the GPU.

        Args:
            allowed: [N] bool, the rows of the pool that may be picked.
        """
        if self.config.embedding == "negative_gradient":
            return self.keys[self.ids >= 0]
        return self.pool.keys[allowed] if self.config.embedding == "key_gradient" else None

    def _embed(
        self,
        ring: KeyRing,
        valid: Tensor,
        *,
        queries: Tensor,
        hidden: Tensor | None,
        positives: Tensor | None,
        negatives: Tensor | None,
    ) -> Candidates:
        factors = gradient_factors(
            ring.keys,
            queries.float(),
            None if hidden is None else hidden.float(),
            embedding=self.config.embedding,
            temperature=self.temperature,
            positives=None if positives is None else positives.float(),
            negatives=negatives,
        )
        return Candidates(**vars(factors), ids=ring.ids, valid=valid, write_index=ring.write_index)

    def _generator(self, purpose: str, step: int) -> torch.Generator:
        return torch_generator(f"{self.seed}/{self.purpose}/{purpose}/{step}")


def allowed_rows(ids: Tensor, *excluded: Tensor) -> Tensor:
    """Returns which candidates a sampler may pick, [N] bool.

    A clip of the batch among the negatives would be a positive treated as a negative, and a clip that is in the
    dictionary twice would be counted twice.

    Args:
        ids: [N] int64 clip ids of the candidates; -1 marks an empty row, which is not allowed.
        excluded: int64 clip ids that are not allowed, in 1-D tensors of any length.
    """
    return (ids >= 0) & ~torch.isin(ids, torch.cat(excluded))


def all_clips_of(ids: Tensor, per_sample: int) -> Tensor:
    """Returns the ids of all clips of the samples of some clips: from [M] int64 to [M * per_sample]."""
    clips = torch.arange(per_sample, device=ids.device)
    return (ids.div(per_sample, rounding_mode="floor")[:, None] * per_sample + clips).flatten()
