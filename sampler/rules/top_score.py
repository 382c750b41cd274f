"""Rules that rank every candidate by one score and take the best k: `fifo`, `hard`, `ohem` and `grad_norm`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sampler.base import Candidates, Selection, required
from sampler.d2.distance import squared_norms
from sampler.fallbacks import make_selection, top_rows, usable_rows


@dataclass(kw_only=True)
class TopScore:
    """Picks the k usable rows with the largest score, largest first."""

    def score(self, candidates: Candidates, norms: Tensor) -> Tensor:
        """Returns the score of each row, [N] of a floating dtype; `norms` is |g|², [N] float32."""
        raise NotImplementedError

    def select(
        self, candidates: Candidates, k: int, *, generator: torch.Generator, dictionary: Candidates | None = None
    ) -> Selection:
        """Ranks by `score`; draws no random number and ignores the dictionary."""
        norms = squared_norms(candidates)
        usable, invalid = usable_rows(candidates, norms)
        return make_selection(top_rows(self.score(candidates, norms), usable, k), None, k, invalid=invalid)


class Fifo(TopScore):
    """The newest keys, as in the queue of MoCo (He et al., 2020)."""

    def score(self, candidates: Candidates, norms: Tensor) -> Tensor:
        return candidates.write_index.double()


class Hard(TopScore):
    """The largest smooth maximum of the similarity to the batch's queries, as in ANCE (Xiong et al., 2021)."""

    def score(self, candidates: Candidates, norms: Tensor) -> Tensor:
        return required(candidates.similarity, "similarity")


class Ohem(TopScore):
    """The largest cross-entropy against the pseudo-label: online hard example mining (Shrivastava et al., 2016)."""

    def score(self, candidates: Candidates, norms: Tensor) -> Tensor:
        return required(candidates.loss, "loss")


class GradNorm(TopScore):
    """The largest gradient norm |g|."""

    def score(self, candidates: Candidates, norms: Tensor) -> Tensor:
        return norms
