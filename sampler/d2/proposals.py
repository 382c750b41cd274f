"""Drawing rows from a law that changes every round, on one process or sharded over several.

Rows are summed in chunks of fixed size: the chunk sums, a few thousand numbers, are all that ranks need to agree on
which rows are proposed. A shard is a run of whole chunks, so every sum and every product is computed on the same rows
whatever the number of ranks, and the picks are the same bit for bit.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from sampler.base import Candidates

CHUNK = 2048
"""Rows that are summed, and on a CPU multiplied, together: what stays in the cache, and a multiple of every tile."""


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Drawn rows with all that deciding on them needs."""

    index: Tensor
    """[B] int64 rows of the whole pool."""
    rows: Candidates
    norms: Tensor
    """[B] float32 |g|²."""
    bound: Tensor
    """[B] float32, the weight they were drawn with."""


class Shard:
    """The rows that this process looks after: all of them, or with `group` its share of whole chunks."""

    def __init__(self, count: int, *, sharded: bool = False) -> None:
        self.sharded = sharded and dist.is_initialized() and dist.get_world_size() > 1
        chunks = -(-count // CHUNK)
        self.count, self.first_chunk, self.last_chunk = count, 0, chunks
        if self.sharded:
            rank, world = dist.get_rank(), dist.get_world_size()
            self._limits = [chunks * r // world for r in range(world + 1)]
            self.first_chunk, self.last_chunk = self._limits[rank], self._limits[rank + 1]

    @property
    def rows(self) -> slice:
        """This process's rows of the whole pool."""
        return slice(min(self.first_chunk * CHUNK, self.count), min(self.last_chunk * CHUNK, self.count))

    def gather_rows(self, local: Tensor) -> Tensor:
        """[n_local] of every process, one after the other: [N]. Before the first round only."""
        if not self.sharded:
            return local
        return self._gather(local, [min(limit * CHUNK, self.count) for limit in self._limits])

    def draw(self, weight: Tensor, uniforms: Tensor, table: Candidates, norms: Tensor) -> Proposals:
        """Rows of the pool drawn with probability proportional to weight, by inversion.

        Args:
            weight: [n_local] at least 0; if all are 0 over all ranks, what is drawn means nothing.
            uniforms: [B] float64, equal on all ranks.
            table: the local rows.
            norms: [n_local] their |g|².
        """
        short = -len(weight) % CHUNK
        padded = torch.nn.functional.pad(weight, (0, short)).view(-1, CHUNK)
        # float64: at a million rows float32 would leave almost half of them an interval of width 0.
        within = padded.cumsum(1, dtype=torch.float64)
        sums = self._gather(within[:, -1], self._limits) if self.sharded else within[:, -1]
        ends = sums.cumsum(0)
        # Just below the total, so that rounding cannot reach past the last row with mass.
        targets = uniforms * (ends[-1] * (1 - 1e-12))
        chunk = torch.searchsorted(ends, targets, right=True).clamp_(max=len(sums) - 1)
        mine = (chunk >= self.first_chunk) & (chunk < self.last_chunk)
        local_chunk = (chunk - self.first_chunk).clamp_(0, max(len(within) - 1, 0))
        inside = targets - (ends[chunk] - sums[chunk])
        offset = torch.zeros_like(chunk)
        if len(within):
            offset = torch.searchsorted(within[local_chunk], inside[:, None], right=True).squeeze(1)
        local = (local_chunk * CHUNK + offset.clamp_(max=CHUNK - 1)).clamp_(max=max(len(weight) - 1, 0))
        return self._fetch(chunk, local, mine, table, norms, weight)

    def _fetch(
        self, chunk: Tensor, local: Tensor, mine: Tensor, table: Candidates, norms: Tensor, weight: Tensor
    ) -> Proposals:
        columns = [table.a, norms[:, None], weight[:, None]] + ([] if table.b is None else [table.b])
        offset = local - (chunk - self.first_chunk) * CHUNK
        if self.sharded:
            picked = [c[local] if len(c) else c.new_zeros(len(local), c.shape[1]) for c in columns]
            packed = torch.cat([*picked, offset[:, None].to(norms)], 1) * mine[:, None]
            dist.all_reduce(packed.nan_to_num_(0.0, 0.0, 0.0))
            *picked, offset = packed.split([*(c.shape[1] for c in columns), 1], 1)
            offset = offset.squeeze(1).long()
        else:
            picked = [c[local] for c in columns]
        index = chunk * CHUNK + offset
        empty = torch.zeros_like(index)
        rows = Candidates(
            a=picked[0], b=picked[3] if len(picked) > 3 else None, ids=empty, valid=empty.bool(), write_index=empty
        )
        return Proposals(index=index, rows=rows, norms=picked[1].squeeze(1), bound=picked[2].squeeze(1))

    def local(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Which of these pool rows are this process's ([B] bool), and their local row numbers ([n] int64)."""
        mine = (index >= self.rows.start) & (index < self.rows.stop)
        return mine, index[mine] - self.rows.start

    def _gather(self, local: Tensor, limits: list[int]) -> Tensor:
        lengths = [stop - start for start, stop in itertools.pairwise(limits)]
        longest = max(lengths)
        buffer = local.new_zeros(longest)
        buffer[: len(local)] = local
        gathered = [torch.empty_like(buffer) for _ in lengths]
        dist.all_gather(gathered, buffer)
        return torch.cat([part[:length] for part, length in zip(gathered, lengths, strict=True)])
